"""Study -> data, teachers, soft targets, cells -> papermill runs; what is done is not done again. Loads no torch."""

import os
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from . import data, paths, records
from .records import Record
from .soft_targets import SoftTargets
from .study import Cell, Study
from .tasks import Failure, Task, run_tasks


class GridError(RuntimeError):
    """A stage that cannot start; the message names what comes first, or who is in the way."""


@dataclass(frozen=True)
class State:
    """How far a study is: its teachers and its cells, each with its record if it is done, and the failures."""

    dataset: dict | None
    teachers: dict[str, Record | None]
    teacher: Record | None
    cells: dict[Cell, Record | None]
    failures: dict[str, str]


def state(study: Study) -> State:
    """How far the study is, from what lies on disk."""
    noted = data.noted(study)
    if noted is None:
        return State(None, {c.label: None for c in study.teacher.candidates}, None, dict.fromkeys(study.cells()), {})
    fingerprint = noted["fingerprint"]
    folders = {c.label: records.teacher_folder(study, c.label, fingerprint) for c in study.teacher.candidates}
    teachers = {label: records.read(folder) for label, folder in folders.items()}
    teacher = records.best_teacher(study, fingerprint)
    cells: dict[Cell, Record | None] = dict.fromkeys(study.cells())
    if teacher:
        for cell in cells:
            folder = records.student_folder(study, cell, fingerprint, teacher)
            folders[cell.name] = folder
            cells[cell] = records.read(folder)
    failures = {}
    for name, folder in folders.items():
        path = folder / "failure.json"
        if path.is_file() and not (folder / "record.json").is_file():
            failures[name] = path.read_text(encoding="utf-8")
    return State(noted, teachers, teacher, cells, failures)


@contextmanager
def held(study: Study):
    """Hold the study: a second command that would write to it is told so. The lock ends with its process."""
    path = paths.results(study.name) / "study.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise GridError(
            f"another kd command is working on study '{study.name}' (it holds {path}); "
            f"wait for it, or watch it with: kd status {study.name}"
        ) from None
    try:
        yield
    finally:
        lock.release()


def slots(study: Study, jobs: int | None, device: str) -> list[dict[str, str]]:
    """Where runs go side by side: the environment of each.

    On CPUs a run has study.threads threads, and there are as many slots as the cores hold. With GPUs there is a slot
    for each, or one over all with data_parallel. jobs overrides the number.
    """
    gpus = [] if device == "cpu" else _gpus()
    if gpus and study.data_parallel:
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus)}]
    if gpus:
        count = jobs or len(gpus)
        return [{"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} for k in range(count)]
    if device not in ("auto", "cpu"):
        return [{}] * (jobs or 1)
    return [{}] * (jobs or max(1, cores() // study.threads))


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The CUDA devices that may be used, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [v for v in visible.split(",") if v.strip()]
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return found.stdout.split() if found.returncode == 0 else []


def teacher_tasks(study: Study, device: str = "auto") -> list[Task]:
    """The candidates that are still to be trained, each a run of teacher.ipynb."""
    fingerprint = data.load(study).fingerprint
    return [
        _notebook(
            "teacher",
            c.label,
            records.teacher_folder(study, c.label, fingerprint),
            {"study": study.file, "candidate": c.label, "device": device},
            study.training(c, teacher=True).epochs,
        )
        for c in study.teacher.candidates
        if records.read(records.teacher_folder(study, c.label, fingerprint)) is None
    ]


def soft_target_tasks(study: Study, device: str = "auto") -> list[Task]:
    """The views whose soft targets are missing and that a cell which is still to be run will ask for."""
    found = state(study)
    if found.teacher is None:
        raise GridError(f"study '{study.name}' has no teacher yet; run: kd teacher {study.name}")
    tasks = []
    for seed in sorted({c.seed for c, record in found.cells.items() if record is None and c.T is not None}):
        dataset = data.load(study)
        store = SoftTargets.of(study, seed, found.teacher, dataset)
        tasks += [
            Task(
                f"soft targets, seed {seed}, view {view}",
                compute_view,
                {"file": study.file, "seed": seed, "view": view, "device": device},
                paths.results(study.name) / "soft_targets" / f"seed{seed}-view{view:04d}",
            )
            for view in range(study.view_count())
            if not store.has(view)
        ]
    return tasks


def compute_view(file: str, seed: int, view: int, device: str) -> None:
    """One view's soft targets, in a process of its own."""
    from . import runs, study

    runs.compute_soft_targets(study.load(file), seed, [view], device)


def cell_tasks(study: Study, device: str = "auto") -> list[Task]:
    """The cells that are still to be run, each a run of distill.ipynb."""
    found = state(study)
    if found.teacher is None:
        raise GridError(f"study '{study.name}' has no teacher yet; run: kd teacher {study.name}")
    return [
        _notebook(
            "distill",
            cell.name,
            records.student_folder(study, cell, found.dataset["fingerprint"], found.teacher),
            {
                "study": study.file,
                "student": cell.student,
                "T": cell.T or 1.0,
                "alpha": cell.alpha,
                "seed": cell.seed,
                "device": device,
            },
            study.training(study.student(cell.student), teacher=False).epochs,
        )
        for cell, record in found.cells.items()
        if record is None
    ]


def execute(notebook: str, output: str, parameters: dict) -> None:
    """One notebook, in a process of its own."""
    from .forked import run_notebook

    run_notebook(notebook, output, parameters)


def _notebook(notebook: str, name: str, folder, parameters: dict, steps: int) -> Task:
    arguments = {
        "notebook": str(paths.notebook(notebook)),
        "output": str(folder / f"{notebook}.ipynb"),
        "parameters": parameters,
    }
    return Task(name, execute, arguments, folder, steps)


def run(
    study: Study,
    tasks: list[Task],
    *,
    jobs: int | None = None,
    device: str = "auto",
    on_done: Callable | None = None,
    on_tick: Callable | None = None,
) -> list[Failure]:
    """Run tasks side by side, then write results.csv from all records; returns the failures."""
    failures = run_tasks(tasks, slots(study, jobs, device), on_done=on_done, on_tick=on_tick)
    write_results(study)
    return failures


def write_results(study: Study) -> None:
    """Write results.csv anew from the records."""
    found = state(study)
    if found.teacher:
        finished = records.students(study, found.dataset["fingerprint"], found.teacher)
        if finished:
            records.write_csv(study, finished)
