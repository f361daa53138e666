"""How long a study still takes, from what its runs took and from how far those are that run. Loads no torch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ..shelf import RunProgress, Shelf


@dataclass(frozen=True)
class Left:
    """What is left of a study. seconds: of what is known; without: what is still to be run and of unknown duration."""

    seconds: float
    without: tuple[str, ...]

    @property
    def short(self) -> str:
        """In few words: 'over' where something is not counted; '' where nothing is known."""
        if not self.seconds:
            return ""
        about = "over" if self.without else "about"
        return (
            f"{about} {self.seconds / 3600:.1f} h left" if self.seconds > 5400 else f"{about} {self._minutes} min left"
        )

    def __str__(self) -> str:
        """In full: what is not counted is named."""
        if not self.seconds:
            return ""
        left = f"{self.seconds / 3600:.1f} hours" if self.seconds > 5400 else f"{self._minutes} minutes"
        without = f", without {', '.join(self.without)}, not run so far" if self.without else ""
        return f"about {left} left{without}"

    @property
    def _minutes(self) -> int:
        return max(1, round(self.seconds / 60))


def left(shelf: Shelf, running: Mapping[str, RunProgress], side_by_side: int) -> Left:
    """What is left of candidates, soft targets and cells, as many at a time as are said to run side by side.

    A student's pace is that of its finished cells, or, as long as it has none, of those that are running. Of a
    candidate it is known once it runs, of soft targets once there is a teacher.
    """
    finished, current = defaultdict(list), defaultdict(list)
    for cell, record in shelf.cells.items():
        if record:
            finished[cell.student].append(record.cost.train_seconds)
        elif at := running.get(cell.name):
            current[cell.student].append(at.epochs * at.epoch_seconds)
    pace = {name: sum(seconds) / len(seconds) for name, seconds in {**current, **finished}.items()}
    candidates = [label for label, record in shelf.candidates.items() if record is None]
    pace |= {label: at.epochs * at.epoch_seconds for label in candidates if (at := running.get(label))}
    work, without = _soft_targets(shelf), []
    waiting = [(label, label) for label in candidates]
    waiting += [(cell.name, cell.student) for cell, record in shelf.cells.items() if record is None]
    for run, model in waiting:
        at = running.get(run)
        if model in pace:
            work += pace[model] * (1 - at.epoch / at.epochs if at else 1)
        elif model not in without:
            without.append(model)
    return Left(work / max(1, side_by_side), tuple(without))


def _soft_targets(shelf: Shelf) -> float:
    """Seconds for the soft targets that are missing, by the pace at which the teacher was judged."""
    from ..learning.soft_targets import views_missing

    teacher = shelf.teacher
    if teacher is None or shelf.dataset is None:
        return 0.0
    study = shelf.study
    rate = teacher.cost.inference_images_per_second
    taught = {cell.seed for cell, r in shelf.cells.items() if r is None and study.taught_by(cell) == "teacher"}
    views = sum(views_missing(study, seed, teacher, shelf.fingerprint) for seed in taught)
    return views * shelf.dataset["counts"]["train"] / rate if rate else 0.0
