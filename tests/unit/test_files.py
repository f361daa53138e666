import errno
import os
import subprocess
from pathlib import Path

import pytest

from kd_utils import files


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    files.write_json(path, {"a": 1})
    before = path.read_text()

    def full(self, text, **kwargs):
        with open(self, "w") as f:
            f.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(Path, "write_text", full)
        with pytest.raises(files.DiskFull, match=r"record\.json; free some and run the same command again"):
            files.write_json(path, {"a": 2})
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".record.json.{dead.pid}-1.tmp"
    written = tmp_path / f".record.json.{os.getpid()}-1.tmp"
    for path in (left, written):
        path.write_text("x")
    files.sweep(tmp_path)
    assert not left.exists() and written.exists()


def test_a_folder_takes_the_place_of_one_that_is_there(tmp_path):
    """What was left of it, say without the file that says it is whole, must not be in the way for ever."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").write_text("x")
    with files.whole(tmp_path / "data") as tmp:
        tmp.mkdir()
        (tmp / "new").write_text("x")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["data", "data/new"]
