"""How long a study still takes, from what its runs took and from how far those are that run. Loads no torch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ..duration import duration
from ..shelf import VIEW, RunProgress, Shelf


@dataclass(frozen=True)
class Left:
    """What is left of a study. seconds: of what is known; without: what is still to be run and of unknown duration."""

    seconds: float
    without: tuple[str, ...]

    @property
    def short(self) -> str:
        """In few words: 'at least' where something is not counted; '' where nothing is known."""
        return f"{'at least' if self.without else 'about'} {duration(self.seconds)} left" if self.seconds else ""

    def __str__(self) -> str:
        """The same words, and the names of what is not counted."""
        return self.short + (f"; not counted: {', '.join(self.without)}" if self.seconds and self.without else "")


def of_stage(done: int, total: int, seconds: float) -> Left:
    """What is left of a stage that came so far in so many seconds; of what comes after it nothing is known."""
    return Left(seconds * (total - done) / done if done else 0.0, ("what comes after it",))


def left(
    shelf: Shelf, running: Mapping[str, RunProgress], side_by_side: int, took: Mapping[str, float] | None = None
) -> Left:
    """What is left of teachers, soft targets and cells, as many at a time as are said to run side by side.

    took: seconds that tasks took from their start to their end, by their names, as the command at work has seen it.
    A student's pace is that of its cells among them; else what its finished cells trained for; else that of those that
    are running. Of a candidate it is known once it runs, of soft targets once there is a teacher.
    """
    took = took or {}
    seen, recorded, current = defaultdict(list), defaultdict(list), defaultdict(list)
    for cell, record in shelf.cells.items():
        if record and cell.name in took:
            seen[cell.student].append(took[cell.name])
        elif record:
            recorded[cell.student].append(record.cost.train_seconds)
        elif (at := running.get(cell.name)) and at.epochs:
            current[cell.student].append(at.epochs * at.epoch_seconds)
    pace = {name: _mean(seconds) for name, seconds in {**current, **recorded, **seen}.items()}
    work, without = _soft_targets(shelf, took), []
    teachers = {**shelf.candidates, **shelf.controls}
    for label in (label for label, record in teachers.items() if record is None):
        if (at := running.get(label)) and at.epochs:
            work += (at.epochs - at.epoch) * at.epoch_seconds
        else:
            without.append(label)
    for cell in (cell for cell, record in shelf.cells.items() if record is None):
        at = running.get(cell.name)
        if cell.student in pace:
            work += pace[cell.student] * (1 - at.epoch / at.epochs if at and at.epochs else 1)
        elif cell.student not in without:
            without.append(cell.student)
    return Left(work / max(1, side_by_side), tuple(dict.fromkeys(without)))


def _soft_targets(shelf: Shelf, took: Mapping[str, float]) -> float:
    """Seconds for the soft targets that are missing: as those before them took, or as the teacher was judged."""
    from ..learning.soft_targets import views_missing

    teacher = shelf.teacher
    if teacher is None or shelf.dataset is None:
        return 0.0
    study = shelf.study
    taught = {cell.seed for cell, r in shelf.cells.items() if r is None and study.taught_by(cell) == "teacher"}
    views = sum(views_missing(study, seed, teacher, shelf.fingerprint) for seed in taught)
    if seen := [seconds for name, seconds in took.items() if name.startswith(VIEW.partition(" {")[0])]:
        return views * _mean(seen)
    rate = teacher.cost.inference_images_per_second
    return views * shelf.dataset["counts"]["train"] / rate if rate else 0.0


def _mean(seconds: list[float]) -> float:
    return sum(seconds) / len(seconds)
