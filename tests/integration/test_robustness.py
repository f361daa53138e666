"""What a night brings: kills, full disks, damaged files. Afterwards the same command comes to the same results."""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from helpers import SMALL, kd, same, start, write_study

from kd_utils import files, records


def processes(root: Path) -> list[psutil.Process]:
    """Everything that runs for this root."""
    found = []
    for p in psutil.process_iter():
        try:
            if p.environ().get("KD_ROOT") == str(root) and p.status() != psutil.STATUS_ZOMBIE and p.pid != os.getpid():
                found.append(p)
        except psutil.Error:
            continue
    return found


def gone(root: Path, within: float = 10) -> bool:
    """Whether all of them end within so many seconds."""
    deadline = time.monotonic() + within
    while processes(root):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def tidy(root: Path) -> bool:
    left = [p for pattern in (".*.tmp", "checkpoint.pt", "progress.json", "*.holder") for p in root.rglob(pattern)]
    return not left


def test_killed_at_any_instant_it_goes_on_to_the_same_results(finished, root):
    """SIGKILL, SIGTERM and SIGINT at random instants; nothing is left running, nothing done is done again."""
    rng = random.Random(os.environ.get("KD_TEST_SEED", "1"))
    done: dict[Path, int] = {}
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        command = start(root, "run", "small")
        try:
            command.wait(timeout=rng.uniform(4, 22))
        except subprocess.TimeoutExpired:
            command.send_signal(how)
        command.wait(timeout=30)
        assert gone(root)
        if how != signal.SIGKILL and command.returncode != 0:
            assert command.returncode == 130 and "the same command goes on from here" in command.stdout.read()
        records_now = {p: p.stat().st_mtime_ns for p in (root / "results").rglob("record.json")}
        assert {p: records_now.get(p) for p in done} == done
        done = records_now
    last = kd(root, "run", "small")
    assert last.returncode == 0, last.stdout + last.stderr
    same(finished, root)
    assert tidy(root) and gone(root)


def test_a_killed_kernel_is_tried_again(finished, root):
    """A kernel is killed in the middle of a cell: the cell is run again, and the results are the same."""
    command = start(root, "run", "small")
    killed = None
    deadline = time.monotonic() + 120
    while killed is None and time.monotonic() < deadline:
        time.sleep(0.05)
        for path in (root / "results").glob("*/students/*/progress.json"):
            workers = [p for p in processes(root) if p.pid != command.pid and not p.children()]
            kernels = [p for p in workers if p.parents()[2:] and p.parents()[2].pid == command.pid]
            if kernels and path.exists():
                killed = random.Random(0).choice(kernels)
                killed.kill()
                break
    output, _ = command.communicate(timeout=200)
    assert killed is not None and command.returncode == 0, output
    same(finished, root)


def test_a_loss_that_is_not_finite_fails_its_cells_only(root):
    broken = {"model": "shufflenet_v2_x0_5", "name": "broken", "train": {"lr": 1e30}}
    write_study(root, {**SMALL, "students": ["lcnet_050", broken], "grid": {"T": [4], "alpha": [0.5]}})
    done = kd(root, "run", "small")
    shown = " ".join(done.stdout.split())
    assert done.returncode == 1 and shown.count("failed: broken") == 2 and "lower train.lr" in shown
    assert "tried again" not in shown and "cells: 2 of 4 done" in shown


def test_truncated_soft_targets_are_computed_again(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "cache" / "soft_targets").glob("*/view_0001.npy"):
        path.write_bytes(path.read_bytes()[:-7])
    victim = next((tmp_path / "results" / "small" / "students").glob("shuffle-T4-a0.5*"))
    shutil.rmtree(victim)
    assert kd(tmp_path, "grid", "small").returncode == 0
    assert "view_0001.npy: damaged" in (victim / "distill.ipynb").read_text()
    same(finished, tmp_path)


def test_a_damaged_checkpoint_fails_with_its_name_and_can_be_deleted(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    victim = next((tmp_path / "results" / "small" / "students").glob("shuffle-T4-a0.5*"))
    (victim / "record.json").unlink()
    (victim / "checkpoint.pt").write_bytes(b"half a checkpoint")
    done = kd(tmp_path, "grid", "small")
    shown = "".join(done.stdout.split())
    assert done.returncode == 1 and "checkpoint.pt:thecheckpointcannotberead" in shown
    (victim / "checkpoint.pt").unlink()
    assert kd(tmp_path, "grid", "small").returncode == 0
    same(finished, tmp_path)


def test_a_record_that_was_edited_stops_the_command(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "results" / "small" / "students").glob("shuffle-T4-a0.5*/record.json"))
    path.write_text(path.read_text().replace('"alpha": 0.5', '"alpha": 0.6'))
    done = kd(tmp_path, "run", "small")
    assert done.returncode == 2 and "changed after it was written" in done.stderr and str(path) in done.stderr
    assert path.exists()


def test_a_changed_study_keeps_the_old_results_and_says_so(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "studies" / "small.yaml"
    path.write_text(path.read_text().replace("epochs: 3", "epochs: 2"))
    shown = kd(tmp_path, "status", "small").stdout
    assert "0 done" in shown and "10 finished runs of other settings are kept" in shown


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


def test_two_commands_at_once_share_nothing_and_lose_nothing(finished, root):
    """Both are started at the same moment: one works, the other says who does."""
    commands = [start(root, "run", "small") for _ in range(2)]
    outputs = [c.communicate(timeout=200)[0] for c in commands]
    codes = sorted(c.returncode for c in commands)
    assert codes in ([0, 0], [0, 2])
    if codes == [0, 2]:
        refused = outputs[[c.returncode for c in commands].index(2)]
        assert "another kd command is working on study 'small'" in refused
    same(finished, root)


def test_schema_of_another_version(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "results" / "small" / "teachers").glob("*/record.json"))
    path.write_text(path.read_text().replace(f'"schema": {records.SCHEMA}', '"schema": 0'))
    done = kd(tmp_path, "status", "small")
    assert done.returncode == 2 and "another version" in done.stderr
