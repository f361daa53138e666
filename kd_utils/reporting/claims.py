"""What the published study claims, put to its own rows and to our records by the same statistics."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..study import STANDARD
from . import stats
from .results import Point, Results, published

PUBLISHED_VAL_IMAGES = 10_000  # 50 a class; Le and Yang 2015, 'Tiny ImageNet visual recognition challenge'
LOW_T, HIGH_ALPHA = 2.0, 0.5  # what claim 2 means by low T and high alpha: T at most, alpha at least

Answer = Literal["supported", "contradicted", "undecided", "no data"]
Source = Literal["here", "published"]
CLAIMS = {
    "1a": "At the same alpha, a higher temperature does better.",
    "1b": "At the same temperature, a lower alpha does better.",
    "2": f"A low temperature with a high alpha (T ≤ {LOW_T:g}, alpha ≥ {HIGH_ALPHA:g}) harms.",
    "3": f"The standard cell (T = {STANDARD[0]:g}, alpha = {STANDARD[1]:g}) improves on the baseline.",
    "4": "Runs of one cell that differ by nothing but chance may lie as far apart as the cell that is printed twice.",
}


@dataclass(frozen=True)
class Verdict:
    """What one source says of a claim about one student.

    source: 'here', our records, or 'published', the printed rows. statistic: what `value`, `low` and `high` (its 95 %
    interval) are of; accuracies as fractions, NaN without data. count, counted: how many of what it rests on.
    """

    claim: str
    student: str
    source: Source
    statistic: Literal["gamma", "gain", "gap"]
    value: float
    low: float
    high: float
    count: int
    counted: str
    answer: Answer

    @property
    def basis(self) -> str:
        """What it rests on, in words: '60 pairs'."""
        return f"{self.count} {self.counted}"


@dataclass(frozen=True)
class _Evidence:
    """The cells that one source has of one student, and what they would have been on other images and seeds.

    temperature (NaN: the baseline), alpha, accuracy, gain (NaN without a baseline): (cells,). drawn_accuracy and
    drawn_gain: (resamples, cells). Accuracies and gains are fractions.
    """

    source: Source
    student: str
    temperature: np.ndarray
    alpha: np.ndarray
    accuracy: np.ndarray
    gain: np.ndarray
    drawn_accuracy: np.ndarray
    drawn_gain: np.ndarray


def verdicts(results: Results) -> list[Verdict]:
    """Every claim, for each student of ours and each published one: claim by claim, ours first."""
    every = []
    for student in results.labels:
        every += _claims_1_to_3(_ours(results, student))
        every.append(_chance_here(results, student))
    for student, rows in published().groupby("student", sort=False):
        printed = _printed(str(student), rows)
        every += _claims_1_to_3(printed)
        every += _chance_printed(printed)
    return sorted(every, key=lambda verdict: (verdict.claim, verdict.source != "here"))


def _ours(results: Results, student: str) -> _Evidence:
    """The cells of our grid, resampled by the bootstrap."""
    cells, bootstrap = results.cells_of(student), results.bootstrap
    baseline = Point.baseline(student)
    unknown = np.full(bootstrap.resamples, np.nan)
    drawn_gain = []
    for point in cells.index:
        comparable = baseline in bootstrap.hits and bootstrap.seeds(point, baseline)
        drawn_gain.append(bootstrap.difference(point, baseline) if comparable else unknown)
    return _Evidence(
        source="here",
        student=student,
        temperature=cells["T"].to_numpy(float),
        alpha=cells["alpha"].to_numpy(float),
        accuracy=cells["top1_best"].to_numpy(float),
        gain=cells["gain"].to_numpy(float),
        drawn_accuracy=np.stack([bootstrap.mean(point) for point in cells.index], axis=1),
        drawn_gain=np.stack(drawn_gain, axis=1),
    )


def _printed(student: str, rows: pd.DataFrame) -> _Evidence:
    """The printed rows, and draws of what other images would have given: one run a row, no predictions are public.

    Rows are drawn independently, by the normal approximation to the binomial of 10,000 images.
    """
    T, accuracy = rows["T"].to_numpy(float), rows["val_acc_pct"].to_numpy(float) / 100
    baseline = np.isnan(T)
    error = np.sqrt(accuracy * (1 - accuracy) / PUBLISHED_VAL_IMAGES)
    drawn = np.random.default_rng(0).normal(accuracy, error, (stats.RESAMPLES, len(accuracy)))
    return _Evidence(
        source="published",
        student=student,
        temperature=T,
        alpha=rows["alpha"].to_numpy(float),
        accuracy=accuracy,
        gain=accuracy - accuracy[baseline].mean(),
        drawn_accuracy=drawn,
        drawn_gain=drawn - drawn[:, baseline],
    )


def _claims_1_to_3(cells: _Evidence) -> list[Verdict]:
    distilled = ~np.isnan(cells.temperature)
    compared = distilled & ~np.isnan(cells.gain)
    mild = compared & (cells.temperature <= LOW_T) & (cells.alpha >= HIGH_ALPHA)
    standard = compared & (cells.temperature == STANDARD[0]) & (cells.alpha == STANDARD[1])
    return [
        _concordance("1a", cells, distilled, x=cells.temperature, strata=cells.alpha),
        _concordance("1b", cells, distilled, x=-cells.alpha, strata=cells.temperature),
        _mean_gain("2", cells, mild, sign=-1),
        _mean_gain("3", cells, standard, sign=1),
    ]


def _concordance(claim: str, cells: _Evidence, which: np.ndarray, x: np.ndarray, strata: np.ndarray) -> Verdict:
    """The claim says that accuracy rises with x among those cells of `which` that have the same stratum."""
    x, strata = x[which], strata[which]
    value = float(stats.concordance(cells.accuracy[which], x, strata))
    drawn = stats.concordance(cells.drawn_accuracy[:, which], x, strata)
    count = len(stats.pairs(x, strata)[0])
    low, high, answer = _answer(drawn, count)
    return Verdict(claim, cells.student, cells.source, "gamma", value, low, high, count, "pairs", answer)


def _mean_gain(claim: str, cells: _Evidence, which: np.ndarray, sign: Literal[1, -1]) -> Verdict:
    """The claim says that the mean gain of the cells of `which`, times sign, is above 0."""
    count = int(which.sum())
    counted = "cell" if count == 1 else "cells"
    value = float(cells.gain[which].mean()) if count else float("nan")
    drawn = cells.drawn_gain[:, which].mean(axis=1) if count else np.empty(0)
    low, high, answer = _answer(drawn, count, sign)
    return Verdict(claim, cells.student, cells.source, "gain", value, low, high, count, counted, answer)


def _answer(drawn: np.ndarray, count: int, sign: Literal[1, -1] = 1) -> tuple[float, float, Answer]:
    """The interval of a statistic, and what it says of the claim that sign * statistic is above 0."""
    if not count:
        return float("nan"), float("nan"), "no data"
    low, high = stats.interval(drawn)
    if low > 0:
        return low, high, "supported" if sign > 0 else "contradicted"
    if high < 0:
        return low, high, "contradicted" if sign > 0 else "supported"
    return low, high, "undecided"


def printed_gap() -> float:
    """How far apart the published study prints the same cell of the same student, at most (a fraction)."""
    distilled = published().dropna(subset="T")
    cells = [cell["val_acc_pct"].to_numpy(float) for _, cell in distilled.groupby(["student", "T", "alpha"])]
    return max(float(np.ptp(accuracies)) for accuracies in cells) / 100


def _chance_here(results: Results, student: str) -> Verdict:
    """Below what gap 95 % of pairs of runs stay that differ by their seed alone: 1.96 sqrt(2) sd within cells."""
    by_cell: dict[Point, list[float]] = {}
    for record in results.students:
        if record.cell.student == student and record.method == "kd":
            by_cell.setdefault(Point.of(record.cell), []).append(record.metrics.top1_best)
    several = [np.array(accuracies) for accuracies in by_cell.values() if len(accuracies) > 1]
    gap, low, high = (float(1.96 * np.sqrt(2) * sd) for sd in stats.spread(several))
    answer: Answer = "undecided"
    if not several:
        answer = "no data"
    elif low >= printed_gap():
        answer = "supported"
    elif high < printed_gap():
        answer = "contradicted"
    return Verdict("4", student, "here", "gap", gap, low, high, len(several), "cells with seeds", answer)


def _chance_printed(cells: _Evidence) -> list[Verdict]:
    """The cell that is printed twice: its gap, and the interval that other images would have given it."""
    places = pd.DataFrame({"T": cells.temperature, "alpha": cells.alpha})
    twice = np.flatnonzero(places["T"].notna() & places.duplicated(keep=False))
    if len(twice) != 2:
        return []
    first, second = twice
    gap = float(abs(cells.accuracy[second] - cells.accuracy[first]))
    low, high = stats.interval(np.abs(cells.drawn_accuracy[:, second] - cells.drawn_accuracy[:, first]))
    return [
        Verdict("4", cells.student, "published", "gap", gap, low, high, 1, "cell, printed twice", "undecided"),
    ]
