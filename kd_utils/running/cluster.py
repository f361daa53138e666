"""The same tasks on Ray: more machines, or fractions of GPUs. An extra: `uv pip install -e '.[cluster]'`.

All machines see the same root (results and cache) and have the same package installed. Records are the truth: a
node that is lost costs only its unfinished runs, which go on elsewhere from their checkpoints.
"""

import logging
import os
import secrets
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import files
from .pool import NOBODY, Callbacks, Failure, Task, settings
from .pool import run_tasks as run_here


class ClusterError(RuntimeError):
    """Ray is not there, or not reached; the message says what to install or to start."""


def run_tasks(
    tasks: list[Task],
    callbacks: Callbacks = NOBODY,
    *,
    gpus: float,
    address: str | None = None,
    retries: int = 3,
) -> list[Failure]:
    """Run the tasks on a Ray cluster; returns the failures.

    gpus: what a task takes beside its threads' cores; half a GPU is 0.5, and Ray sets CUDA_VISIBLE_DEVICES. More than
    there is on any machine is an error.
    address: of a running cluster; None starts one on this machine. retries: for tasks whose machine was lost.
    Progress within a task is not told. Raises ClusterError.
    """
    if not tasks:
        return []
    with _own_cluster() if address is None else _cluster_at(address):
        return _run(tasks, callbacks, gpus, retries)


PREFIX, OWNER = "kd-", "owner"  # of the folders below, and the file in them that names their command's process
TEMPORARY = Path("/tmp")  # not TMPDIR: the path of a socket has at most 103 characters


def sweep() -> None:
    """Remove the temporary folders of clusters whose commands on this machine were killed, this user's alone."""
    for folder in TEMPORARY.glob(f"{PREFIX}*/"):
        with suppress(OSError, ValueError):  # what cannot be read is not ours
            about = folder.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
                host, pid = files.read_text(folder / OWNER).split()
                if host == files.HOST and not files.alive(int(pid)):
                    files.remove(folder)


# Ray's own: where it is 0, a node's address is the loopback's. It is read when Ray is imported.
REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def _own_cluster() -> Iterator[None]:
    """A cluster of this machine alone, which ends with the block.

    Whoever reaches a cluster can run any code there. So this one listens on the loopback address alone, asks for a
    password, and has its sockets where no other user can enter. Raises ClusterError.
    """
    if "ray" in sys.modules and os.environ.get(REACHABLE) != "0":
        raise ClusterError(
            "Ray was imported before, and would listen on all interfaces of this machine; "
            f"set {REACHABLE}=0 before it is imported, or start a cluster and give its address"
        )
    os.environ |= {REACHABLE: "0", "RAY_AUTH_MODE": "token"}
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    error = "Ray cannot be started on this machine: {}"
    with (
        _private() as private,
        _ray(error, address="local", _temp_dir=os.path.join(private, "ray")),  # which Ray opens to everybody
    ):
        yield


@contextmanager
def _private() -> Iterator[str]:
    """A folder that no other user can enter, which goes with the block, or else with `sweep`."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=TEMPORARY, ignore_cleanup_errors=True) as private:
        Path(private, OWNER).write_text(f"{files.HOST} {os.getpid()}\n", encoding="utf-8")
        yield private


@contextmanager
def _cluster_at(address: str) -> Iterator[None]:
    """A connection to a running cluster. Raises ClusterError."""
    error = f"no Ray cluster at {address}: {{}}; start one with: ray start --head"
    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # by itself ray waits for minutes
        try:
            socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
        except OSError as e:
            raise ClusterError(error.format(e)) from None
    with _ray(error, address=address):
        yield


@contextmanager
def _ray(error: str, **options: Any) -> Iterator[None]:
    """Ray, connected as the options of ray.init say. Raises ClusterError, of that text."""
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed; run: uv pip install -e '.[cluster]'") from None
    for last in (False, True):  # on a busy machine Ray gives up after half a minute
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False, **options)
            break
        except Exception as e:  # which Ray raises as it is
            ray.shutdown()
            if last:
                raise ClusterError(error.format(" ".join(str(e).split()))) from e
    try:
        yield
    finally:
        ray.shutdown()


def _run(tasks: list[Task], callbacks: Callbacks, gpus: float, retries: int) -> list[Failure]:
    import ray
    import ray.exceptions

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for task in tasks:  # else Ray waits for such a machine for ever
        if not any(has.get("CPU", 0) >= task.threads and has.get("GPU", 0) >= gpus for has in machines):
            raise ClusterError(
                f"{task.name} takes {task.threads} cores and {gpus:g} GPUs, and no machine of the cluster has as many; "
                "set `threads` in the study file, or --gpus"
            )
    environment = settings()
    remote = ray.remote(num_gpus=gpus, max_retries=retries)(_on_a_node)
    failures: list[Failure] = []
    waiting: dict[Any, Task] = {}
    references: dict[str, Any] = {}
    for task in tasks:
        before = [references[name] for name in sorted(task.after) if name in references]
        reference = remote.options(num_cpus=task.threads).remote(task, environment, *before)
        waiting[reference], references[task.name] = task, reference
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=0.5)
        for reference in done:
            task = waiting.pop(reference)
            seconds = 0.0
            try:
                failure, seconds = ray.get(reference)
            except ray.exceptions.RayError as e:
                failure = Failure(task, type(e).__name__, f"{type(e).__name__}: {str(e).splitlines()[0]}")
            if failure and failure.kind == LEFT_OUT:
                continue
            if failure:
                failures.append(failure)
            callbacks.done(task, seconds, failure)
        callbacks.tick({})
    return failures


LEFT_OUT = "left out"


def _on_a_node(
    task: Task, environment: dict[str, str], *before: tuple[Failure | None, float]
) -> tuple[Failure | None, float]:
    """One task on the machine that Ray chose, in a forked process as on one machine: its failure, its seconds.

    before: what the tasks that it needs came to.
    """
    if any(failure for failure, _ in before):
        return Failure(task, LEFT_OUT, "a task that it needs failed"), 0.0
    started = time.monotonic()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    slot = {**environment, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})}
    failures = run_here([task], [slot])
    return failures[0] if failures else None, time.monotonic() - started
