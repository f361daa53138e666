"""Records -> what a study has found, as DataFrames: one row a cell, with intervals and tests. Loads no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files as package_files
from typing import Any, cast

import numpy as np
import pandas as pd

from .. import records
from ..cells import Cell, temperature_at
from ..records import StudentRecord, TeacherRecord
from ..schema import STANDARD
from ..shelf import Shelf
from ..study import Study
from ..study import load as load_study
from ..text import short
from . import names, stats

ACCURACIES = ["top1_best", "top1_last", "top5", "top1_holdout"]
METRICS = [*ACCURACIES, "nll", "ece", "agreement"]
COSTS = ["train_seconds", "images_per_second"]


class NoResults(ValueError):
    """There are no records to show yet; the message names the command that makes them."""


@dataclass(frozen=True)
class Point:
    """A cell without its seed: the one identity of what a row of `Results.cells` is of.

    T: the temperature, None at alpha = 1, the baseline, where the loss does not depend on it. method: kd is the grid;
    else the label of one of the study's further methods. Only columns of a DataFrame have NaN for T.
    """

    student: str
    T: float | None
    alpha: float
    method: str = "kd"

    @classmethod
    def of(cls, cell: Cell) -> "Point":
        """The point of a cell."""
        return cls(cell.student, cell.T, cell.alpha, cell.method)

    @classmethod
    def at(cls, student: str, T: float, alpha: float) -> "Point":
        """The point of the grid at T and alpha; at alpha = 1 it is the baseline."""
        return cls(student, temperature_at(T, alpha), alpha)

    @classmethod
    def baseline(cls, student: str) -> "Point":
        """Training without distillation."""
        return cls(student, None, 1.0)

    @property
    def words(self) -> str:
        """'T = 4, α = 0.5', or 'the baseline'."""
        return "the baseline" if self.T is None else f"T = {short(self.T)}, α = {short(self.alpha)}"

    @property
    def math(self) -> str:
        """`words` as Markdown, its symbols as those of the equations."""
        return "the baseline" if self.T is None else rf"$T$ = {short(self.T)}, $\alpha$ = {short(self.alpha)}"


@dataclass(frozen=True)
class CellRow:
    """One row of `Results.cells`: row["gain"] is the value in that column."""

    point: Point
    values: dict[str, Any]

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


@dataclass(frozen=True)
class ContrastRow:
    """A contrast of the study, and what a student's records say of it.

    cells, against: those that are finished; asked: of how many `cells` the study asks. top1, top1_against: the means of
    both, as Results.cells has them; effect: their difference. alike: p of 'all of `cells` are equally accurate'.
    """

    student: str
    name: str
    cells: list[Point]
    against: list[Point]
    asked: int
    top1: float
    top1_against: float
    effect: stats.Effect
    alike: float
    verdict: stats.Verdict


@dataclass(frozen=True)
class Results:
    """What a study has found so far: its trained candidates and its finished cells."""

    study: Study
    dataset: dict
    teachers: list[TeacherRecord]  # best first
    students: list[StudentRecord]  # sorted as results.csv
    off_grid: Sequence[StudentRecord] = ()  # finished runs of points that the study's grid has not; sorted as well
    damaged: int = 0  # records that cannot be trusted, and are left out

    @property
    def teacher(self) -> TeacherRecord:
        """The best candidate, which taught the students."""
        return self.teachers[0]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, the columns of records.COLUMNS."""
        return records.table(self.students)

    @cached_property
    def models(self) -> dict[str, stats.Additive]:
        """The model of what varies, one a student, over all its runs; its cells are Points."""
        hits: dict[str, dict[Point, dict[int, np.ndarray]]] = {}
        for record in self.students:
            predictions = record.predictions
            right = predictions["predicted"] == predictions["label"]
            hits.setdefault(record.student, {}).setdefault(Point.of(record.cell), {})[record.cell.seed] = right
        return {student: stats.Additive(of_student) for student, of_student in hits.items()}

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell, indexed by its Point.

        Columns: student, method, T (NaN: the baseline), alpha, n (seeds), then means over its seeds (fractions, nats,
        seconds).
        top1 (of top1_best), top1_last, top5, top1_holdout: as if each cell had been run with every seed
        (stats.adjusted); where all cells have the same seeds they are the means over them. gain: top1 less the
        baseline's; gain_low, gain_high: its 95 % interval; p: of no gain; p_holm: corrected for the number of cells of
        that student; ahead: the probability that the cell is more accurate than the baseline in a new run of both;
        verdict: stats.Verdict against the baseline. All by the model of stats.Additive; of further methods they are
        corrected among themselves.
        among_best: whether the cell is in a set of the grid's cells that holds the best one with 95 % confidence; False
        where nothing is known of seeds.
        mix: the teacher's share of the gradient, (1 - alpha) kl_grad over itself plus alpha ce_grad, with the means
        over all epochs of what losses.Loss has.
        """
        runs = self.runs.assign(mix=[_teacher_share(record) for record in self.students])
        by_cell = runs.groupby(["student", "method", "T", "alpha"], dropna=False, sort=True)
        cells = cast(pd.DataFrame, by_cell[[*METRICS, *COSTS, "mix"]].mean())
        cells["n"] = by_cell.size()
        cells = _by_point(cells.reset_index())
        for metric in ACCURACIES:
            cells[metric.removesuffix("_best")] = pd.Series(self._adjusted(metric), dtype=float).reindex(cells.index)
        families = cells.groupby(["student", cells["method"] == "kd"], sort=False)
        return cells.join(pd.concat([self._tested(family) for _, family in families]))

    def _adjusted(self, metric: str) -> dict[Point, float]:
        """A metric of every cell, as if each had been run with every seed that its student has runs of."""
        values: dict[str, dict[tuple[Point, int], float]] = {}
        for record in self.students:
            value = getattr(record.metrics, metric)
            if value is not None:
                values.setdefault(record.student, {})[Point.of(record.cell), record.cell.seed] = value
        return {point: mean for of_student in values.values() for point, mean in stats.adjusted(of_student).items()}

    def _tested(self, family: pd.DataFrame) -> pd.DataFrame:
        """Gains, tests and verdicts of cells of one student that are corrected together; without a baseline NaN."""
        points: list[Point] = list(family.index)
        model, baseline = self.models[points[0].student], Point.baseline(points[0].student)
        distilled = [point for point in points if point != baseline]
        known = baseline in model.cells
        effects = [model.effect({point: 1.0, baseline: -1.0}) if known else stats.UNKNOWN for point in distilled]
        corrected = stats.holm([effect.p for effect in effects])
        told = zip(distilled, effects, corrected, stats.verdicts(effects, self.margin), strict=True)
        nan = float("nan")
        rows = {baseline: [0.0, nan, nan, nan, nan, nan, ""]}
        for point, effect, p_holm, verdict in told:
            rows[point] = [effect.value, *effect.interval(), effect.p, p_holm, effect.ahead, verdict]
        columns = ["gain", "gain_low", "gain_high", "p", "p_holm", "ahead", "verdict"]
        best = model.among_best(points) if model.freedom and baseline in points else set()
        frame = pd.DataFrame([rows[point] for point in points], columns=pd.Index(columns), index=family.index)
        return frame.assign(among_best=[point in best for point in points])

    def contrasts(self, student: str) -> list[ContrastRow]:
        """The contrasts that the study asks for, of the finished cells of one student; those that can be told."""
        model, rows = self.models[student], []
        top1 = dict(zip(self.cells.index, self.cells["top1"], strict=True))
        for asked in self.study.asked_first():
            points, over = ({Point.at(student, *pair): None for pair in side} for side in asked.sides)
            cells, against = ([point for point in side if point in model.cells] for side in (points, over))
            if cells and against:
                weights = {point: 1 / len(cells) for point in cells}
                for point in against:
                    weights[point] = weights.get(point, 0.0) - 1 / len(against)
                means = [float(np.mean([top1[point] for point in side])) for side in (cells, against)]
                rows.append(
                    ContrastRow(
                        student=student,
                        name=asked.name,
                        cells=cells,
                        against=against,
                        asked=len(points),
                        top1=means[0],
                        top1_against=means[1],
                        effect=model.effect(weights),
                        alike=model.alike(cells),
                        verdict="undecided",
                    )
                )
        verdicts = stats.verdicts([row.effect for row in rows], self.margin)
        return [replace(row, verdict=verdict) for row, verdict in zip(rows, verdicts, strict=True)]

    def leave_a_seed_out(self, student: str) -> stats.Chosen | None:
        """What choosing the best cell of a student's grid costs; None with one seed a cell, or no baseline."""
        runs = [record for record in self.students if record.student == student and record.method == "kd"]
        accuracies = {(Point.of(r.cell), r.cell.seed): r.metrics.top1_best for r in runs}
        return stats.leave_a_seed_out(accuracies, Point.baseline(student))

    @property
    def labels(self) -> list[str]:
        """Students with at least one finished cell, in the study's order."""
        have = set(self.runs["student"])
        return [s.label for s in self.study.students if s.label in have]

    @cached_property
    def names(self) -> dict[str, str]:
        """Label -> name of every student, as readers know it."""
        return names.of_students(self.study)

    def called(self, student: str) -> str:
        """The name of a student, by its label."""
        return self.names.get(student, student)

    def student_of(self, model: str) -> str | None:
        """The label of the first student that is this model of timm or torchvision; None where none is."""
        named = {model, f"timm/{model}", f"torchvision/{model}"}
        return next((student.label for student in self.study.students if student.model in named), None)

    @property
    def teacher_name(self) -> str:
        """The name of the teacher."""
        return names.of_candidate(self.study, self.teacher.teacher)

    @property
    def margin(self) -> float:
        """The difference of accuracy, a fraction, within which cells are as good as the same."""
        return self.study.margin / 100

    @property
    def varied(self) -> bool:
        """Whether anything is known of what another seed would do: some student has cells with several."""
        return any(model.freedom for model in self.models.values())

    def seed_counts(self, *, grid: bool = False) -> list[int]:
        """How many seeds each cell has; grid: only those of the grid, without further methods."""
        seeds: dict[Point, set[int]] = {}
        for record in self.students:
            if record.method == "kd" or not grid:
                seeds.setdefault(Point.of(record.cell), set()).add(record.cell.seed)
        return [len(of_cell) for of_cell in seeds.values()]

    def cells_of(self, student: str) -> pd.DataFrame:
        """The rows of `cells` of one student's grid, best first."""
        cells = self.cells.loc[(self.cells["student"] == student) & (self.cells["method"] == "kd")]
        return cells.sort_values(["top1", "alpha", "T"], ascending=[False, True, True], kind="stable")

    def distilled_of(self, student: str) -> pd.DataFrame:
        """`cells_of` without the baseline."""
        return self.cells_of(student).dropna(subset="T")

    def further_of(self, student: str) -> pd.DataFrame:
        """The rows of `cells` of one student's further methods, best first."""
        cells = self.cells.loc[(self.cells["student"] == student) & (self.cells["method"] != "kd")]
        return cells.sort_values("top1", ascending=False, kind="stable")

    def row(self, point: Point) -> CellRow | None:
        """The row of one cell; None if it is not finished."""
        if point not in self.cells.index:
            return None
        return CellRow(point, {str(column): value for column, value in self.cells.loc[point].items()})

    def rows(self, cells: pd.DataFrame) -> list[CellRow]:
        """The rows of `cells`, or of a part of it, one by one."""
        return [row for point in cells.index if (row := self.row(point)) is not None]

    def cell(self, student: str, T: float | None, alpha: float) -> CellRow | None:
        """One cell of the grid; T None is the baseline. None if it is not finished."""
        return self.row(Point(student, T, alpha))

    def best(self, student: str) -> CellRow:
        """The most accurate cell of the grid on val, be it the baseline."""
        return self.rows(self.cells_of(student).head(1))[0]

    def chosen(self, student: str) -> CellRow | None:
        """The cell that is best on holdout, which val has no part in; None where the study holds nothing out."""
        cells = self.cells_of(student).dropna(subset="top1_holdout")
        ranked = cells.sort_values("top1_holdout", ascending=False, kind="stable")
        return None if ranked.empty else self.rows(ranked.head(1))[0]

    def roles(self, student: str) -> dict[str, CellRow]:
        """The telling cells of a student's grid: best, standard, worst, baseline; those that are finished."""
        distilled = self.rows(self.distilled_of(student))
        roles = {
            "best": distilled[0] if distilled else None,
            "standard": self.cell(student, *STANDARD),
            "worst": distilled[-1] if distilled else None,
            "baseline": self.row(Point.baseline(student)),
        }
        return {role: cell for role, cell in roles.items() if cell is not None}

    @property
    def example(self) -> CellRow:
        """The cell whose answers to single images are shown: the first student's best one, distilled if one is."""
        student = self.labels[0]
        return self.roles(student).get("best", self.best(student))

    def grid(self, student: str, metric: str | Callable[[CellRow], object]) -> pd.DataFrame:
        """A metric over the grid: T down, alpha across; the column alpha = 1 repeats the one run without T.

        metric: a column of `cells`, or a function of a row of it. Cells that are not finished are NaN.
        """
        cells = self.cells_of(student)
        values = [metric(row) if callable(metric) else row[metric] for row in self.rows(cells)]
        cells = cells[["T", "alpha"]].assign(value=values)
        grid = cells.dropna(subset="T").pivot(index="T", columns="alpha", values="value")
        grid = grid.reindex(index=self.study.grid.temperatures)
        baseline = cells.loc[cells["T"].isna(), "value"]
        if len(baseline):
            grid[1.0] = baseline.iloc[0]
        return grid.reindex(columns=sorted(grid.columns))

    def records_of(self, point: Point) -> list[StudentRecord]:
        """The runs of a cell, a seed after the other."""
        return [record for record in self.students if Point.of(record.cell) == point]

    def pairs_of(self, point: Point, other: Point) -> list[tuple[StudentRecord, StudentRecord]]:
        """The runs of two cells side by side, for each seed that both have."""
        others = {record.seed: record for record in self.records_of(other)}
        return [(record, others[record.seed]) for record in self.records_of(point) if record.seed in others]

    def class_gains(self, point: Point) -> np.ndarray:
        """Accuracy on val of each class less the baseline's, over the seeds that both have: (classes,) fractions."""
        count, pairs = len(self.dataset["classes"]), self.pairs_of(point, Point.baseline(point.student))
        return np.mean([run.class_accuracy(count) - base.class_accuracy(count) for run, base in pairs], axis=0)

    @property
    def score_column(self) -> str:
        """The column of a history that the best epoch was chosen by."""
        return "holdout_top1" if self.dataset["counts"]["holdout"] else "val_top1"


def load(study: str | Study) -> Results:
    """The results of a study, from the records that can be trusted.

    Raises NoResults, naming the command, if there are none, and RecordError where a teacher's cannot be trusted.
    """
    study = study if isinstance(study, Study) else load_study(study)
    shelf = Shelf(study)
    then = shelf.failed or f"; run: kd run {study.name}"
    if shelf.dataset is None or shelf.teacher is None:
        for error in shelf.damaged_teachers:
            raise error
        raise NoResults(f"study '{study.name}' has no teacher yet{then}")
    planned = set(study.cells())
    students = [r for r in shelf.students if r.cell in planned]
    off_grid = [r for r in shelf.students if r.cell not in planned]
    if not students:
        raise NoResults(f"study '{study.name}' has no finished cell yet{then}")
    return Results(study, shelf.dataset, shelf.teachers, students, off_grid, len(shelf.damaged))


def published() -> pd.DataFrame:
    """The published study's rows: student (the model's name), T (NaN for the baseline), alpha, val_acc_pct, role, note.

    They are indexed by their Points; a cell that is printed twice is there twice.
    """
    with package_files("kd_utils.reporting").joinpath("published.csv").open(encoding="utf-8") as f:
        rows = pd.read_csv(f)
    return _by_point(rows.assign(method="kd")).drop(columns="method")


def _by_point(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns student, T, alpha and method, indexed by their Points: here NaN for T becomes None."""
    places = zip(rows["student"], rows["T"], rows["alpha"], rows["method"], strict=True)
    points = [Point(student, None if pd.isna(T) else T, alpha, method) for student, T, alpha, method in places]
    return rows.set_axis(pd.Index(points, dtype=object), axis="index")


def _teacher_share(record: StudentRecord) -> float:
    """The teacher's share of the gradient, over all epochs of a run: 0 to 1."""
    ce, kl = (float(np.mean([epoch[part] for epoch in record.history])) for part in ("ce_grad", "kl_grad"))
    alpha = record.alpha
    return float((1 - alpha) * kl / (alpha * ce + (1 - alpha) * kl))
