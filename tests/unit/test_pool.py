"""Tasks in processes that are forked: what happens when those that fork, or the folders, go away."""

import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver as module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from kd_utils.running import pool
from kd_utils.running.pool import Callbacks, Task


def work(path: str) -> None:
    """Takes a moment, and leaves a line for each time that it was done."""
    with open(path, "a") as f:
        f.write("begun\n")
    time.sleep(1)


def lose_the_folder(folder: str) -> None:
    shutil.rmtree(folder)
    raise OSError("the folder is gone")


SERVER: Any = module._forkserver  # of which the public functions are methods


@pytest.fixture
def light(monkeypatch):
    """A fork server that imports nothing beforehand, for this test alone."""
    SERVER._stop()
    monkeypatch.setattr(pool, "BACK_OFF", 0.2)
    monkeypatch.setattr(pool, "PRELOADED", [])
    yield
    SERVER._stop()


@pytest.mark.skipif(not pool.FORKS, reason="processes are spawned here")
def test_a_killed_fork_server_is_started_again_and_its_tasks_are_tried_again(light, tmp_path):
    done, retried, killed = [], [], []
    tasks = [Task(f"task {k}", work, {"path": str(tmp_path / f"{k}.txt")}, tmp_path / f"{k}") for k in range(2)]

    def kill_once(_):
        if not killed and (tmp_path / "0.txt").exists():
            killed.append(SERVER._forkserver_pid)
            os.kill(killed[0], signal.SIGKILL)

    callbacks = Callbacks(
        lambda task, _, error: done.append((task.name, error)), lambda *a: retried.append(a), kill_once
    )
    assert pool.run_tasks(tasks, [{}], callbacks) == []
    assert sorted(done) == [("task 0", ""), ("task 1", "")]
    assert killed and [task.name for task, _ in retried] == ["task 0"]
    assert (tmp_path / "0.txt").read_text() == "begun\n" * 2


def test_a_task_whose_folder_is_removed_fails_alone(light, tmp_path):
    folder = tmp_path / "run"
    tasks = [
        Task("lost", lose_the_folder, {"folder": str(folder)}, folder),
        Task("other", work, {"path": str(tmp_path / "x.txt")}, tmp_path / "other"),
    ]
    (failure,) = pool.run_tasks(tasks, [{}])
    assert failure.task.name == "lost" and failure.error == "OSError: the folder is gone"
    shutil.rmtree(folder)
    assert pool._error(tasks[0], 0) == ""
    assert "exit code 3" in pool._error(tasks[0], 3) and Path(folder, "failure.json").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="the others have no such signal")
def test_what_is_started_by_a_process_that_has_ended_ends_at_once():
    """As when a command is killed just after it has started the process that forks."""
    code = "from kd_utils.running import pool; pool.die_with({}); print('lives')"
    others = [sys.executable, "-c", code.format(1)]
    assert subprocess.run(others, capture_output=True).stdout == b""
    ours = [sys.executable, "-c", code.format(os.getpid())]
    assert subprocess.run(ours, capture_output=True).stdout == b"lives\n"


class Refused(BaseProcess):
    """A process whose fork server cannot be reached so many times."""

    def __init__(self, times):
        super().__init__()
        self.left = times

    def start(self):
        self.left -= 1
        if self.left >= 0:
            raise ConnectionRefusedError("refused")


def test_a_fork_server_that_cannot_be_reached_is_asked_again_and_then_named():
    pool._start(Refused(1))
    with pytest.raises(pool.PoolError, match="python -m kd_utils._preload"):
        pool._start(Refused(2))


def test_without_a_home_caches_go_where_temporary_files_do(light, monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(pool.Path, "home", none)
    pool.warm_up()
    assert os.environ["HOME"] == pool.tempfile.gettempdir()


def note(path: str, name: str) -> None:
    """Leaves its name; 'broken' fails."""
    with open(path, "a") as f:
        f.write(f"{name}\n")
    if name == "broken":
        raise ValueError("broken")


def test_a_task_waits_for_what_it_needs_and_is_left_out_where_that_fails(light, tmp_path):
    """In one slot: those behind a waiting task pass it, and nothing is told of what waits for a failure."""

    def task(name, *after):
        return Task(name, note, {"path": str(tmp_path / "log"), "name": name}, tmp_path / name, after=frozenset(after))

    done = []
    tasks = [task("second", "first"), task("broken"), task("lost", "broken"), task("lost too", "lost"), task("first")]
    failures = pool.run_tasks(tasks, [{}], Callbacks(done=lambda t, s, error: done.append(t.name)))
    assert (tmp_path / "log").read_text().split() == done == ["broken", "first", "second"]
    assert [f.task.name for f in failures] == ["broken"]
