"""Study -> data, teachers, soft targets, cells -> papermill runs; what is done is not done again. Loads no torch."""

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .. import files, paths, records
from ..records import Record
from ..study import Cell, Study
from .pool import Failure, Task, run_tasks


class GridError(RuntimeError):
    """A stage that cannot start; the message names what comes first, or who is in the way."""


@dataclass(frozen=True)
class Where:
    """Where tasks run, none of which changes a figure on the same kind of device.

    jobs: side by side, on this machine. device: auto, cpu, cuda or mps. engine: local or ray. address: of a running
    Ray cluster. gpus: how much of a GPU a run takes on Ray (default: one with device cuda, else none).
    """

    jobs: int | None = None
    device: str = "auto"
    engine: str = "local"
    address: str | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class State:
    """How far a study is: its teachers and its cells, each with its record if it is done, and the failures."""

    dataset: dict | None
    teachers: dict[str, Record | None]
    teacher: Record | None
    cells: dict[Cell, Record | None]
    failures: dict[str, str]
    running: dict[str, tuple[int, int, float]]  # name -> epochs done, of how many, seconds an epoch
    others: int  # finished cells of other settings
    folders: dict[str, Path]

    def seconds_left(self) -> tuple[float, list[str]]:
        """Seconds that the cells that are not done will take, and the students for whom that is not known.

        A student's pace is that of its finished cells, or, as long as it has none, of those that are running; a
        student that has neither is named and not counted.
        """
        finished, current = defaultdict(list), defaultdict(list)
        for cell, record in self.cells.items():
            if record:
                finished[cell.student].append(record["cost"]["train_seconds"])
            elif cell.name in self.running:
                _, of, each = self.running[cell.name]
                current[cell.student].append(of * each)
        pace = {student: sum(s) / len(s) for student, s in {**current, **finished}.items()}
        work, unknown = 0.0, []
        for cell in (cell for cell, record in self.cells.items() if record is None):
            done, of, _ = self.running.get(cell.name, (0, 1, 0))
            if cell.student in pace:
                work += pace[cell.student] * (1 - done / of)
            elif cell.student not in unknown:
                unknown.append(cell.student)
        return work / max(1, len(self.running)), unknown


def state(study: Study) -> State:
    """How far the study is, from what lies on disk."""
    noted = records.noted_data(study)
    if noted is None:
        teachers = {c.label: None for c in study.teacher.candidates}
        return State(None, teachers, None, dict.fromkeys(study.cells()), {}, {}, records.others(study, []), {})
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
    failures, running = {}, {}
    since = _changed(_holder(study)) or float("inf")  # what is older was left by a command that is gone
    for name, folder in folders.items():
        failure, progress = _read(folder / "failure.json"), _read(folder / "progress.json")
        if failure and not (folder / "record.json").is_file():
            failures[name] = failure["error"]
        elif progress and _changed(folder / "progress.json") > since:
            running[name] = (progress["epoch"], progress["epochs"], progress["epoch_seconds"])
    fitting = records.students(study, fingerprint, teacher) if teacher else []
    return State(noted, teachers, teacher, cells, failures, running, records.others(study, fitting), folders)


def _holder(study: Study) -> Path:
    """Says who holds the study."""
    return paths.results(study.name) / "study.holder"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def held(study: Study):
    """Hold the study: a second command that would write to it is told so. The lock ends with its process.

    What a killed command left half-written is swept away first.
    """
    path = paths.results(study.name) / "study.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = _holder(study)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "a process that is just starting"
        raise GridError(
            f"another kd command is working on study '{study.name}': {who.strip()}; "
            f"wait for it, or watch it with: kd status {study.name}"
        ) from None
    try:
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        holder.write_text(f"process {os.getpid()} on {platform.node()}, since {now}\n", encoding="utf-8")
        for folder in (paths.results(study.name), paths.arrays(""), paths.soft_targets("")):
            files.sweep(folder)
        yield
    finally:
        files.remove(holder)
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
    from ..learning import data

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


def soft_target_tasks(study: Study, seed: int, device: str = "auto") -> list[Task]:
    """The views of a seed whose soft targets are missing and that a cell which is still to be run will ask for."""
    from ..learning import data
    from ..learning.soft_targets import SoftTargets

    found = state(study)
    if found.teacher is None:
        raise GridError(f"study '{study.name}' has no teacher yet; run: kd teacher {study.name}")
    left = [c for c, record in found.cells.items() if c.seed == seed and record is None]
    if not any(study.taught_by(c) == "teacher" for c in left):
        return []
    store = SoftTargets.of(study, seed, found.teacher, data.load(study))
    tasks = [
        Task(
            f"soft targets, seed {seed}, view {view}",
            compute_view,
            {"file": study.file, "seed": seed, "view": view, "device": device},
            paths.results(study.name) / f"soft-targets-seed{seed}-view{view:04d}",
        )
        for view in range(study.view_count())
        if not store.has(view)
    ]
    if tasks and not (found.teacher.folder / "weights.safetensors").is_file():
        raise GridError(
            f"the teacher's weights are not here (they are not kept in git), and {len(tasks)} views have no soft "
            f"targets: bring {found.teacher.folder}/weights.safetensors, or delete that folder and run the command "
            "again to train the teacher anew, which runs its students anew unless it comes out the same to the bit"
        )
    return tasks


def compute_view(file: str, seed: int, view: int, device: str) -> None:
    """One view's soft targets, in a process of its own."""
    from .. import study
    from ..learning import run as runs

    runs.compute_soft_targets(study.load(file), seed, [view], device)


def cell_tasks(study: Study, cells: list[Cell], device: str = "auto") -> list[Task]:
    """Those of these cells that are still to be run and that can be, each a run of distill.ipynb.

    Self-distillation can once the student's own baseline is done.
    """
    found = state(study)
    if found.teacher is None:
        raise GridError(f"study '{study.name}' has no teacher yet; run: kd teacher {study.name}")
    baselines = {(c.student, c.seed) for c, record in found.cells.items() if record and c.T is None}
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
                "method": cell.method,
                "seed": cell.seed,
                "device": device,
            },
            study.training(study.student(cell.student), teacher=False).epochs,
        )
        for cell in cells
        if found.cells[cell] is None and (study.taught_by(cell) != "self" or (cell.student, cell.seed) in baselines)
    ]


def execute(notebook: str, output: str, parameters: dict) -> None:
    """One notebook, in a process of its own."""
    from .kernels import run_notebook

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
    where: Where,
    on_done: Callable[[Task, float, str], None],
    **callbacks: Callable,
) -> list[Failure]:
    """Run tasks side by side; results.csv is written anew after each one that is done. Returns the failures.

    on_done; callbacks: on_retry and on_tick, as run_tasks takes them.
    """

    def after(task: Task, seconds: float, error: str) -> None:
        if not error:
            write_results(study)
        on_done(task, seconds, error)

    callbacks["on_done"] = after
    if where.engine == "ray":
        from . import cluster

        gpus = where.gpus if where.gpus is not None else float(where.device == "cuda")
        return cluster.run_tasks(tasks, cpus=study.threads, gpus=gpus, address=where.address, **callbacks)
    return run_tasks(tasks, slots(study, where.jobs, where.device), **callbacks)


def write_results(study: Study) -> None:
    """Write results.csv anew from the records."""
    found = state(study)
    if found.teacher:
        finished = records.students(study, found.dataset["fingerprint"], found.teacher)
        if finished:
            records.write_csv(study, finished)
