"""Tasks, several at a time, each in a process of its own that is forked from one with everything imported.

Python's own fork server does the forking; on systems where that is not safe, processes are spawned, slower.
Loads no torch: `kd_utils._preload` does, in the fork server.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

from .. import files

FORKS = sys.platform == "linux"
KILLED_HINT = {signal.SIGKILL: " (out of memory?)"}
# causes that may have passed by another time: memory that something else held, a kernel that was killed
MAY_PASS = ("killed by ", "DeadKernelError", "MemoryError", "OutOfMemoryError")
BACK_OFF = 5.0  # seconds before the first retry, doubled for each further one


@dataclass(frozen=True)
class Task:
    """Something to do in a process of its own: function(**arguments), importable at module level.

    folder: where its log, progress.json and failure.json go. steps: how much work it is, in the progress's units.
    """

    name: str
    function: Callable
    arguments: dict
    folder: Path
    steps: int = 1


@dataclass
class Failure:
    """A task that failed, and why."""

    task: Task
    error: str


@dataclass
class _Running:
    task: Task
    process: multiprocessing.process.BaseProcess
    started: float = field(default_factory=time.monotonic)


def run_tasks(
    tasks: list[Task],
    slots: list[dict[str, str]],
    *,
    retries: int = 1,
    on_done: Callable[[Task, float, str], None] | None = None,
    on_retry: Callable[[Task, str], None] | None = None,
    on_tick: Callable[[dict[str, int]], None] | None = None,
) -> list[Failure]:
    """Run the tasks in their order, one in each slot at a time; returns the failures, after all the others ran.

    slots: the environment variables of each slot (CUDA_VISIBLE_DEVICES, say).
    retries: how often a task is tried again when the cause of its failure may have passed (MAY_PASS), after a while.
    on_done(task, seconds, error or ''); on_retry(task, error); on_tick({name: steps done}), twice a second.
    On any exception, KeyboardInterrupt among them, the running tasks are killed first.
    """
    if not tasks:
        return []
    context = warm_up()
    waiting, free = deque(tasks), deque(range(len(slots)))
    later: list[tuple[float, Task]] = []  # when to try again
    tried: Counter[str] = Counter()
    running: dict[int, _Running] = {}
    failures: list[Failure] = []
    try:
        while waiting or running or later:
            waiting.extend(task for due, task in later if due <= time.monotonic())
            later = [entry for entry in later if entry[0] > time.monotonic()]
            while waiting and free:
                task, slot = waiting.popleft(), free.popleft()
                task.folder.mkdir(parents=True, exist_ok=True)
                for name in ("failure.json", "run.log"):
                    files.remove(task.folder / name)
                process = context.Process(target=_child, args=(task, slots[slot]), name=task.name)
                process.start()
                running[slot] = _Running(task, process)
            if running:
                wait([r.process.sentinel for r in running.values()], timeout=0.5)
            else:
                time.sleep(0.5)
            for slot, r in list(running.items()):
                if r.process.is_alive():
                    continue
                r.process.join()
                del running[slot]
                free.append(slot)
                error = _error(r.task, r.process.exitcode)
                if error.startswith(MAY_PASS) and tried[r.task.name] < retries:
                    tried[r.task.name] += 1
                    later.append((time.monotonic() + BACK_OFF * 2 ** (tried[r.task.name] - 1), r.task))
                    if on_retry:
                        on_retry(r.task, error)
                    continue
                if error:
                    failures.append(Failure(r.task, error))
                if on_done:
                    on_done(r.task, time.monotonic() - r.started, error)
            if on_tick:
                on_tick({r.task.name: _steps(r.task) for r in running.values()})
    finally:
        for r in running.values():
            r.process.kill()
        for r in running.values():
            r.process.join()
    return failures


def warm_up() -> multiprocessing.context.BaseContext:
    """Start the fork server, if it does not run yet; its imports go on while this process does other things."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # idle OpenMP threads must not spin beside busy neighbours
    if not FORKS:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kd_utils._preload"])
    forkserver.ensure_running()
    return context


def _steps(task: Task) -> int:
    try:
        return json.loads((task.folder / "progress.json").read_text(encoding="utf-8"))["epoch"]
    except (OSError, ValueError, KeyError):
        return 0


def _error(task: Task, code: int) -> str:
    """Why a task failed, '' if it did not. What it could not say itself is noted for it."""
    path = task.folder / "failure.json"
    if code == 0:
        files.remove(task.folder / "run.log")
        if not any(task.folder.iterdir()):
            task.folder.rmdir()
        return ""
    if not path.is_file():
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}{KILLED_HINT.get(-code, '')}"
        else:
            reason = f"ended with exit code {code}; see {task.folder / 'run.log'}"
        files.write_json(path, {"error": reason})
    return json.loads(path.read_text(encoding="utf-8"))["error"]


def _child(task: Task, environment: dict[str, str]) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ.update(environment)
    log = os.open(task.folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for fd in (1, 2):
        os.dup2(log, fd)
    try:
        task.function(**task.arguments)
    except BaseException as e:
        name = getattr(e, "ename", type(e).__name__)
        text = str(getattr(e, "evalue", e))
        files.write_json(task.folder / "failure.json", {"error": f"{name}: {text}"})
        sys.exit(1)


def die_with_parent() -> None:
    """Let the kernel of the operating system end this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
