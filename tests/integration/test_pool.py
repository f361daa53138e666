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

import numpy as np
import pytest
from tasks import a_kernel_that_dies_once, begin, lose_the_folder, note, work

from kd_utils.running import pool
from kd_utils.running.pool import Callbacks, Task


@pytest.fixture
def light(monkeypatch):
    """A fork server that imports nothing beforehand, for this test alone."""
    server: Any = module.ForkServer()
    for name in ("ensure_running", "get_inherited_fds", "connect_to_new_process", "set_forkserver_preload"):
        monkeypatch.setattr(module, name, getattr(server, name))
    monkeypatch.setattr(pool, "BACK_OFF", 0.2)
    monkeypatch.setattr(pool, "PRELOADED", [])
    yield server
    server._stop()


def test_tasks_run_in_slots_and_say_why_they_fail(light, tmp_path):
    made = [
        Task(str(k), work, {"path": str(tmp_path / f"out{k}"), **more}, tmp_path / f"t{k}")
        for k, more in enumerate([{}, {"fail": True}, {"die": True}, {}, {}])
    ]
    failures = pool.run_tasks(made, [{"CUDA_VISIBLE_DEVICES": "7"}, {"CUDA_VISIBLE_DEVICES": "8"}])
    assert {f.task.name: (f.kind, f.error) for f in failures} == {
        "1": ("ValueError", "ValueError: it went wrong"),
        "2": (pool.KILLED, "killed by SIGKILL (out of memory?)"),
    }
    assert {(tmp_path / f"out{k}").read_text().strip() for k in (0, 3, 4)} <= {"7", "8"}
    assert "it went wrong" in (tmp_path / "t1" / "failure.json").read_text()


def test_a_task_waits_for_what_it_needs_and_is_left_out_where_that_fails(light, tmp_path):
    """In one slot: those behind a waiting task pass it, and nothing is told of what waits for a failure."""

    def task(name, *after):
        return Task(name, note, {"path": str(tmp_path / "log"), "name": name}, tmp_path / name, after=frozenset(after))

    done = []
    tasks = [task("second", "first"), task("broken"), task("lost", "broken"), task("lost too", "lost"), task("first")]
    failures = pool.run_tasks(tasks, [{}], Callbacks(done=lambda t, s, failure: done.append(t.name)))
    assert (tmp_path / "log").read_text().split() == done == ["broken", "first", "second"]
    assert [f.task.name for f in failures] == ["broken"]


def test_an_interrupt_kills_what_runs(light, tmp_path):
    task = Task("long", work, {"path": str(tmp_path / "out"), "seconds": 1}, tmp_path / "t")

    def stop(running):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run_tasks([task], [{}], Callbacks(tick=stop))
    time.sleep(2)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not pool.FORKS, reason="processes are spawned here")
def test_a_killed_fork_server_is_started_again_and_its_tasks_are_tried_again(light, tmp_path):
    done, retried, killed = [], [], []
    tasks = [Task(f"task {k}", begin, {"path": str(tmp_path / f"{k}.txt")}, tmp_path / f"{k}") for k in range(2)]

    def kill_once(_):
        if not killed and (tmp_path / "0.txt").exists():
            killed.append(light._forkserver_pid)
            os.kill(killed[0], signal.SIGKILL)

    callbacks = Callbacks(lambda task, _, failure: done.append((task.name, failure)), retried.append, kill_once)
    assert pool.run_tasks(tasks, [{}], callbacks) == []
    assert sorted(done) == [("task 0", None), ("task 1", None)]
    assert killed and [failure.task.name for failure in retried] == ["task 0"]
    assert (tmp_path / "0.txt").read_text() == "begun\n" * 2


def test_a_task_whose_folder_is_removed_fails_alone(light, tmp_path):
    folder = tmp_path / "run"
    tasks = [
        Task("lost", lose_the_folder, {"folder": str(folder)}, folder),
        Task("other", begin, {"path": str(tmp_path / "x.txt")}, tmp_path / "other"),
    ]
    (failure,) = pool.run_tasks(tasks, [{}])
    assert failure.task.name == "lost" and failure.error == "OSError: the folder is gone"
    shutil.rmtree(folder)
    assert pool._failure(tasks[0], 0) is None
    assert "exit code 3" in pool._failure(tasks[0], 3).error and Path(folder, "failure.json").is_file()


def test_a_kernel_that_dies_before_it_replies_is_tried_again(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "BACK_OFF", 0.2)
    retried = []
    task = Task("run", a_kernel_that_dies_once, {"path": str(tmp_path / "x.txt")}, tmp_path / "run")
    assert pool.run_tasks([task], [{}], Callbacks(retry=retried.append)) == []
    assert [f.error for f in retried] == ["DeadKernelError: Kernel died before replying to kernel_info"]


def test_what_the_package_says_is_not_told_with_its_exception_s_name():
    assert pool._told(pool.PoolError("no run can be started")) == {
        "kind": "PoolError",
        "error": "no run can be started",
    }


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


def test_a_script_without_a_guard_is_run_once(tmp_path):
    """What it starts, by the pool and to decode images, does not run the script again; damaged images are told."""
    script = tmp_path / "three_lines.py"
    (tmp_path / "x.png").write_bytes(b"broken")
    np.save(tmp_path / "images.npy", np.zeros((1001, 8, 8, 3), np.uint8))
    script.write_text(
        "from pathlib import Path\n"
        "from kd_utils.learning import data\n"
        "from kd_utils.running import pool\n"
        "print('begun', flush=True)\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "try:\n"
        "    job = data.Reader(folder), ['x.png'] * 1001, folder / 'images.npy', 0\n"
        "    data._decode_files([job], lambda *_: None)\n"
        "except data.DataError as e:\n"
        "    print(e)\n"
        "pool.PRELOADED = []\n"
        "print(pool.run_tasks([pool.Task('one', print, {}, folder / 'run')], [{}]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[0] == "begun" and done.stdout.count("begun") == 1, done.stderr
    assert "x.png is not an image that can be decoded" in done.stdout and done.stdout.endswith("[]\n"), done.stderr


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
