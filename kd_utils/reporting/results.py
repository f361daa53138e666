"""Records -> what a study has found, as DataFrames: one row a cell, with intervals and tests. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as resources

import numpy as np
import pandas as pd

from .. import records
from ..records import Record
from ..shelf import Shelf
from ..study import STANDARD, Study
from ..study import load as load_study
from . import stats

LEAST_P = 0.05  # differences with a smaller corrected p are taken for real
FIGURES = ["top1_best", "top1_last", "top5", "nll", "ece", "agreement", "top1_holdout"]
COSTS = ["train_seconds", "images_per_second"]


class NoResults(ValueError):
    """There are no records to show yet; the message names the command that makes them."""


@dataclass(frozen=True)
class Results:
    """What a study has found so far: its trained candidates and its finished cells."""

    study: Study
    dataset: dict
    teachers: list[Record]  # best first
    students: list[Record]  # sorted as results.csv

    @property
    def teacher(self) -> Record:
        return self.teachers[0]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, the columns of records.COLUMNS."""
        return records.table(self.students)

    @cached_property
    def bootstrap(self) -> stats.Bootstrap:
        """The bootstrap over validation images and seeds; its cells are (student, method, T or None, alpha)."""
        hits: dict[tuple, dict[int, np.ndarray]] = {}
        for r in self.students:
            right = r.predictions["predicted"] == r.predictions["label"]
            hits.setdefault(_key(r), {})[r["seed"]] = right
        return stats.Bootstrap(hits)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell: student, method, T, alpha, n (seeds), then means over its seeds (fractions, nats, seconds).

        low, high: the 95 % interval of top1_best, by the bootstrap. sd: its standard deviation over seeds.
        gain: top1_best less that of the baseline over the seeds that both have; gain_low, gain_high: its interval.
        p: of equality with the baseline, paired on the same images; p_holm: corrected for the number of cells of that
        student. p_best, tied: the same against the student's best cell; a tied cell cannot be told from the best.
        mix: the teacher's share of the gradient, (1 - alpha) kl_grad over itself plus alpha ce_grad, with the means
        over all epochs of what losses.Loss has. Further methods are corrected, and compared to their best, among
        themselves.
        """
        runs = self.runs.assign(mix=[_mix(r) for r in self.students])
        groups = runs.groupby(["student", "method", "T", "alpha"], dropna=False, sort=True)
        cells = groups[[*FIGURES, *COSTS, "mix"]].mean()
        cells["n"] = groups.size()
        cells["sd"] = groups["top1_best"].std()
        cells = cells.reset_index()
        parts = [self._tested(own) for _, own in cells.groupby(["student", cells["method"] == "kd"], sort=False)]
        return pd.concat(parts).sort_index()

    def _tested(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The cells of one family, with their intervals and tests."""
        boot = self.bootstrap
        baseline = (cells["student"].iloc[0], "kd", None, 1.0)
        best = key(cells.loc[cells["top1_best"].idxmax()])
        rows = []
        for cell in map(key, cells.to_dict("records")):
            low, high = stats.interval(boot.mean(cell))
            row = {"low": low, "high": high, "p_best": boot.p_value(cell, best)}
            seeds = boot.seeds(cell, baseline) if baseline in boot.hits else []
            if seeds:
                mean = [[boot.hits[c][s].mean() for s in seeds] for c in (cell, baseline)]
                gain_low, gain_high = stats.interval(boot.difference(cell, baseline))
                row |= {"gain": np.mean(mean[0]) - np.mean(mean[1]), "gain_low": gain_low, "gain_high": gain_high}
                row["p"] = boot.p_value(cell, baseline) if cell != baseline else np.nan
            rows.append(row)
        columns = ["low", "high", "gain", "gain_low", "gain_high", "p", "p_best"]
        tested = pd.DataFrame(rows, index=cells.index).reindex(columns=columns)
        tested["p_holm"] = stats.holm(tested["p"].to_numpy())
        itself = [cell == best for cell in map(key, cells.to_dict("records"))]
        corrected = stats.holm(np.where(itself, np.nan, tested["p_best"].to_numpy()))
        tested["tied"] = itself | (corrected >= LEAST_P)
        return cells.join(tested)

    @property
    def labels(self) -> list[str]:
        """Students with at least one finished cell, in the study's order."""
        have = set(self.runs["student"])
        return [s.label for s in self.study.students if s.label in have]

    def of(self, student: str) -> pd.DataFrame:
        """The cells of one student's grid, best first."""
        own = self.cells[(self.cells["student"] == student) & (self.cells["method"] == "kd")]
        return own.sort_values(["top1_best", "alpha", "T"], ascending=[False, True, True], kind="stable")

    def further(self, student: str) -> pd.DataFrame:
        """The cells of one student's further methods, best first."""
        own = self.cells[(self.cells["student"] == student) & (self.cells["method"] != "kd")]
        return own.sort_values("top1_best", ascending=False, kind="stable")

    def cell(self, student: str, T: float | None, alpha: float) -> pd.Series | None:
        """One cell of the grid; T None is the baseline. None if it is not finished."""
        own = self.of(student)
        found = own[(own["alpha"] == alpha) & (own["T"].isna() if T is None else own["T"] == T)]
        return found.iloc[0] if len(found) else None

    def pivot(self, student: str, figure: str | Callable[[pd.Series], object]) -> pd.DataFrame:
        """A figure over the grid: T down, alpha across; the column alpha = 1 repeats the one run without T.

        figure: a column of `cells`, or a function of a row of it.
        """
        own = self.of(student)
        if callable(figure):
            own, figure = own.assign(figure=own.apply(figure, axis=1)), "figure"
        grid = own.dropna(subset="T").pivot(index="T", columns="alpha", values=figure)
        grid = grid.reindex(index=sorted(self.study.grid.T))
        baseline = own[own["T"].isna()]
        if len(baseline):
            grid[1.0] = baseline[figure].iloc[0]
        return grid[sorted(grid.columns)]

    def chosen(self, student: str) -> pd.Series | None:
        """The cell that is best on holdout, which val has no part in; None where the study holds nothing out."""
        own = self.of(student)
        if own["top1_holdout"].isna().all():
            return None
        return own.loc[own["top1_holdout"].idxmax()]

    def roles(self, student: str) -> dict[str, pd.Series]:
        """The telling cells of a student's grid: best, standard, worst, baseline; those that are finished."""
        distilled = self.of(student).dropna(subset="T")
        found = {"baseline": self.cell(student, None, 1.0), "standard": self.cell(student, *STANDARD)}
        if len(distilled):
            found |= {"best": distilled.iloc[0], "worst": distilled.iloc[-1]}
        return {role: found[role] for role in ("best", "standard", "worst", "baseline") if found.get(role) is not None}

    def records_of(self, cell: pd.Series) -> list[Record]:
        """The runs of a cell, a seed after the other."""
        return [r for r in self.students if _key(r) == key(cell)]

    @property
    def score_column(self) -> str:
        """The column of a history that the best epoch was chosen by."""
        return "holdout_top1" if self.dataset["counts"]["holdout"] else "val_top1"


def key(cell) -> tuple:
    """(student, method, T or None, alpha) of a row of `cells`: what the bootstrap calls a cell."""
    return cell["student"], cell["method"], None if pd.isna(cell["T"]) else float(cell["T"]), float(cell["alpha"])


def _key(record: Record) -> tuple:
    cell = record.cell
    return cell.student, cell.method, cell.T, cell.alpha


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
    """The published study's rows: student, T (NaN for the baseline), alpha, val_acc_pct, role, note."""
    with resources("kd_utils.reporting").joinpath("published.csv").open(encoding="utf-8") as f:
        return pd.read_csv(f)


def _mix(record: Record) -> float:
    ce, kl = (np.mean([row[c] for row in record["history"]]) for c in ("ce_grad", "kl_grad"))
    alpha = record["alpha"]
    return float((1 - alpha) * kl / (alpha * ce + (1 - alpha) * kl))
