"""What a night brings: kills, full disks, damaged files. Afterwards the same command produces the same results."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
from helpers import SMALL, kd, outcome, same, start, typed, write_study

from kd_utils import records
from kd_utils.running import pipeline


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


# what is written as soon as a stage of `kd run` has begun, and the seconds after that within which it is killed
STAGES = {
    "data": ("study.lock", 1),
    "teachers": ("teachers/*/progress.json", 1),
    "soft targets": ("soft-targets-*", 1),
    "cells": ("students/*/progress.json", 3),
    "report": ("analysis.ipynb", 2),
}


def begun(root: Path, pattern: str, command: subprocess.Popen, since: float) -> bool:
    """Whether such a file is written before the command ends; one from before does not count."""
    while command.poll() is None:
        for path in (root / "results" / "small").glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime > since:
                    return True
        time.sleep(0.02)
    return False


def test_killed_at_any_instant_it_goes_on_to_the_same_results(request, root):
    """SIGKILL, SIGTERM and SIGINT at random instants, one in each stage; nothing that was done is done again.

    A stage is hit on any machine: the wait for it ends when it begins, and only then is the instant drawn. The study
    is a part of the finished one: a student at one temperature.
    """
    write_study(root, {**SMALL, "students": SMALL["students"][:1], "grid": {"T": [4], "alpha": [0, 0.5]}})
    rng = random.Random(os.environ.get("KD_TEST_SEED", "1"))
    done: dict[Path, int] = {}
    hows = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL)
    for (stage, (pattern, within)), how in zip(STAGES.items(), hows, strict=True):
        started = time.time()
        command = start(root, "run", "small")
        assert begun(root, pattern, command, started), f"{stage}: {command.stdout.read()}"
        time.sleep(rng.uniform(0, within))
        command.send_signal(how)
        command.wait(timeout=30)
        assert command.returncode == (-how if how == signal.SIGKILL else 130), stage
        if how != signal.SIGKILL:
            assert "the same command goes on from here" in command.stdout.read()
        assert gone(root)
        records_now = {p: p.stat().st_mtime_ns for p in (root / "results").rglob("record.json")}
        assert {p: records_now.get(p) for p in done} == done
        done = records_now
    last = typed(root, "run", "small")
    assert last.returncode == 0, last.stdout + last.stderr
    frame, weights = outcome(root)
    whole, all_weights = outcome(request.getfixturevalue("finished"))  # another worker has made it by now
    part = whole[(whole["student"] == frame["student"][0]) & (whole["T"] != 20)].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, part, check_exact=True)
    assert len(weights) == 5 and weights.items() <= all_weights.items()
    assert tidy(root) and gone(root)


def test_a_killed_kernel_is_tried_again(finished, copied):
    """A kernel is killed in the middle of a cell: the cell is run again, and the results are the same."""
    students = copied / "results" / "small" / "students"
    shutil.rmtree(next(students.glob("efficient-T4-a0.5-*")))
    command = start(copied, "grid", "small", "--jobs", "1")
    killed = None
    while killed is None and command.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(psutil.Error):
            kernels = [p for p in processes(copied) if command.pid in [parent.pid for parent in p.parents()[2:]]]
            if kernels and any(students.glob("*/progress.json")):
                killed = kernels[0]
                heard = {c.laddr.ip for c in killed.net_connections("inet") if c.status == psutil.CONN_LISTEN}
                killed.kill()
    output, _ = command.communicate(timeout=200)
    assert killed is not None and command.returncode == 0 and "tried again" in output, output
    assert heard <= {"127.0.0.1"}  # ipykernel's own pipe for what its children print
    same(finished, copied)


def test_damaged_soft_targets_are_computed_again_and_a_damaged_checkpoint_is_named(finished, copied):
    """The one costs nothing but time; the other fails its cell, says which file it is, and can be deleted."""
    for path in (copied / "cache" / "soft_targets").glob("*/view_0001.npy"):
        path.write_bytes(path.read_bytes()[:-7])
    students = copied / "results" / "small" / "students"
    anew, broken = (next(students.glob(f"{student}-T4-a0.5*")) for student in ("test_byobnet", "efficient"))
    shutil.rmtree(anew)
    (broken / "record.json").unlink()
    (broken / "checkpoint.pt").write_bytes(b"half a checkpoint")
    done = kd(copied, "grid", "small", "--jobs", "1")
    assert done.returncode == 1 and done.stdout.count("failed: ") == 1
    assert "checkpoint.pt:thecheckpointcannotberead" in "".join(done.stdout.split())
    assert "view_0001.npy: damaged" in (anew / "distill.ipynb").read_text()
    (broken / "checkpoint.pt").unlink()
    assert kd(copied, "grid", "small").returncode == 0
    same(finished, copied)


def test_a_record_that_was_edited_stops_the_command(copied):
    path = next((copied / "results" / "small" / "students").glob("efficient-T4-a0.5*/record.json"))
    path.write_text(path.read_text().replace('"alpha": 0.5', '"alpha": 0.6'))
    done = kd(copied, "run", "small")
    assert done.returncode == 2 and "changed after it was written" in done.stderr and str(path) in done.stderr
    assert path.exists()


def test_a_changed_study_keeps_the_old_results_and_says_so(finished, copied):
    path = copied / "studies" / "small.yaml"
    path.write_text(path.read_text().replace("epochs: 3", "epochs: 2"))
    shown = kd(copied, "status", "small").stdout
    assert "0 done" in shown and "10 finished runs of other settings are kept" in shown


def test_two_commands_at_once_share_nothing_and_lose_nothing(finished, copied):
    """Both are started at the same moment: one works, the other says who does. Only what is missing is done."""
    students = sorted((copied / "results" / "small" / "students").iterdir())
    (students[3] / "record.json").unlink()
    shutil.rmtree(students[6])
    commands = [start(copied, "grid", "small") for _ in range(2)]
    outputs = [c.communicate(timeout=200)[0] for c in commands]
    codes = sorted(c.returncode for c in commands)
    assert codes in ([0, 0], [0, 2]) and "".join(outputs).count("done: ") == 2
    if codes == [0, 2]:
        refused = outputs[[c.returncode for c in commands].index(2)]
        assert "another kd command is working on study 'small'" in refused
    same(finished, copied)


def test_schema_of_another_version(copied):
    path = next((copied / "results" / "small" / "teachers").glob("*/record.json"))
    path.write_text(path.read_text().replace(f'"schema": {records.SCHEMA}', '"schema": 0'))
    for command in ("grid", "report", "pack"):
        done = kd(copied, command, "small")
        assert done.returncode == 2 and "another version" in done.stderr and str(path) in done.stderr
    shown = kd(copied, "status", "small")
    assert shown.returncode == 0 and "which are done cannot be told" in shown.stdout and str(path) in shown.stdout
    assert sum(line.endswith("%") or "  damaged" in line for line in shown.stdout.splitlines()) == 2
    assert "unknown" in kd(copied, "list").stdout


def test_a_truncated_record_hides_no_other(copied, monkeypatch):
    """It is named with what to do; nothing is run before that is done, and the report says that it is left out."""
    for path in sorted((copied / "results" / "small" / "students").glob("efficient-T4-*/record.json")):
        path.write_bytes(path.read_bytes()[:500])
    shown, listed = kd(copied, "status", "small"), kd(copied, "list")
    assert shown.returncode == 0 and "8 done, 0 failed, 0 running, 0 waiting, 2 damaged" in shown.stdout
    assert shown.stdout.count(f"delete the folder {copied}") == 2 and str(path) in shown.stdout
    assert listed.returncode == 0 and "8 of 10" in listed.stdout and "2 damaged: kd status small" in listed.stdout
    monkeypatch.setattr(pipeline, "run_tasks", lambda tasks, slots: [])
    report = kd(copied, "report", "small")
    assert report.returncode == 0 and "note: the report leaves out 2 records that cannot be trusted" in report.stdout


def test_decoding_processes_die_with_the_command_that_started_them():
    code = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from kd_utils.learning import data
if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=data._end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        worker = psutil.Process(int(command.stdout.readline()))
        command.kill()
    worker.wait(timeout=20)  # raises TimeoutExpired
