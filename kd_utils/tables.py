"""Records -> the tables of the report. Accuracies are shown in percent, gains in percentage points. Loads no torch."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as resources

import pandas as pd

from . import records
from .display import Table
from .records import Record
from .study import Study
from .study import load as load_study

STANDARD = (4.0, 0.5)  # the customary T and alpha


class NoResults(ValueError):
    """There are no records to show yet; the message names the command that makes them."""


@dataclass(frozen=True)
class Results:
    """What a study has found so far: its trained candidates and the finished cells of its grid."""

    study: Study
    dataset: dict
    teachers: list[Record]  # best first
    students: list[Record]  # cells of the grid, sorted as results.csv

    @property
    def teacher(self) -> Record:
        return self.teachers[0]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, the columns of records.COLUMNS."""
        return records.table(self.students)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell, means over its seeds: student, T, alpha, n, then the figures (fractions, nats).

        `gain` is top1_best less the mean of the baseline's; `sd` is the standard deviation of top1_best over seeds.
        """
        figures = ["top1_best", "top1_last", "top5", "nll", "ece", "agreement", "top1_holdout", "train_seconds"]
        groups = self.runs.groupby(["student", "T", "alpha"], dropna=False, sort=True)
        cells = groups[figures].mean()
        cells["n"] = groups.size()
        cells["sd"] = groups["top1_best"].std()
        cells = cells.reset_index()
        baseline = cells[cells["T"].isna()].set_index("student")["top1_best"]
        cells["gain"] = cells["top1_best"] - cells["student"].map(baseline)
        return cells

    @property
    def labels(self) -> list[str]:
        """Students with at least one finished cell, in the study's order."""
        have = set(self.runs["student"])
        return [s.label for s in self.study.students if s.label in have]

    def of(self, student: str) -> pd.DataFrame:
        """The cells of one student, best first."""
        own = self.cells[self.cells["student"] == student]
        return own.sort_values(["top1_best", "alpha", "T"], ascending=[False, True, True], kind="stable")

    def pivot(self, student: str, figure: str) -> pd.DataFrame:
        """A figure over the grid: T down, alpha across; the column alpha = 1 repeats the one run without T."""
        own = self.cells[self.cells["student"] == student]
        grid = own.dropna(subset="T").pivot(index="T", columns="alpha", values=figure)
        grid = grid.reindex(index=sorted(self.study.grid.T))
        baseline = own[own["T"].isna()]
        if len(baseline):
            grid[1.0] = baseline[figure].iloc[0]
        return grid[sorted(grid.columns)]

    @property
    def score_column(self) -> str:
        """The column of a history that the best epoch was chosen by."""
        return "holdout_top1" if self.dataset["counts"]["holdout"] else "val_top1"

    def histories(self, student: str) -> dict[str, pd.DataFrame]:
        """The epochs of four telling cells of a student, of the first seed: best, standard, worst, baseline."""
        ranked = self.of(student)
        distilled = ranked.dropna(subset="T")
        points = {"baseline": (None, 1.0)}
        if len(distilled):
            for role, cell in (("worst", distilled.iloc[-1]), ("best", distilled.iloc[0])):
                points = {f"{role}: T={cell['T']:g}, alpha={cell['alpha']:g}": (cell["T"], cell["alpha"]), **points}
        points[f"standard: T={STANDARD[0]:g}, alpha={STANDARD[1]:g}"] = STANDARD
        first = {(r["T"], r["alpha"]): r for r in reversed(self.students) if r["student"] == student}
        return {name: records.history(first[p]) for name, p in points.items() if p in first}


def load(study: str | Study) -> Results:
    """The results of a study, from records alone. Raises NoResults, naming the command, if there are none."""
    study = study if isinstance(study, Study) else load_study(study)
    noted = records.noted_data(study)
    trained = records.teachers(study, noted["fingerprint"]) if noted else []
    best = records.best_teacher(study, noted["fingerprint"]) if noted else None
    if best is None:
        raise NoResults(f"study '{study.name}' has no teacher yet; run: kd run {study.name}")
    planned = {(c.student, c.T, c.alpha, c.seed) for c in study.cells()}
    found = [
        r
        for r in records.students(study, noted["fingerprint"], best)
        if (r["student"], r["T"], r["alpha"], r["seed"]) in planned
    ]
    if not found:
        raise NoResults(f"study '{study.name}' has no finished cell yet; run: kd run {study.name}")
    return Results(study, noted, trained, found)


def published() -> pd.DataFrame:
    """The published study's rows: student, T (NaN for the baseline), alpha, val_acc_pct, role, note."""
    with resources("kd_utils").joinpath("published.csv").open(encoding="utf-8") as f:
        return pd.read_csv(f)


def percent(value: float, digits: int = 2) -> str:
    """A fraction as percent, '–' where there is none."""
    return "–" if pd.isna(value) else f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference of fractions as signed percentage points, '–' where there is none."""
    return "–" if pd.isna(value) else f"{100 * value:+.2f}".replace("-", "−")


def temperature(value: float) -> str:
    """T, '–' where the loss has none."""
    return "–" if pd.isna(value) else f"{value:g}"


def leaderboard(results: Results) -> Table:
    """The teacher candidates, best first."""
    rows = [
        {
            "": str(rank),
            "Candidate": r["teacher"],
            "Weights from": r["provenance"]["weights_from"],
            "Parameters, M": f"{r['provenance']['parameters'] / 1e6:.2f}",
            "Input, px": str(r["settings"]["model"]["input_size"] or results.dataset["image_size"]),
            "Top-1, %": percent(r.metrics["top1_best"]),
            "NLL": f"{r.metrics['nll']:.3f}",
            "Epochs": str(r.metrics["epochs"]),
            "Training, s": f"{r['cost']['train_seconds']:.0f}",
        }
        for rank, r in enumerate(results.teachers, 1)
    ]
    chosen = "held-out training images" if results.dataset["counts"]["holdout"] else "the validation images"
    caption = f"The teacher candidates, ranked by their accuracy on {chosen}. The first is the teacher."
    return Table(pd.DataFrame(rows), caption, "teachers")


def summary(results: Results, student: str, most: int = 3) -> Table:
    """The best and the worst cells of a student, the standard cell and the baseline."""
    ranked = results.of(student)
    distilled = ranked.dropna(subset="T")
    standard = distilled[(distilled["T"] == STANDARD[0]) & (distilled["alpha"] == STANDARD[1])]
    parts = [
        ("best", distilled.head(most)),
        ("worst", distilled.iloc[most:].tail(most)),
        ("standard", standard),
        ("baseline", ranked[ranked["T"].isna()]),
    ]
    rows = [_row(role, cell) for role, cells in parts for cell in cells.to_dict("records")]
    caption = f"{student}: the best and the worst cells, the standard cell and the baseline without distillation."
    return Table(pd.DataFrame(rows), caption, f"summary-{student}")


def grid(results: Results, student: str) -> Table:
    """Every cell of a student, best first."""
    rows = [_row("", cell) for cell in results.of(student).to_dict("records")]
    return Table(pd.DataFrame(rows).drop(columns="Role"), f"{student}: every cell, best first.", f"grid-{student}")


def _row(role: str, cell: dict) -> dict:
    return {
        "Role": role,
        "T": temperature(cell["T"]),
        "alpha": f"{cell['alpha']:g}",
        "Top-1, %": percent(cell["top1_best"]),
        "Gain": points(cell["gain"]),
        "Last epoch, %": percent(cell["top1_last"]),
        "Top-5, %": percent(cell["top5"]),
        "NLL": f"{cell['nll']:.3f}",
        "ECE": f"{cell['ece']:.3f}",
        "Agreement, %": percent(cell["agreement"]),
        "n": str(cell["n"]),
    }


def beside_published(results: Results) -> Table:
    """The published rows beside ours, where our grid has the same student, T and alpha."""
    rows = []
    for student, own in published().groupby("student", sort=False):
        base = own.loc[own["role"] == "baseline", "val_acc_pct"].iloc[0] / 100
        for row in own.to_dict("records"):
            ours = results.cells[
                (results.cells["student"] == student)
                & (results.cells["alpha"] == row["alpha"])
                & ((results.cells["T"] == row["T"]) | (results.cells["T"].isna() & pd.isna(row["T"])))
            ]
            value = ours.iloc[0].to_dict() if len(ours) else {"top1_best": float("nan"), "gain": float("nan")}
            rows.append(
                {
                    "Student": student,
                    "Role there": row["role"],
                    "T": temperature(row["T"]),
                    "alpha": f"{row['alpha']:g}",
                    "Published, %": percent(row["val_acc_pct"] / 100),
                    "Gain there": points(row["val_acc_pct"] / 100 - base),
                    "Here, %": percent(value["top1_best"]),
                    "Gain here": points(value["gain"]),
                }
            )
    caption = (
        "The published figures (TinyImageNet-200, pretrained students) beside those of this study "
        f"({results.study.data.name}, {len(results.dataset['classes'])} classes). A dash: not in this grid."
    )
    return Table(pd.DataFrame(rows), caption, "published")
