"""The same tasks on Ray: more machines, or fractions of GPUs. An extra: `uv pip install -e '.[cluster]'`.

All machines see the same root (results and cache) and have the same package installed. Records are the truth: a
node that is lost costs only its unfinished runs, which go on elsewhere from their checkpoints.
"""

import logging
import os
import socket
import time

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

    gpus: what a task takes beside its threads' cores; half a GPU is 0.5, and Ray sets CUDA_VISIBLE_DEVICES. A task
    takes no more than there is on any machine, or Ray waits for such a machine for ever.
    address: of a running cluster; None starts one on this machine. retries: for tasks whose machine was lost.
    Progress within a task is not told. Raises ClusterError.
    """
    if not tasks:
        return []
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ClusterError("Ray is not installed; run: uv pip install -e '.[cluster]'") from None
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():  # by itself ray waits for minutes
        try:
            socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
        except OSError as e:
            raise ClusterError(f"no Ray cluster at {address} ({e}); start one with: ray start --head") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise ClusterError(f"no Ray cluster at {address}: {e}; start one with: ray start --head") from e
    environment = settings()
    remote = ray.remote(num_gpus=gpus, max_retries=retries)(_on_a_node)
    failures: list[Failure] = []
    try:
        waiting, references = {}, {}
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
                    error, seconds = ray.get(reference)
                except ray.exceptions.RayError as e:
                    error = f"{type(e).__name__}: {str(e).splitlines()[0]}"
                if error == LEFT_OUT:
                    continue
                if error:
                    failures.append(Failure(task, error))
                callbacks.done(task, seconds, error)
            callbacks.tick({})
    finally:
        ray.shutdown()
    return failures


LEFT_OUT = "left out, since a task that it needs failed"


def _on_a_node(task: Task, environment: dict[str, str], *before: tuple[str, float]) -> tuple[str, float]:
    """One task on the machine that Ray chose, in a forked process as on one machine: its error or '', its seconds.

    before: what the tasks that it needs came to.
    """
    if any(error for error, _ in before):
        return LEFT_OUT, 0.0
    started = time.monotonic()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    slot = {**environment, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})}
    failures = run_here([task], [slot])
    return failures[0].error if failures else "", time.monotonic() - started
