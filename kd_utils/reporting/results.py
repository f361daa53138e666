"""Records -> what a study has found, as DataFrames: one row a cell, with intervals and tests. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as package_files
from typing import Any, cast

import numpy as np
import pandas as pd

from .. import records
from ..records import StudentRecord, TeacherRecord
from ..shelf import Shelf
from ..study import STANDARD, Cell, Study, short
from ..study import load as load_study
from . import stats

LEAST_P = 0.05  # differences with a smaller corrected p are taken for real
METRICS = ["top1_best", "top1_last", "top5", "nll", "ece", "agreement", "top1_holdout"]
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
    def baseline(cls, student: str) -> "Point":
        """Training without distillation."""
        return cls(student, None, 1.0)

    @property
    def words(self) -> str:
        """'T = 4, alpha = 0.5', or 'the baseline'."""
        return "the baseline" if self.T is None else f"T = {short(self.T)}, alpha = {short(self.alpha)}"


@dataclass(frozen=True)
class CellRow:
    """One row of `Results.cells`: row["gain"] is the value in that column."""

    point: Point
    values: dict[str, Any]

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


@dataclass(frozen=True)
class Results:
    """What a study has found so far: its trained candidates and its finished cells."""

    study: Study
    dataset: dict
    teachers: list[TeacherRecord]  # best first
    students: list[StudentRecord]  # sorted as results.csv

    @property
    def teacher(self) -> TeacherRecord:
        """The best candidate, which taught the students."""
        return self.teachers[0]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, the columns of records.COLUMNS."""
        return records.table(self.students)

    @cached_property
    def bootstrap(self) -> stats.Bootstrap:
        """The bootstrap over validation images and seeds; its cells are Points."""
        hits: dict[Point, dict[int, np.ndarray]] = {}
        for record in self.students:
            predictions = record.predictions
            right = predictions["predicted"] == predictions["label"]
            hits.setdefault(Point.of(record.cell), {})[record.cell.seed] = right
        return stats.Bootstrap(hits)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell, indexed by its Point.

        Columns: student, method, T (NaN: the baseline), alpha, n (seeds), then means over its seeds (fractions, nats,
        seconds).
        low, high: the 95 % interval of top1_best, by the bootstrap. sd: its standard deviation over seeds.
        gain: top1_best less that of the baseline over the seeds that both have; gain_low, gain_high: its interval.
        p: of equality with the baseline, paired on the same images; p_holm: corrected for the number of cells of that
        student. p_best, tied: the same against the student's best cell; a tied cell cannot be told from the best.
        mix: the teacher's share of the gradient, (1 - alpha) kl_grad over itself plus alpha ce_grad, with the means
        over all epochs of what losses.Loss has. Further methods are corrected, and compared to their best, among
        themselves.
        """
        runs = self.runs.assign(mix=[_teacher_share(record) for record in self.students])
        by_cell = runs.groupby(["student", "method", "T", "alpha"], dropna=False, sort=True)
        cells = cast(pd.DataFrame, by_cell[[*METRICS, *COSTS, "mix"]].mean())
        cells["n"] = by_cell.size()
        cells["sd"] = by_cell["top1_best"].std()
        cells = _by_point(cells.reset_index())
        families = cells.groupby(["student", cells["method"] == "kd"], sort=False)
        tested = pd.concat([self._tested(family) for _, family in families])
        return cells.join(tested)

    def _tested(self, family: pd.DataFrame) -> pd.DataFrame:
        """Intervals and tests of cells that are corrected, and compared to their best, among themselves."""
        points: list[Point] = list(family.index)
        best = points[int(family["top1_best"].to_numpy().argmax())]
        tested = pd.DataFrame([self._test(point, best) for point in points], index=family.index)
        tested["p_holm"] = stats.holm(tested["p"].to_numpy())
        is_best = np.array([point == best for point in points])
        corrected = stats.holm(np.where(is_best, np.nan, tested["p_best"].to_numpy()))
        tested["tied"] = is_best | (corrected >= LEAST_P)
        return tested

    def _test(self, point: Point, best: Point) -> dict[str, float]:
        """The interval of a cell, and its tests against the baseline (NaN where there is none) and the best cell."""
        bootstrap, baseline, nan = self.bootstrap, Point.baseline(point.student), float("nan")
        low, high = stats.interval(bootstrap.mean(point))
        gain = gain_low = gain_high = p = nan
        seeds = bootstrap.seeds(point, baseline) if baseline in bootstrap.hits else []
        if seeds:
            accuracy, base = (np.mean([bootstrap.hits[x][s].mean() for s in seeds]) for x in (point, baseline))
            gain = float(accuracy - base)
            gain_low, gain_high = stats.interval(bootstrap.difference(point, baseline))
            p = nan if point == baseline else bootstrap.p_value(point, baseline)
        return {
            "low": low,
            "high": high,
            "gain": gain,
            "gain_low": gain_low,
            "gain_high": gain_high,
            "p": p,
            "p_best": bootstrap.p_value(point, best),
        }

    @property
    def labels(self) -> list[str]:
        """Students with at least one finished cell, in the study's order."""
        have = set(self.runs["student"])
        return [s.label for s in self.study.students if s.label in have]

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
        return cells.sort_values(["top1_best", "alpha", "T"], ascending=[False, True, True], kind="stable")

    def distilled_of(self, student: str) -> pd.DataFrame:
        """`cells_of` without the baseline."""
        return self.cells_of(student).dropna(subset="T")

    def further_of(self, student: str) -> pd.DataFrame:
        """The rows of `cells` of one student's further methods, best first."""
        cells = self.cells.loc[(self.cells["student"] == student) & (self.cells["method"] != "kd")]
        return cells.sort_values("top1_best", ascending=False, kind="stable")

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

    @property
    def score_column(self) -> str:
        """The column of a history that the best epoch was chosen by."""
        return "holdout_top1" if self.dataset["counts"]["holdout"] else "val_top1"


def load(study: str | Study) -> Results:
    """The results of a study, from records alone. Raises NoResults, naming the command, if there are none."""
    study = study if isinstance(study, Study) else load_study(study)
    shelf = Shelf(study)
    if shelf.dataset is None or shelf.teacher is None:
        raise NoResults(f"study '{study.name}' has no teacher yet; run: kd run {study.name}")
    planned = set(study.cells())
    students = [r for r in shelf.students if r.cell in planned]
    if not students:
        raise NoResults(f"study '{study.name}' has no finished cell yet; run: kd run {study.name}")
    return Results(study, shelf.dataset, shelf.teachers, students)


def published() -> pd.DataFrame:
    """The published study's rows: student, T (NaN for the baseline), alpha, val_acc_pct, role, note.

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
