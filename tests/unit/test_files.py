import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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


def test_a_full_disk_is_said_where_torch_says_something_else(tmp_path, monkeypatch):
    """Writing a checkpoint: torch raises a RuntimeError about positions in a file."""
    import torch

    def save(path):
        with files.whole(path) as tmp:
            tmp.symlink_to("/dev/full")
            torch.save({"weights": torch.zeros(100_000)}, tmp)

    with pytest.raises(RuntimeError):
        save(tmp_path / "checkpoint.pt")  # the disk has space
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(files.DiskFull, match=r"checkpoint\.pt; free some"):
        save(tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "alive", "hours", "swept"),
    [
        (files.HOST, False, 0, True),
        (files.HOST, True, 48, False),
        ("another", False, 0, False),  # its process may be alive there
        ("another", True, 25, True),
    ],
)
def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, host, alive, hours, swept):
    dead = subprocess.Popen(["true"])
    dead.wait()
    path = tmp_path / f".record.json.{host}.{os.getpid() if alive else dead.pid}-1.tmp"
    path.write_text("x")
    os.utime(path, (time.time() - 3600 * hours,) * 2)
    files.sweep(tmp_path)
    assert path.exists() != swept


def test_what_a_dead_process_left_is_swept_though_no_one_waited_for_it(tmp_path):
    """In a container whose first process waits for no one, the dead keep their numbers."""
    dead = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    dead.stdout.read()  # its end, but it is not waited for
    path = tmp_path / f".record.json.{files.HOST}.{dead.pid}-1.tmp"
    path.write_text("x")
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        files.sweep(tmp_path)
    os.kill(dead.pid, 0)  # its number is still there
    dead.wait()
    assert not path.exists()


def test_a_folder_that_another_machine_is_filling_is_not_swept(tmp_path):
    folder = tmp_path / ".data.another.1-1.tmp"
    folder.mkdir()
    (folder / "train_images.npy").write_text("x")
    os.utime(folder, (0, 0))
    files.sweep(tmp_path)
    assert folder.exists()


def test_temporary_names_say_whose_they_are(tmp_path):
    with files.whole(tmp_path / "a.json") as tmp:
        tmp.write_text("x")
        files.sweep(tmp_path)
        assert tmp.name.startswith(f".a.json.{files.HOST}.{os.getpid()}-") and tmp.exists()


def test_a_folder_takes_the_place_of_one_that_is_there(tmp_path):
    """What was left of it, say without the file that says it is whole, must not be in the way for ever."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").write_text("x")
    with files.whole(tmp_path / "data") as tmp:
        tmp.mkdir()
        (tmp / "new").write_text("x")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["data", "data/new"]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"epoch": "x"}', "[" * 100_000, b"\xff\xfe"])
def test_json_that_is_damaged_or_says_something_else_is_none(tmp_path, content):
    path = tmp_path / "progress.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert files.read_json(path, epoch=int) is None
    path.write_text('{"epoch": 3, "more": 1}')
    assert files.read_json(path, epoch=int) == {"epoch": 3, "more": 1}


def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("xxxxx")
    for path, says in ((tmp_path / "pipe", "not a file"), (Path("/dev/zero"), "not a file")):
        for read in (files.read_text, files.sha256):
            with pytest.raises(OSError, match=says):
                read(path)
    with pytest.raises(IsADirectoryError) as e:
        files.read_text(tmp_path)
    assert e.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="5 bytes, and at most 4 are read"):
        files.read_text(tmp_path / "large", 4)
