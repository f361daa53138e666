"""What the published study claims, put to its own rows and to our records by the same statistics."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..study import STANDARD
from . import stats
from .results import Results, key, published

PUBLISHED_VAL_IMAGES = 10_000  # 50 a class; Le and Yang 2015, 'Tiny ImageNet visual recognition challenge'
LOW_T, HIGH_ALPHA = 2.0, 0.5  # what claim 2 means by low T and high alpha: T at most, alpha at least

Answer = Literal["supported", "contradicted", "undecided", "no data"]
CLAIMS = {
    "1a": "At the same alpha, a higher temperature does better.",
    "1b": "At the same temperature, a lower alpha does better.",
    "2": f"A low temperature with a high alpha (T ≤ {LOW_T:g}, alpha ≥ {HIGH_ALPHA:g}) harms.",
    "3": f"The standard cell (T = {STANDARD[0]:g}, alpha = {STANDARD[1]:g}) improves on the baseline.",
    "4": "Runs of one cell that differ by nothing but chance may lie as far apart as the cell that is printed twice.",
}


@dataclass(frozen=True)
class Verdict:
    """What some figures say of a claim.

    source: 'here' or 'published'. statistic: what `value`, `low` and `high` (its 95 % interval) are of; accuracies
    as fractions. basis: how many cells or pairs it rests on.
    """

    claim: str
    student: str
    source: str
    statistic: Literal["gamma", "gain", "gap"]
    value: float
    low: float
    high: float
    basis: str
    answer: Answer


def verdicts(results: Results) -> list[Verdict]:
    """Every claim, for each student of ours and each published one."""
    found = []
    for student in results.labels:
        found += _of("here", student, *_ours(results, student))
        found.append(_chance_here(results, student))
    for student, rows in published().groupby("student", sort=False):
        found += _of("published", str(student), *_theirs(rows))
        found += _chance_there(str(student), rows)
    return sorted(found, key=lambda v: (v.claim, v.source != "here"))


def _ours(results: Results, student: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The cells (T, alpha, acc, gain), and their resampled accuracies and gains, (resamples, cells) each."""
    cells, boot = results.of(student), results.bootstrap
    keys = [key(cell) for cell in cells.to_dict("records")]
    base = next((k for k in keys if k[2] is None), None)
    unknown = np.full(boot.resamples, np.nan)
    gains = [boot.difference(k, base) if base and boot.seeds(k, base) else unknown for k in keys]
    shown = cells[["T", "alpha", "top1_best", "gain"]].rename(columns={"top1_best": "acc"})
    return shown, np.stack([boot.mean(k) for k in keys], axis=1), np.stack(gains, axis=1)


def _theirs(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The printed rows and draws of what other images would have given: one run a row, no predictions are public.

    Rows are drawn independently, by the normal approximation to the binomial of 10,000 images. Shapes as in _ours.
    """
    cells = pd.DataFrame({"T": rows["T"], "alpha": rows["alpha"], "acc": rows["val_acc_pct"] / 100})
    acc, base = cells["acc"].to_numpy(), cells["T"].isna().to_numpy()
    cells["gain"] = acc - acc[base].mean()
    error = np.sqrt(acc * (1 - acc) / PUBLISHED_VAL_IMAGES)
    drawn = np.random.default_rng(0).normal(acc, error, (stats.RESAMPLES, len(acc)))
    return cells, drawn, drawn - drawn[:, base]


def _of(source: str, student: str, cells: pd.DataFrame, drawn: np.ndarray, drawn_gain: np.ndarray) -> list[Verdict]:
    """Claims 1 to 3."""
    T, alpha, acc, gain = (cells[c].to_numpy(float) for c in ("T", "alpha", "acc", "gain"))
    distilled = ~np.isnan(T)
    compared = distilled & ~np.isnan(gain)
    mild = compared & (T <= LOW_T) & (alpha >= HIGH_ALPHA)
    standard = compared & (STANDARD[0] == T) & (STANDARD[1] == alpha)
    found = []
    for claim, x, strata in (("1a", T[distilled], alpha[distilled]), ("1b", -alpha[distilled], T[distilled])):
        count = len(stats.pairs(x, strata)[0])
        value = stats.concordance(acc[distilled], x, strata)
        samples = stats.concordance(drawn[:, distilled], x, strata)
        found.append(_verdict(claim, student, source, "gamma", value, samples, f"{count} pairs", count))
    for claim, which, sign in (("2", mild, -1), ("3", standard, 1)):
        count = int(which.sum())
        value, samples = (gain[which].mean(), drawn_gain[:, which].mean(axis=1)) if count else (np.nan, np.empty(0))
        basis = f"{count} cell" + "s" * (count != 1)
        found.append(_verdict(claim, student, source, "gain", value, samples, basis, count, sign))
    return found


def _verdict(claim, student, source, statistic, value, samples, basis, count, sign=1) -> Verdict:
    """The claim says that sign * value is above 0."""
    if not count:
        return Verdict(claim, student, source, statistic, np.nan, np.nan, np.nan, basis, "no data")
    low, high = stats.interval(samples)
    above, below = (low > 0, high < 0) if sign > 0 else (high < 0, low > 0)
    answer = "supported" if above else "contradicted" if below else "undecided"
    return Verdict(claim, student, source, statistic, float(value), low, high, basis, answer)


def printed_gap() -> float:
    """How far apart the published study prints the same cell of the same student, at most (a fraction)."""
    distilled = published().dropna(subset="T")
    return float(distilled.groupby(["student", "T", "alpha"])["val_acc_pct"].agg(np.ptp).max()) / 100


def _chance_here(results: Results, student: str) -> Verdict:
    """Below what gap 95 % of pairs of runs stay that differ by their seed alone: 1.96 sqrt(2) sd within cells."""
    own = results.runs[(results.runs["student"] == student) & (results.runs["method"] == "kd")]
    groups = [g["top1_best"].to_numpy() for _, g in own.groupby(["T", "alpha"], dropna=False)]
    several = [g for g in groups if len(g) > 1]
    sd, low, high = (1.96 * np.sqrt(2) * x for x in stats.spread(several))
    gap = printed_gap()
    answer = "no data" if not several else "supported" if low >= gap else "contradicted" if high < gap else "undecided"
    return Verdict("4", student, "here", "gap", sd, low, high, f"{len(several)} cells with seeds", answer)


def _chance_there(student: str, rows: pd.DataFrame) -> list[Verdict]:
    """The cell that is printed twice: its gap, and the interval that other images would have given it."""
    cells, drawn, _ = _theirs(rows)
    twice = cells.dropna(subset="T").duplicated(["T", "alpha"], keep=False)
    which = cells.index.get_indexer(twice.index[twice])
    if len(which) != 2:
        return []
    gap = abs(np.diff(cells["acc"].to_numpy()[which])[0])
    low, high = stats.interval(np.abs(drawn[:, which[1]] - drawn[:, which[0]]))
    return [Verdict("4", student, "published", "gap", float(gap), low, high, "1 cell, printed twice", "undecided")]
