"""Which records answer a study: done, failed, running, of other settings. The only place that asks. Loads no torch.

A record answers if and only if the name of its folder ends in the key of what the study asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from . import files, paths, records
from .cells import Cell
from .data_notes import AboutData, claim, contradicted, data_spec, read_about
from .holder import Holder
from .keys import key, student_settings, teacher_settings
from .records import Record, RecordError, StudentRecord, TeacherRecord
from .schema import Candidate
from .study import Study
from .text import duration

VIEW = "soft targets, seed {}, view {}"  # what the task is called that computes a view's soft targets
EARLY = "early teacher"  # what the run is called of the chosen teacher's candidate for one epoch


class ShelfError(RuntimeError):
    """A step that cannot start from what is there; the message names the command that comes first."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run is that is not done: epochs done, of how many, and the seconds and pace of the latest one.

    An epoch may be done in part. All are 0 of a run that has just begun.
    """

    epoch: float = 0
    epochs: int = 0
    epoch_seconds: float = 0.0
    images_per_second: float = 0.0

    def __str__(self) -> str:
        if not self.epochs:
            return "just begun"
        done = f"{self.epoch:.2f}".removesuffix(".00")
        pace = f"{duration(self.epoch_seconds)} an epoch, {self.images_per_second:,.0f} images/s"
        return f"{done} of {self.epochs} epochs, {pace}"


class Shelf:
    """The records of one study as its file stands. Each is read once; `take` reads that of a run which has ended.

    A damaged one does not hide the others: it counts as not done, and is in `damaged`.
    """

    def __init__(self, study: Study) -> None:
        claim(study)
        self.study = study
        self._run_ids: dict[Cell, str] = {}
        self._damaged: dict[str, RecordError] = {}

    @cached_property
    def dataset(self) -> dict[str, Any] | None:
        """fingerprint, classes, counts and image_size of the data that the records are of; None if not prepared."""
        path = paths.results(self.study.name) / paths.DATA
        about = read_about(path, AboutData)
        if (about is None and path.exists()) or (about and contradicted(about)):
            raise ShelfError(f"{path}: damaged; restore it, or write it again with: kd data {self.study.name}")
        return about if about and about["spec"] == data_spec(self.study.data) else None

    @property
    def fingerprint(self) -> str:
        """The data's. Raises ShelfError if they are not prepared."""
        if self.dataset is None:
            raise ShelfError(f"the data of study '{self.study.name}' are not prepared; run: kd data {self.study.name}")
        return self.dataset["fingerprint"]

    def _read(self, folder: Path) -> Record | None:
        """The record in a run's folder; None if the run is not done, or its record cannot be trusted."""
        try:
            return records.read(folder)
        except RecordError as e:
            self._damaged[folder.name] = e
            return None

    @property
    def damaged(self) -> dict[str, RecordError]:
        """Why records in the study's results cannot be trusted, by the names of their folders."""
        _ = self.candidates, self.controls, self._on_disk
        return self._damaged

    @property
    def damaged_teachers(self) -> list[RecordError]:
        """The same of the candidates: as long as there are some, nobody knows which one teaches."""
        if self.dataset is None:
            return []
        folders = [self.teacher_folder(label).name for label, record in self.candidates.items() if record is None]
        return [self._damaged[name] for name in folders if name in self._damaged]

    @property
    def damaged_runs(self) -> set[str]:
        """The names of runs that the study asks for and whose records cannot be trusted, as far as they are known."""
        return {name for name, folder in self.folders() if folder.name in self.damaged} if self.damaged else set()

    def check(self) -> None:
        """Raises RecordError for a record that cannot be trusted, before it is taken for a run that is not done."""
        for error in self.damaged.values():
            raise error

    @cached_property
    def candidates(self) -> dict[str, TeacherRecord | None]:
        """Every candidate of the study, in its order, with its record if it is trained."""
        if self.dataset is None:
            return dict.fromkeys(c.label for c in self.study.teacher.candidates)
        read = {c.label: self._read(self.teacher_folder(c.label)) for c in self.study.teacher.candidates}
        return {label: record if isinstance(record, TeacherRecord) else None for label, record in read.items()}

    @property
    def teachers(self) -> list[TeacherRecord]:
        """The trained candidates, best first (of equals, the earlier in the study file)."""
        return sorted((r for r in self.candidates.values() if r), key=lambda r: -r.score)

    @cached_property
    def teacher(self) -> TeacherRecord | None:
        """The study's teacher: the best candidate, once every one of them is trained; None before that."""
        return self.teachers[0] if self.teachers and None not in self.candidates.values() else None

    def chosen_teacher(self) -> TeacherRecord:
        """The study's teacher. Raises ShelfError, naming the command, while there is none; RecordError."""
        self.fingerprint  # noqa: B018 - raises where there are no data yet
        if self.teacher is None:
            for error in self.damaged_teachers:
                raise error
            raise ShelfError(
                f"study '{self.study.name}' has no teacher yet ({len(self.teachers)} of {len(self.candidates)} "
                f"candidates trained){self.failed or f'; run: kd teacher {self.study.name}'}"
            )
        return self.teacher

    def teacher_folder(self, label: str) -> Path:
        """Where the run of a candidate lies, done or not."""
        settings = teacher_settings(self.study, self.study.candidate(label), self.fingerprint)
        return self.teacher_folder_of(label, settings)

    def teacher_folder_of(self, label: str, settings: dict[str, Any]) -> Path:
        """Where the run of a teacher of these settings lies, done or not."""
        return paths.run(self.study.name, "teacher", f"{label}-s{self.study.teacher.seed}-{key(settings)}")

    @property
    def early_candidate(self) -> Candidate:
        """The chosen teacher's candidate, to be trained for one epoch. Raises ShelfError while there is no teacher."""
        chosen = self.study.candidate(self.chosen_teacher().teacher)
        return chosen.model_copy(update={"train": {**chosen.train, "epochs": 1}})

    @property
    def early_folder(self) -> Path:
        """Where its run lies, done or not."""
        candidate = self.early_candidate
        return self.teacher_folder_of(candidate.label, teacher_settings(self.study, candidate, self.fingerprint))

    @cached_property
    def controls(self) -> dict[str, TeacherRecord | None]:
        """The trained teachers that control cells of the study learn from, with their records: EARLY, or none."""
        if self.teacher is None or not any(self.study.taught_by(cell) == "early" for cell in self.study.cells()):
            return {}
        record = self._read(self.early_folder)
        return {EARLY: record if isinstance(record, TeacherRecord) else None}

    def student_folder(self, cell: Cell) -> Path:
        """Where the run of a cell lies, done or not. Raises ShelfError while there is no teacher."""
        return paths.run(self.study.name, "student", self._run_id(cell))

    def _run_id(self, cell: Cell) -> str:
        """The name of a cell's folder, by which its record is known."""
        if cell not in self._run_ids:
            settings = student_settings(self.study, cell, self.fingerprint, self.chosen_teacher().weights_sha256)
            self._run_ids[cell] = f"{cell.name}-{key(settings)}"
        return self._run_ids[cell]

    @cached_property
    def _on_disk(self) -> dict[str, StudentRecord]:
        """Every finished student in the study's results, whatever its settings, by the name of its folder."""
        folders = sorted((paths.results(self.study.name) / "students").glob("*/"))
        read = ((folder.name, self._read(folder)) for folder in folders)
        return {name: record for name, record in read if isinstance(record, StudentRecord)}

    @cached_property
    def _answering(self) -> dict[Cell, StudentRecord]:
        """The finished runs that fit the study as it stands, points off its grid among them."""
        if self.teacher is None:
            return {}
        labels = {s.label for s in self.study.students}
        methods = {"kd", *(m.label for m in self.study.methods)}
        return {
            r.cell: r
            for name, r in self._on_disk.items()
            if r.student in labels and r.method in methods and self._run_id(r.cell) == name
        }

    @property
    def cells(self) -> dict[Cell, StudentRecord | None]:
        """Every cell of the study, in the order in which they are run, with its record if it is done."""
        return {cell: self._answering.get(cell) for cell in self.study.cells()}

    @property
    def students(self) -> list[StudentRecord]:
        """All finished runs that fit the study as it stands, off-grid points among them, sorted as results.csv is."""
        order = ["kd", *(m.label for m in self.study.methods)]
        return sorted(
            self._answering.values(),
            key=lambda r: (order.index(r.method), r.student, r.T is None, r.T or 0, r.alpha, r.seed),
        )

    @property
    def others(self) -> int:
        """How many finished students lie in the study's results that do not fit the study as it stands."""
        return len(self._on_disk) - len(self._answering)

    def record(self, cell: Cell) -> StudentRecord | None:
        """The record of a cell, one off the grid too; None if it is not done."""
        return self._answering.get(cell)

    def done(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return cell in self._answering

    def take(self, folder: Path) -> Record | None:
        """Read the record of a run that has just ended: one file. Returns it, None if the run is not done."""
        record = records.read(folder)
        if isinstance(record, TeacherRecord) and folder.name != self.teacher_folder(record.teacher).name:
            self.controls[EARLY] = record
        elif isinstance(record, TeacherRecord):
            self.candidates[record.teacher] = record
            self._run_ids.clear()  # which students fit depends on the teacher
            for name in ("teacher", "controls", "_answering"):
                self.__dict__.pop(name, None)
        elif record is not None:
            self._on_disk[folder.name] = record
            self._answering[record.cell] = record
        return record

    def folders(self) -> Iterator[tuple[str, Path]]:
        """The folder of every run that the study asks for, by the run's name, as far as it can be told by now."""
        if self.dataset is not None:
            yield from ((label, self.teacher_folder(label)) for label in self.candidates)
        if self.teacher is not None:
            yield from ((name, self.early_folder) for name in self.controls)
            yield from self._views()
            yield from ((cell.name, self.student_folder(cell)) for cell in self.study.cells())

    def _views(self) -> Iterator[tuple[str, Path]]:
        """The folders of soft targets that failed, of seeds with cells still to be run, by the names of their tasks."""
        seeds = {cell.seed for cell, record in self.cells.items() if record is None}
        for seed in sorted(seeds):
            for folder in sorted(paths.results(self.study.name).glob(paths.VIEW_TASK.format(seed, "*"))):
                number = folder.name.removeprefix(paths.VIEW_TASK.format(seed, ""))
                if number.isdigit() and (folder / paths.FAILURE).is_file():
                    yield VIEW.format(seed, int(number)), folder

    def failures(self) -> dict[str, str]:
        """Why runs failed that are not done, and soft targets that they wait for, by their names."""
        unfinished = [*self._unfinished(), *(self._views() if self.teacher is not None else ())]
        reasons = ((name, files.read_json(folder / paths.FAILURE, error=str)) for name, folder in unfinished)
        return {name: reason["error"] for name, reason in reasons if reason}

    @property
    def failed(self) -> str:
        """How many runs failed, and where to see why, to be added to what is done; '' where none did."""
        count = len(self.failures())
        return f", {count} failed; see why with: kd logs {self.study.name}" if count else ""

    @property
    def at_work(self) -> str:
        """The command that works on the study, 'process 12 on host, since ...'; '' where none does."""
        holder = Holder.of(paths.results(self.study.name))
        return "" if holder is None or holder.gone else str(holder)

    def running(self) -> dict[str, RunProgress]:
        """The runs that a living command is working on, by their names."""
        since = _changed(paths.results(self.study.name) / paths.HOLDER) if self.at_work else 0.0
        progress = {}
        for name, folder in self._unfinished() if since else ():
            # what is older than the holder was left by a command that is gone
            if _changed(folder / paths.PROGRESS) > since and (at := _progress(folder)):
                progress[name] = at
            elif _changed(folder / paths.LOG) > since and not (folder / paths.FAILURE).is_file():
                progress[name] = RunProgress()
        return progress

    def _unfinished(self) -> Iterator[tuple[str, Path]]:
        if self.dataset is not None:
            waiting = (label for label, record in self.candidates.items() if record is None)
            yield from ((label, self.teacher_folder(label)) for label in waiting)
        if self.teacher is not None:
            yield from ((name, self.early_folder) for name, record in self.controls.items() if record is None)
            waiting = (cell for cell, record in self.cells.items() if record is None)
            yield from ((cell.name, self.student_folder(cell)) for cell in waiting)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _progress(folder: Path) -> RunProgress | None:
    number = (int, float)
    path = folder / paths.PROGRESS
    at = files.read_json(path, epoch=number, epochs=int, epoch_seconds=number, images_per_second=number)
    return RunProgress(**{f.name: at[f.name] for f in fields(RunProgress)}) if at else None
