"""A run before it is one: all that its metrics depend on, and the folder that it writes to. Loads no torch."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cells import Cell
from ..keys import student_settings, teacher_settings
from ..records import Record, StudentRecord, TeacherRecord
from ..schema import Candidate, Model, Train
from ..shelf import Shelf, ShelfError
from ..study import Study


class RunError(RuntimeError):
    """A run that cannot start; the message names the command that comes first, or the parameter at fault."""


@dataclass(frozen=True)
class Plan:
    """One run to be done: all that its metrics depend on, and the folder that it writes to.

    cell, teacher: of a student, the cell and the study's teacher; None of a teacher.
    """

    study: Study
    label: str
    seed: int
    model: Model
    train: Train
    settings: dict[str, Any]
    folder: Path
    cell: Cell | None = None
    teacher: TeacherRecord | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What tells the run from others of its study, by the names that its record uses."""
        if self.cell is None or self.teacher is None:
            return {"teacher": self.label, "seed": self.seed}
        cell = {k: getattr(self.cell, k) for k in ("student", "method", "T", "alpha")}
        return {**cell, "teacher": self.teacher.teacher, "teacher_id": self.teacher.id, "seed": self.seed}

    @property
    def views(self) -> range:
        """The numbers of the views that the run sees."""
        return self.study.views_of(self.train.epochs)


def plan_teacher(shelf: Shelf, label: str) -> Plan:
    """The run of a candidate. Raises StudyError for a label that the study does not have, ShelfError without data."""
    return _plan_candidate(shelf, shelf.study.candidate(label))


def plan_early_teacher(shelf: Shelf) -> Plan:
    """The run of the chosen teacher's candidate for one epoch. Raises ShelfError while there is no teacher."""
    return _plan_candidate(shelf, shelf.early_candidate)


def _plan_candidate(shelf: Shelf, candidate: Candidate) -> Plan:
    settings = teacher_settings(shelf.study, candidate, shelf.fingerprint)
    return Plan(
        study=shelf.study,
        label=candidate.label,
        seed=shelf.study.teacher.seed,
        model=candidate,
        train=shelf.study.training(candidate, teacher=True),
        settings=settings,
        folder=shelf.teacher_folder_of(candidate.label, settings),
    )


def plan_random_teacher(shelf: Shelf) -> Plan:
    """The chosen teacher's architecture with random weights: never trained. Raises ShelfError without a teacher."""
    chosen = plan_teacher(shelf, shelf.chosen_teacher().teacher)
    model = chosen.model.model_copy(update={"pretrained": False})
    settings = {**chosen.settings, "kind": "random teacher", "model": {**chosen.settings["model"], "pretrained": False}}
    return replace(chosen, model=model, settings=settings, folder=shelf.teacher_folder_of(chosen.label, settings))


def plan_student(shelf: Shelf, cell: Cell) -> Plan:
    """The run of a cell. Raises ShelfError, naming the command, while the study has no teacher."""
    study, model, chosen = shelf.study, shelf.study.student(cell.student), shelf.chosen_teacher()
    return Plan(
        study=study,
        label=cell.student,
        seed=cell.seed,
        model=model,
        train=study.training(model, teacher=False),
        settings=student_settings(study, cell, shelf.fingerprint, chosen.weights_sha256),
        folder=shelf.student_folder(cell),
        cell=cell,
        teacher=chosen,
    )


def finished(study: Study, name: str = "") -> tuple[Plan, Record]:
    """A finished run by its name, as `kd status` calls a cell or a candidate; '' for the best student.

    The best is the one of the highest accuracy on held-out images, or on val where there are none. Raises ShelfError,
    and RecordError where one cannot be trusted.
    """
    shelf = Shelf(study)
    shelf.check()
    runs: dict[str, Record] = {record.cell.name: record for record in shelf.students}
    runs |= {record.teacher: record for record in shelf.teachers}
    if not name and shelf.students:
        name = max(shelf.students, key=lambda record: record.score).cell.name
    if name not in runs:
        close = difflib.get_close_matches(name, runs, 3, 0.3)
        wanted = f"no finished run {name!r}" if name else "no student is done yet"
        hint = f"did you mean {' or '.join(close)}?" if close else f"see: kd status {study.name}"
        raise ShelfError(f"{wanted} in study '{study.name}'; {hint}")
    record = runs[name]
    cell = record.cell if isinstance(record, StudentRecord) else None
    return (plan_student(shelf, cell) if cell else plan_teacher(shelf, record.teacher)), record
