"""Tasks in processes that are forked: what happens when those that fork, or the folders, go away."""

import os
import shutil
import signal
import stat
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


def a_kernel_that_dies_once(path: str) -> None:
    """What jupyter_client says of a kernel that ends before it has answered."""
    work(path)
    if Path(path).read_text() == "begun\n":
        raise RuntimeError("Kernel died before replying to kernel_info")


def test_a_kernel_that_dies_before_it_replies_is_tried_again(light, tmp_path):
    retried = []
    task = Task("run", a_kernel_that_dies_once, {"path": str(tmp_path / "x.txt")}, tmp_path / "run")
    assert pool.run_tasks([task], [{}], Callbacks(retry=lambda *a: retried.append(a))) == []
    assert [error for _, error in retried] == ["RuntimeError: Kernel died before replying to kernel_info"]


def test_kernels_are_spoken_to_in_a_folder_of_this_user_alone(monkeypatch):
    """Through files whose paths are short enough for sockets, and no ports; nothing of them is left."""
    from kd_utils.running import kernels

    folders = []

    def execute(*_, config, **__):
        connection = config.KernelManager
        folder = Path(connection.connection_file).parent
        folders.append(folder)
        assert connection.transport == "ipc" and len(f"{folder}/connection-ipc-5") < 104
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.getuid()

    monkeypatch.setattr(kernels, "FORKS", False)
    monkeypatch.setattr("papermill.execute.execute_notebook", execute)
    kernels.run_notebook("in", "out", {})
    assert len(folders) == 1 and not folders[0].exists()


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
