"""A study, from its file to its report: the stages in their order; what is done is not done again. Loads no torch."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.util import get_temp_dir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from .. import files, machine, paths, records
from ..cells import Cell
from ..data_notes import note
from ..holder import Holder
from ..learning.plans import plan_early_teacher
from ..records import TeacherRecord
from ..schema import Candidate, Model
from ..shelf import EARLY, VIEW, Shelf
from ..study import Study, as_read
from ..study import load as load_study
from ..text import short
from . import cluster, events, pace
from .events import Listener
from .pool import PRELOADED_FOR_REPORT, Callbacks, Failure, Task, run_tasks, warm_up

if TYPE_CHECKING:
    from ..learning.data import Dataset


class PipelineError(RuntimeError):
    """A stage that cannot start; the message names what comes first, or who is in the way."""


class RemovedError(PipelineError):
    """Something that a command was working on is gone; the message names it and what to do."""

    exit_code = 1


@dataclass(frozen=True)
class Resources:
    """What tasks run on, none of which changes a metric on the same kind of device.

    jobs: side by side, on this machine. device: auto, cpu, cuda or mps. engine: local or ray. address: of a running
    Ray cluster. gpus: how many GPUs a run takes on Ray, fractions too (default: with device cuda as many as
    data_parallel says, else none).
    """

    jobs: int | None = None
    device: str = "auto"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    gpus: float | None = None


HERE = Resources()


def run_study(
    study: str | Study = "digits",
    *,
    source: str | Path | None = None,
    where: Resources = HERE,
    on_event: Listener | None = None,
) -> bool:
    """Do a whole study, each step only as far as it is not done. Returns whether every run succeeded.

    study: the name of a file in studies/, a path, or a Study. source: where the data set lies (see data.prepare).
    on_event: is told what happens (see events.py); by default a line is printed for each thing that ends, and a bar.
    A run that fails is reported and stops no other. Raises the package's errors for what cannot start at all.
    """
    study = study if isinstance(study, Study) else load_study(study)
    tell = on_event or events.Printer()
    with held(study):
        if where.engine == "local":
            warm_up()
        _check_names(study)
        prepare_data(study, source, tell)
        shelf = _checked(study, where, tell)
        ok = train_teachers(shelf, where, tell) and run_cells(shelf, where, tell)
        if ok or shelf.students:
            make_report(study, tell)
        else:
            tell(events.Said(f"no report: no cell is done; see why with: kd logs {study.name}"))
    return ok


def run_teachers(study: Study, where: Resources, tell: Listener) -> bool:
    """Train a study's teachers and no more, its data being there. Returns whether every run succeeded."""
    with held(study):
        return train_teachers(_checked(study, where, tell), where, tell)


def run_grid(study: Study, where: Resources, tell: Listener) -> bool:
    """Run a study's cells and no more, its teacher being there. Returns whether every run succeeded."""
    with held(study):
        return run_cells(_checked(study, where, tell), where, tell)


def _checked(study: Study, where: Resources, tell: Listener) -> Shelf:
    """The study's shelf, once it is seen that its runs can be made here; see `advise`."""
    shelf = Shelf(study)
    shelf.check()
    advise(shelf, where, tell)
    return shelf


def prepare_data(study: Study, source: str | Path | None, tell: Listener) -> "Dataset":
    """Decode the study's data set, once."""
    from ..learning import data

    began: dict[str, tuple[float, int]] = {}
    clock = _Clock(study)

    def progress(stage: str, done: int, total: int) -> None:
        at, first = began.setdefault(stage, (time.monotonic(), done))
        words = clock.ask(lambda: pace.of_stage(done - first, total - first, time.monotonic() - at), every=1.0)
        tell(events.StageProgress(stage, done, total, words))

    dataset = data.prepare(study, source, progress, lambda text: tell(events.Advised(text)))
    counts = ", ".join(f"{n:,} {split}" for split, n in dataset.meta["counts"].items() if n)
    tell(events.Said(f"data: {study.data.name}, {len(dataset.classes)} classes, {counts} images"))
    return dataset


def train_teachers(shelf: Shelf, where: Resources, tell: Listener) -> bool:
    """Train the candidates that are not trained yet; the best one is the teacher, and its weights are kept apart."""
    from ..learning import data

    note(shelf.study, data.load(shelf.study).meta)  # files that candidates are made of may have come after the data
    ok = run_all("teachers", teacher_tasks(shelf, where.device), shelf, where, tell)
    if shelf.teacher is not None:
        top1, among = shelf.teacher.metrics.top1_best, len(shelf.candidates)
        tell(events.Said(f"teacher: {shelf.teacher.teacher}, {top1:.2%} top-1, best of {among}"))
        if advice := keep_teacher(shelf.study, shelf.teacher):
            tell(events.Advised(advice))
    elif not ok:
        tell(events.Said(f"teachers: {len(shelf.teachers)} of {len(shelf.candidates)} trained{shelf.failed}"))
    return ok


def run_cells(shelf: Shelf, where: Resources, tell: Listener) -> bool:
    """Run the cells that are not done, in the study's order, the soft targets of a seed before the first that asks."""
    ok = run_all("cells", student_tasks(shelf, where.device), shelf, where, tell)
    write_results(shelf)
    done = sum(record is not None for record in shelf.cells.values())
    ok = _all_could_be_run(shelf, tell) and ok
    tell(events.Said(f"cells: {done} of {len(shelf.cells)} done{shelf.failed}"))
    return ok


def _all_could_be_run(shelf: Shelf, tell: Listener) -> bool:
    """Say which cells of self-distillation wait for a baseline that is done, but whose weights are not here."""
    waiting = [cell for cell, r in shelf.cells.items() if r is None and shelf.study.taught_by(cell) == "self"]
    missing = [cell for cell in waiting if shelf.done(cell.baseline)]
    missing = [cell for cell in missing if not baseline_weights(shelf, cell).is_file()]
    if missing:
        where = ", ".join(sorted({paths.shown(baseline_weights(shelf, cell)) for cell in missing}))
        tell(events.Advised(f"{len(missing)} cells learn from baselines whose weights are not here: bring {where}"))
    return not missing


def make_report(study: Study, tell: Listener) -> Path:
    """Make results.csv and the report from the records; returns the PDF's path.

    It is made in a process of its own, forked like the runs. Raises NoResults or PipelineError.
    """
    from ..reporting import results

    warm_up(PRELOADED_FOR_REPORT)  # where no run was started
    shelf = Shelf(study)
    write_results(shelf)  # runs made by hand, without a grid, are in it too
    results.load(study)  # says at once what is missing
    if count := len(shelf.damaged):
        why = next(iter(shelf.damaged.values()))
        tell(events.Advised(f"the report leaves out {count} record{'s' * (count > 1)} that cannot be trusted: {why}"))
    if shelf.failed:
        tell(events.Advised(f"the report has what is done{shelf.failed}"))
    tell(events.StageProgress("report", 0, 0))
    with TemporaryDirectory() as folder:
        failures = run_tasks([Task("report", print_report, {"study": study}, Path(folder) / "report")], [{}])
    if failures:
        raise PipelineError(failures[0].error)
    pdf = paths.report(study.name) / paths.PDF
    tell(events.Said(f"report: {pdf}"))
    return pdf


def print_report(study: Study) -> None:
    """Run analysis.ipynb on the records of the study, as the command has read it, and print it. Raises ReportError."""
    from papermill.exceptions import PapermillExecutionError

    from ..reporting import paper
    from .kernels import run_notebook

    executed = paths.results(study.name) / paths.ANALYSIS
    try:
        with as_read(study, get_temp_dir()):
            nb = run_notebook(str(paths.notebook("analysis")), str(executed), {"study": study.file})
    except PapermillExecutionError as e:
        raise paper.ReportError(f"the analysis failed: {e.evalue}; see {executed}") from None
    paper.write(nb, study)


def write_results(shelf: Shelf) -> None:
    """Write results.csv anew from the records on the shelf."""
    if shelf.students:
        with files.whole(paths.results(shelf.study.name) / paths.RESULTS_CSV) as tmp:
            table = records.table(shelf.students)
            for column in ("T", "alpha"):  # in full, whatever their digits
                table[column] = table[column].map(short, na_action="ignore")
            table.to_csv(tmp, index=False, float_format="%.6g", lineterminator="\n")


MOST_IN_GIT = 20_000_000  # bytes of weights that are kept beside the records, and so in git


def keep_teacher(study: Study, teacher: TeacherRecord) -> str:
    """Put the teacher's weights beside the records, so that the study can go on in a clone; returns advice, or ''."""
    weights, beside = teacher.folder / paths.WEIGHTS, paths.results(study.name) / paths.TEACHER_WEIGHTS
    if not weights.is_file():
        return ""
    size = weights.stat().st_size
    if size > MOST_IN_GIT:
        files.remove(beside)
        return (
            f"the teacher's weights take {size / 1e6:.0f} MB, more than is kept in git "
            f"({MOST_IN_GIT / 1e6:.0f} MB): to go on with this study elsewhere, take {weights} along"
        )
    if not beside.is_file() or files.sha256(beside) != files.sha256(weights):
        with files.whole(beside) as tmp:
            tmp.write_bytes(weights.read_bytes())
    return ""


# --- what is still to be done


def teacher_tasks(shelf: Shelf, device: str = "auto") -> list[Task]:
    """The candidates that are still to be trained, each a run of teacher.ipynb; ensembles behind their members."""
    from ..learning import data

    study = shelf.study
    data.load(study)
    tasks = []
    for model in sorted(study.teacher.candidates, key=lambda candidate: bool(candidate.ensemble)):
        if shelf.candidates[model.label] is None:
            folder, steps = shelf.teacher_folder(model.label), study.training(model, teacher=True).epochs or 1
            parameters = {"candidate": model.label, "device": device}
            task = _notebook(study, "teacher", model.label, folder, parameters, steps, model)
            tasks.append(replace(task, after=frozenset(model.ensemble)))
    return tasks


def student_tasks(shelf: Shelf, device: str = "auto") -> list[Task]:
    """The cells that are still to be run and can be, in the study's order, each behind what it needs.

    That is soft targets, or the teacher of one epoch.
    """
    study, listed = shelf.study, set()
    views = {seed: soft_target_tasks(shelf, seed, device) for seed in study.seeds}
    early = early_teacher_tasks(shelf, device)
    tasks: list[Task] = []
    for cell, task in cell_tasks(shelf, device):
        needed = {"teacher": views[cell.seed], "early": early}.get(study.taught_by(cell), [])
        tasks += [one for one in needed if one.name not in listed]
        listed |= {one.name for one in needed}
        tasks.append(replace(task, after=task.after | {one.name for one in needed}))
    return tasks


def early_teacher_tasks(shelf: Shelf, device: str = "auto") -> list[Task]:
    """The training of the teacher for one epoch, if it is not done and a cell that is still to be run learns from it.

    It waits for no other task: the teacher is chosen by then.
    """
    left = [cell for cell, record in shelf.cells.items() if record is None]
    if not any(shelf.study.taught_by(cell) == "early" for cell in left) or shelf.controls[EARLY]:
        return []
    plan, arguments = plan_early_teacher(shelf), {"study": shelf.study, "device": device}
    return [Task(EARLY, train_early_teacher, arguments, plan.folder, threads=shelf.study.threads_of(plan.model))]


def soft_target_tasks(shelf: Shelf, seed: int, device: str = "auto") -> list[Task]:
    """The views of a seed whose soft targets are missing and that a cell which is still to be run will ask for."""
    left = [cell for cell, record in shelf.cells.items() if cell.seed == seed and record is None]
    if not any(shelf.study.taught_by(cell) == "teacher" for cell in left):
        return []
    return view_tasks(shelf, seed, shelf.study.view_count(), device)


def view_tasks(shelf: Shelf, seed: int, count: int, device: str = "auto") -> list[Task]:
    """Those of the first views of a seed, so many, whose soft targets are missing."""
    from ..learning import data
    from ..learning.soft_targets import SoftTargets

    study, chosen = shelf.study, shelf.chosen_teacher()
    store = SoftTargets.of(study, seed, chosen, data.load(study))
    tasks = [
        Task(
            VIEW.format(seed, view),
            compute_view,
            {"study": study, "seed": seed, "view": view, "device": device},
            paths.results(study.name) / paths.VIEW_TASK.format(seed, f"{view:04d}"),
            threads=study.threads,
        )
        for view in range(count)
        if not store.has(view)
    ]
    beside = paths.results(study.name) / paths.TEACHER_WEIGHTS
    if tasks and not (chosen.folder / paths.WEIGHTS).is_file() and not beside.is_file():
        raise PipelineError(
            f"the teacher's weights are not here, and {len(tasks)} views have no soft targets: bring {beside} (or "
            f"{chosen.folder / paths.WEIGHTS}) from the machine that trained it; or copy {study.file} under another "
            "name and run that: a study of its own, with a teacher trained here"
        )
    return tasks


def cell_tasks(shelf: Shelf, device: str = "auto") -> list[tuple[Cell, Task]]:
    """The cells that are still to be run and that can be, each with its run of distill.ipynb.

    Self-distillation can where the student's own baseline is still to be run, or left its weights here.
    """
    study = shelf.study
    shelf.chosen_teacher()
    tasks = []
    for cell, record in shelf.cells.items():
        learns_from_itself = study.taught_by(cell) == "self"
        if record or (learns_from_itself and shelf.done(cell.baseline) and not baseline_weights(shelf, cell).is_file()):
            continue
        task = cell_task(shelf, cell, device)
        tasks.append((cell, replace(task, after=frozenset([cell.baseline.name])) if learns_from_itself else task))
    return tasks


def cell_task(shelf: Shelf, cell: Cell, device: str = "auto") -> Task:
    """A cell's run of distill.ipynb."""
    model = shelf.study.student(cell.student)
    parameters = {
        "student": cell.student,
        "T": cell.asked_T,
        "alpha": cell.alpha,
        "method": cell.method,
        "seed": cell.seed,
        "device": device,
    }
    steps = shelf.study.training(model, teacher=False).epochs
    return _notebook(shelf.study, "distill", cell.name, shelf.student_folder(cell), parameters, steps, model)


def baseline_weights(shelf: Shelf, cell: Cell) -> Path:
    """The weights of the baseline that a cell of self-distillation learns from; they are not kept in git."""
    return shelf.student_folder(cell.baseline) / paths.WEIGHTS


def _notebook(study: Study, notebook: str, name: str, folder: Path, parameters: dict, steps: int, model: Model) -> Task:
    arguments = {
        "study": study,
        "notebook": str(paths.notebook(notebook)),
        "output": str(folder / f"{notebook}.ipynb"),
        "parameters": {"study": study.file, **parameters},
    }
    return Task(name, execute, arguments, folder, steps, threads=study.threads_of(model))


def compute_view(study: Study, seed: int, view: int, device: str) -> None:
    """One view's soft targets, in a process of its own."""
    from ..learning import run

    run.compute_soft_targets(study, seed, [view], device)


def train_early_teacher(study: Study, device: str) -> None:
    """The teacher's training for one epoch, in a process of its own."""
    from ..learning.run import Run

    Run(plan_early_teacher(Shelf(study)), device).go()


def execute(study: Study, notebook: str, output: str, parameters: dict) -> None:
    """One notebook, in a process of its own.

    study: as the command has read it; so it is for the notebook too. Raises PipelineError if the run has no record
    where the study says.
    """
    from .kernels import run_notebook

    # the folder is removed by the command that was typed, even where this process is killed
    with as_read(study, get_temp_dir()):
        run_notebook(notebook, output, parameters)
    if not (Path(output).parent / paths.RECORD).is_file():
        raise PipelineError(
            f"{Path(output).parent} has no record after its run: it was removed, or a file that its model is made of "
            "changed meanwhile; run the same command again, which takes things as they are then"
        )


# --- doing it


SMALLEST = {  # what there is to be learned in no time
    "data": {"name": "digits", "image_size": 16, "train_per_class": 2, "val_from_train_per_class": 1},
    "train": {"epochs": 1, "batch_size": 20},
    "students": ["test_byobnet"],
    "grid": {"T": [4], "alpha": [0.5]},
}
MOST_STARTS = 4  # side by side, to be measured


def seconds_of_a_start(side_by_side: int) -> float:
    """The seconds that a run takes here beside its training: as runs of next to nothing take, so many side by side.

    Raises PipelineError where such a run fails.
    """
    from ..learning import data

    count, root, took = min(side_by_side, MOST_STARTS), os.environ.get("KD_ROOT"), []
    candidates = [{"model": "test_byobnet", "name": f"candidate-{k}"} for k in range(count)]
    with TemporaryDirectory() as folder:
        os.environ["KD_ROOT"] = folder
        try:
            study = Study.model_validate({**SMALLEST, "teacher": {"candidates": candidates}})
            study = study.model_copy(update={"name": "start", "file": str(Path(folder).resolve() / "start.yaml")})
            data.prepare(study)
            done = Callbacks(done=lambda task, seconds, failure: took.append(seconds))
            imported = Task("imports", os.getpid, {}, Path(folder) / "imports")  # which the first run would wait for
            failures = run_tasks([imported], [{}]) or run_tasks(teacher_tasks(Shelf(study)), [{}] * count, done)
        finally:
            os.environ.pop("KD_ROOT") if root is None else os.environ.update(KD_ROOT=root)
    if failures:
        raise PipelineError(f"no run can be made here: {failures[0].error}")
    return sum(took) / count


ASK_AGAIN = 10.0  # seconds between two estimates of the time left


class _Clock:
    """Tells every few seconds how long the study still takes, and leaves it in a file for `kd status` to say so too."""

    def __init__(self, study: Study) -> None:
        self.note = paths.results(study.name) / paths.LEFT
        self.due, self.words = 0.0, ""

    def ask(self, left: Callable[[], pace.Left], every: float = ASK_AGAIN) -> str:
        """The time left in few words, asked for again where that is due."""
        if (now := time.monotonic()) >= self.due:
            known = left()
            self.due, self.words = now + every, known.short
            with suppress(OSError), files.whole(self.note, durable=False) as tmp:  # a note is worth no failure
                tmp.write_text(str(known), encoding="utf-8")
        return self.words


class _Stage:
    """A stage while its tasks run: it takes in each record as its run ends, and tells of what happens."""

    def __init__(
        self, name: str, tasks: list[Task], shelf: Shelf, dataset: "Dataset", tell: Listener, of_grid: bool
    ) -> None:
        self.name, self.shelf, self.dataset, self.tell, self.of_grid = name, shelf, dataset, tell, of_grid
        self.done, self.total = 0, sum(task.steps for task in tasks)
        self.took = pace.Took()
        self.views_left = Counter(task.arguments["seed"] for task in tasks if task.function is compute_view)
        self.clock = _Clock(shelf.study)
        tell(events.StageProgress(name, 0, self.total))

    def on_done(self, task: Task, seconds: float, failure: Failure | None) -> None:
        _see_that_there_is(self.shelf.study, self.dataset)  # else all that is left would fail, and be blamed for it
        self.done += task.steps
        if failure:
            self.tell(events.Failed(task.name, failure.error, task.folder))
        elif task.function is compute_view:
            self._view_done(task.arguments["seed"], seconds)
        else:
            self._run_done(task, seconds)

    def _view_done(self, seed: int, seconds: float) -> None:
        self.took.views.append(seconds)
        self.views_left[seed] -= 1
        if not self.views_left[seed]:
            named = f"{_named_rightly(self.shelf, seed):.2%} name the right class"
            self.tell(events.Said(f"done: soft targets, seed {seed}, {named}"))

    def _run_done(self, task: Task, seconds: float) -> None:
        self.took.runs[task.name] = seconds
        record = self.shelf.take(task.folder)
        if record is None:  # it was removed just now
            return
        if not isinstance(record, TeacherRecord):
            write_results(self.shelf)
        self.tell(events.Done(task.name, seconds, record.metrics.top1_best))

    def on_retry(self, failure: Failure) -> None:
        self.tell(events.Retried(failure.task.name, failure.error))

    def on_tick(self, running: dict[str, float]) -> None:
        _see_that_there_is(self.shelf.study, self.dataset)
        words = self.clock.ask(lambda: self._left(len(running))) if self.of_grid else ""
        self.tell(events.StageProgress(self.name, self.done + sum(running.values()), self.total, words))

    def _left(self, side_by_side: int) -> pace.Left:
        at = self.shelf.running()
        return pace.left(self.shelf, at, side_by_side or len(at), self.took)  # a cluster does not say how many


def run_all(
    stage: str, tasks: list[Task], shelf: Shelf, where: Resources, tell: Listener, *, of_grid: bool = True
) -> bool:
    """Run tasks side by side, taking in each record as its run ends. Returns whether all succeeded.

    of_grid: by default it is told how long the study still takes.
    """
    if not tasks:
        return True
    from ..learning import data

    dataset, was_edited = data.load(shelf.study), _edited(shelf.study)
    dataset.check()  # once, and not by a failure of every task
    at = _Stage(stage, tasks, shelf, dataset, tell, of_grid)
    callbacks = Callbacks(at.on_done, at.on_retry, at.on_tick)
    if where.engine == "ray":
        gpus = where.gpus if where.gpus is not None else float(shelf.study.data_parallel * (where.device == "cuda"))
        failures = cluster.run_tasks(tasks, callbacks, gpus=gpus, address=where.address)
    else:
        threads = max(task.threads for task in tasks)
        failures = run_tasks(tasks, machine.slots(shelf.study, where.jobs, where.device, threads), callbacks)
    files.remove(at.clock.note)
    if not was_edited and _edited(shelf.study):
        tell(
            events.Advised(
                f"{shelf.study.file} was changed after this command had read it: it goes on with the study as it was; "
                "the next command takes it as it is now"
            )
        )
    return not failures


def _edited(study: Study) -> bool:
    """Whether the study's file is by now another one than was read."""
    try:
        return bool(study.file) and files.sha256(Path(study.file)) != study.sha256
    except OSError:
        return True


def _see_that_there_is(study: Study, dataset: "Dataset") -> None:
    """Raises RemovedError where the results that this command holds, or the decoded images, are gone."""
    _see_that_held(study)
    if not (dataset.folder / paths.META).is_file():
        raise RemovedError(
            f"{dataset.folder} was removed while this command worked on study '{study.name}'; runs that are done stay, "
            f"and the others go on with: kd run {study.name}"
        )


def _named_rightly(shelf: Shelf, seed: int) -> float:
    """The share of training images whose class the soft targets of a seed's first view name."""
    from ..learning import data
    from ..learning.soft_targets import SoftTargets

    dataset = data.load(shelf.study)
    first = SoftTargets.of(shelf.study, seed, shelf.chosen_teacher(), dataset)[0]
    return float((first.argmax(axis=1) == dataset.labels("train")).mean())


def advise(shelf: Shelf, where: Resources, tell: Listener) -> None:
    """Say before hours are spent what speaks against the runs to come.

    It speaks of candidates and students that still have runs to come. Of a cluster's machines nothing is known here.
    Raises MachineError or PipelineError for what cannot be run: a model that cannot be made, soft targets for which
    there is no space.
    """
    study = shelf.study
    candidates = [study.candidate(label) for label, record in shelf.candidates.items() if record is None]
    waiting = {cell.student for cell, record in shelf.cells.items() if record is None}
    students = [student for student in study.students if student.label in waiting]
    if not candidates and not students:
        return
    for advice in machine.check(study, [*candidates, *students], where.device) if where.engine == "local" else ():
        tell(events.Advised(advice))
    from ..learning import data

    dataset = data.load(study)
    images = dataset.meta["counts"]["train"]
    batches = {
        model.label: study.training(model, teacher=model in candidates).batch_size for model in (*candidates, *students)
    }
    if large := [label for label, batch in batches.items() if batch > images]:
        tell(events.Advised(f"a batch is more than the {images:,} training images: {', '.join(large)}"))
    _check_space(shelf, images * len(dataset.classes))
    _check_models(study, [model for model in (*candidates, *students) if model.model or model.files])


def _check_space(shelf: Shelf, numbers: int) -> None:
    """Raise PipelineError if the soft targets that are missing find no space; numbers: a view's logits."""
    study = shelf.study
    views = study.view_count() * len(study.seeds)
    if shelf.teacher is not None:
        views = sum(len(soft_target_tasks(shelf, seed)) for seed in study.seeds)
    need = views * numbers * 2  # bytes, in fp16
    folder = paths.soft_targets("")
    folder.mkdir(parents=True, exist_ok=True)
    if need > (free := shutil.disk_usage(folder).free):
        raise PipelineError(
            f"{folder}: the soft targets of {views} views need {need / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free; "
            "free some, or set fewer `views` in the study"
        )


def _check_models(study: Study, models: list[Model]) -> None:
    """Make each model, and read logits from elsewhere, once, in a process that has torch.

    Raises PipelineError for those that cannot be.
    """
    if not models:
        return
    with TemporaryDirectory() as folder:
        task = Task("models", make_models, {"study": study, "models": models}, Path(folder) / "models")
        failures = run_tasks([task], [{}])
    if failures:
        raise PipelineError(failures[0].error)


def _check_names(study: Study) -> None:
    """Make each model once before data are fetched, so that a misspelt name does not wait for them."""
    from ..learning import data

    if not (data.folder_of(study.data) / paths.META).is_file():
        _check_models(study, [model for model in (*study.teacher.candidates, *study.students) if model.model])


def make_models(study: Study, models: list[Model]) -> None:
    """See to it that each of these models can be made; raises ModelError that says all that cannot.

    Before the data are there, the number of classes is unknown, and heads are not compared with it.
    """
    from ..learning import data
    from ..learning.models import Given, check
    from ..learning.weights import ModelError

    dataset = data.load(study) if (data.folder_of(study.data) / paths.META).is_file() else None
    classes, errors = len(dataset.classes) if dataset else 10, []
    for model in models:
        try:
            if dataset and isinstance(model, Candidate) and model.logits:
                Given.read(Path(model.logits), dataset.meta["counts"], len(dataset.classes))
                continue
            teaches_as_it_is = model in study.teacher.candidates and not study.training(model, teacher=True).epochs
            check(model, classes, study.data.image_size, head=teaches_as_it_is and dataset is not None)
        except ModelError as e:
            errors.append(str(e))
    if errors:
        raise ModelError("; ".join(dict.fromkeys(errors)))


_holds: dict[str, Holder] = {}  # the studies that this process holds, by name, and as whom


def _see_that_held(study: Study) -> None:
    """Raises RemovedError where the results of a study that this process holds were removed, and its lock with them."""
    folder = paths.results(study.name)
    if study.name in _holds and Holder.of(folder) != _holds[study.name]:
        raise RemovedError(
            f"{folder} was removed, or another put in its place, while this command worked on study '{study.name}'; "
            "put it back if it was moved, and run the same command again: it does what is not done there"
        )


@contextmanager
def held(study: Study) -> Iterator[None]:
    """Hold the study: a second command that would write to it is told so. The lock ends with its process.

    What a killed command left half-written is swept away first. Raises PipelineError if another command holds it, and
    RemovedError where the results are removed meanwhile, whatever else goes wrong by that.
    """
    try:
        os.getcwd()  # what every process that is started asks for
    except FileNotFoundError:
        raise PipelineError("the folder that this was started in is gone; change to another one, and repeat") from None
    folder = paths.results(study.name)
    lock = FileLock(folder / paths.LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        who = Holder.of(folder)
        raise PipelineError(
            f"another kd command is working on study '{study.name}': {who or 'a process that is just starting'}; "
            f"wait for it, or watch it with: kd status {study.name}"
        ) from None
    except OSError as e:
        raise _cannot_write(folder, e) from e
    try:
        holder = Holder.here()
        try:
            holder.write(folder)
        except OSError as e:
            raise _cannot_write(folder, e) from e
        files.remove(folder / paths.LEFT)
        for below in (folder, paths.arrays(""), paths.soft_targets("")):
            files.sweep(below)
        cluster.sweep()
        _holds[study.name] = holder
        try:
            yield
        except Exception as e:
            try:
                _see_that_held(study)
            except RemovedError as removed:
                raise removed from e
            raise
        _see_that_held(study)
    finally:
        if (mine := _holds.pop(study.name, None)) and Holder.of(folder) == mine:  # else it is another command's
            for name in (paths.LEFT, paths.HOLDER):
                files.remove(folder / name)
        lock.release()


def _cannot_write(folder: Path, error: OSError) -> PipelineError:
    return PipelineError(
        f"{folder} cannot be written to ({error.strerror}); free space, or change its rights; or let KD_ROOT name "
        "another folder, with the study in its studies/, and run the same command again"
    )
