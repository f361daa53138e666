"""Tasks, several at a time, each in a process of its own that is forked from one with everything imported.

Python's own fork server does the forking; on systems where that is not safe, processes are spawned, slower.
Loads no torch: `kd_utils._preload` does, in the fork server.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from .. import files, machine, paths

FORKS = sys.platform == "linux"
PRELOADED = ["kd_utils._preload"]  # what the process that forks imports
PRELOADED_FOR_REPORT = ["kd_utils._preload_report"]  # the same where a report is all that is to be made
KILLED_HINT = {int(signal.SIGKILL): " (out of memory?)"}
STARTED_BY = "KD_STARTED_BY"  # the variable that tells the process that forks which process started it
FORK_SERVER_GONE = 255  # what multiprocessing says of a process whose fork server can no longer be asked
KILLED, ENDED = "killed", "ended"  # the kinds of failure that a process cannot tell of itself
# kinds that may have passed by another time: memory that something else held, a kernel that was killed
MAY_PASS = {KILLED, "DeadKernelError", "MemoryError", "OutOfMemoryError"}
BACK_OFF = 5.0  # seconds before the first retry, doubled for each further one


@dataclass(frozen=True)
class Task:
    """Something to do in a process of its own: function(**arguments), importable at module level.

    folder: where its log, progress.json and failure.json go. steps: how much work it is, in the progress's units.
    after: the names of earlier tasks that it needs; where one of them fails, it is left out. threads: that it uses.
    """

    name: str
    function: Callable
    arguments: dict
    folder: Path
    steps: int = 1
    after: frozenset[str] = frozenset()
    threads: int = 1


@dataclass(frozen=True)
class Failure:
    """A task that failed, and why: `kind` is the exception's name, KILLED or ENDED; `error` says it in a line."""

    task: Task
    kind: str
    error: str


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Callbacks:
    """Who is told while tasks run.

    done(task, seconds, failure or None): a task has ended. retry(failure): its task is tried again, after a while.
    tick({name: steps done}): how far the running tasks are, twice a second.
    """

    done: Callable[[Task, float, Failure | None], None] = _ignore
    retry: Callable[[Failure], None] = _ignore
    tick: Callable[[dict[str, float]], None] = _ignore


NOBODY = Callbacks()


def run_tasks(
    tasks: list[Task], slots: list[dict[str, str]], callbacks: Callbacks = NOBODY, *, retries: int = 1
) -> list[Failure]:
    """Run the tasks in their order, one in each slot at a time; returns the failures, after all the others ran.

    A task that waits for others (`after`) is passed by those behind it. Of tasks that wait for one that failed,
    nothing is told.

    slots: the environment variables of each slot (CUDA_VISIBLE_DEVICES, say).
    retries: how often a task is tried again when the cause of its failure may have passed (MAY_PASS), after a while.
    On any exception, KeyboardInterrupt among them, the running tasks are killed first.
    """
    if not tasks:
        return []
    work = _Work(tasks, slots, retries)
    try:
        while work.left:
            work.start_what_can()
            for task, seconds, failure in work.ended():
                if failure and work.try_again(failure):
                    callbacks.retry(failure)
                    continue
                work.end(task, failure)
                callbacks.done(task, seconds, failure)
            callbacks.tick(work.steps())
    finally:
        work.kill()
    return work.failures


@dataclass
class _Running:
    task: Task
    process: BaseProcess
    started: float = field(default_factory=time.monotonic)
    steps: float = 0


class _Work:
    """The tasks that wait, those that run, each in its slot, and those that are to be tried again."""

    def __init__(self, tasks: list[Task], slots: list[dict[str, str]], retries: int) -> None:
        self.context = warm_up()
        self.slots, self.retries = slots, retries
        self.waiting, self.free = list(tasks), deque(range(len(slots)))
        self.unfinished = {task.name for task in tasks}
        self.later: list[tuple[float, Task]] = []  # when to try again
        self.tried: Counter[str] = Counter()
        self.running: dict[int, _Running] = {}
        self.failures: list[Failure] = []

    @property
    def left(self) -> bool:
        return bool(self.waiting or self.running or self.later)

    def start_what_can(self) -> None:
        """Start waiting tasks in free slots, those among them whose time to be tried again has come."""
        now = time.monotonic()
        self.waiting.extend(task for due, task in self.later if due <= now)
        self.later = [(due, task) for due, task in self.later if due > now]
        while self.free and (task := next((t for t in self.waiting if not t.after & self.unfinished), None)):
            self.waiting.remove(task)
            slot = self.free.popleft()
            task.folder.mkdir(parents=True, exist_ok=True)
            for name in (paths.FAILURE, paths.LOG):
                files.remove(task.folder / name)
            process = self.context.Process(target=_child, args=(task, settings() | self.slots[slot]), name=task.name)
            self.running[slot] = _Running(task, process)  # first: whatever is started is known to kill()
            _start(process)

    def ended(self) -> list[tuple[Task, float, Failure | None]]:
        """Wait for half a second, or until a task ends; returns those that have: task, seconds, failure or None."""
        if not self.running:
            time.sleep(0.5)
            return []
        wait([r.process.sentinel for r in self.running.values()], timeout=0.5)
        ended = []
        for slot, r in list(self.running.items()):
            if not r.process.is_alive():
                r.process.join()
                del self.running[slot]
                self.free.append(slot)
                ended.append((r.task, time.monotonic() - r.started, _failure(r.task, r.process.exitcode or 0)))
        return ended

    def try_again(self, failure: Failure) -> bool:
        """Put a task off whose failure may have passed by another time; returns whether it is tried again."""
        task = failure.task
        if failure.kind not in MAY_PASS or self.tried[task.name] >= self.retries:
            return False
        self.later.append((time.monotonic() + BACK_OFF * 2 ** self.tried[task.name], task))
        self.tried[task.name] += 1
        return True

    def end(self, task: Task, failure: Failure | None) -> None:
        """Note that a task has ended; where it failed, those that wait for it are left out."""
        if failure is None:
            self.unfinished.discard(task.name)
            return
        self.failures.append(failure)
        lost = {task.name}
        while out := [t for t in self.waiting if t.after & lost]:
            self.waiting = [t for t in self.waiting if t not in out]
            lost |= {t.name for t in out}

    def steps(self) -> dict[str, float]:
        """The steps that each running task has done."""
        for r in self.running.values():
            r.steps = max(r.steps, _steps(r.task))  # a run that is being saved has no progress to show any more
        return {r.task.name: r.steps for r in self.running.values()}

    def kill(self) -> None:
        """End what runs; an interrupt may have come before a process was started."""
        started = [r.process for r in self.running.values() if r.process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()


class PoolError(RuntimeError):
    """Processes that cannot be started at all; the message says how to see why."""


def _start(process: BaseProcess) -> None:
    """Start a process, once more where the fork server ended a moment ago. Raises PoolError."""
    for last in (False, True):
        try:
            with machine.strangers_to_main():
                return process.start()
        except (ConnectionError, EOFError) as e:
            if last:
                raise PoolError(
                    f"no run can be started ({e}): the process that forks them ends at once; "
                    "see why with: python -m kd_utils._preload"
                ) from e
            time.sleep(0.5)


def warm_up(modules: list[str] | None = None) -> SpawnContext | ForkServerContext:
    """Start the fork server, if it does not run yet; its imports go on while this process does other things.

    modules: what it imports, by default PRELOADED.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # idle OpenMP threads must not spin beside busy neighbours
    machine.settle()
    if not FORKS:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED if modules is None else modules)
    os.environ[STARTED_BY] = str(os.getpid())
    with machine.deaf_children():
        forkserver.ensure_running()
    return context


def _steps(task: Task) -> float:
    try:
        return (files.read_json(task.folder / paths.PROGRESS, epoch=(int, float)) or {"epoch": 0})["epoch"]
    except OSError:  # on file systems that machines share, for a moment
        return 0


def _failure(task: Task, code: int) -> Failure | None:
    """Why a task failed, None if it did not. What it could not say itself is noted for it."""
    path = task.folder / paths.FAILURE
    if code == 0:
        files.remove(task.folder / paths.LOG)
        with suppress(OSError):  # a folder with something in it is not removed
            task.folder.rmdir()
        return None
    if not path.is_file():
        kind = KILLED
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}{KILLED_HINT.get(-code, '')}"
        elif code == FORK_SERVER_GONE and FORKS:
            reason = "killed by the end of the process that forks runs; a new one is started"
        else:
            kind, reason = ENDED, f"ended with exit code {code}; see {task.folder / paths.LOG}"
        files.write_json(path, {"kind": kind, "error": reason})
    told = files.read_json(path, kind=str, error=str) or {"kind": ENDED, "error": f"{path}: damaged"}
    return Failure(task, told["kind"], told["error"])


def settings() -> dict[str, str]:
    """The environment variables of this project as they are now: a fork server has those of its start."""
    return {name: value for name, value in os.environ.items() if name.startswith("KD_")}


def _child(task: Task, environment: dict[str, str]) -> None:
    die_with(os.getppid())
    command = multiprocessing.parent_process()
    if command is None or not command.is_alive():  # and with it the parent, before this process had known it
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for name in settings():
        del os.environ[name]
    os.environ.update(environment)
    task.folder.mkdir(parents=True, exist_ok=True)  # it may have been removed just now
    log = os.open(task.folder / paths.LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for fd in (1, 2):
        os.dup2(log, fd)
    try:
        task.function(**task.arguments)
    except BaseException as e:
        if not isinstance(e, files.DiskFull) and files.is_full(e, task.folder):  # what libraries write
            e = files.DiskFull.at(task.folder)
        files.write_json(task.folder / paths.FAILURE, _told(e))
        sys.exit(1)


def _told(error: BaseException) -> dict[str, str]:
    """What an exception, or the one that a notebook has ended with, is called and says.

    The package's own say all in their texts; those of others are shown with their names.
    """
    kind, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    of_package = type(error).__module__.startswith("kd_utils.")
    return {"kind": kind, "error": text if of_package else f"{kind}: {text}"}


def die_with(parent: int) -> None:
    """Let the operating system end this process when its parent, a process id, ends; at once if it has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
