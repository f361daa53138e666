"""Right and wrong answers of runs -> effects with intervals, tests and verdicts. NumPy and scipy; knows no study.

One model of what varies, for all runs of a student: accuracy = cell + seed + residual. Beside the seeds there are the
validation images, of which there might have been others.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtri, fdtrc, ndtri, stdtr, stdtrit

LEVEL = 0.05  # of tests, and 1 - LEVEL of intervals

Verdict = Literal["better", "worse", "same", "undecided"]
CellType = TypeVar("CellType", bound=Hashable)
CellSeed = tuple[Any, int]  # a cell and a seed


@dataclass(frozen=True)
class Effect:
    """A weighted sum of cells' accuracies (a fraction), and how well it is known.

    error: its standard error. freedom: the degrees of freedom of Student's t that it is divided by; 0 where nothing is
    known of seeds, and `error` is that of other images alone. ahead: the probability that the sum is above 0 for one
    new run of each cell, all of one new seed, on the same images; NaN where nothing is known of seeds.
    All are NaN where the runs cannot say: two cells that have no seed in common, not even by way of other cells.
    """

    value: float
    error: float
    freedom: float
    ahead: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The interval that covers the truth with probability 1 - level."""
        tail = 1 - level / 2
        reach = self.error * (_quantile(tail, self.freedom) if self.freedom else ndtri(tail))
        return float(self.value - reach), float(self.value + reach)

    @property
    def p(self) -> float:
        """Two-sided p of 'it is 0'; NaN where nothing is known of seeds."""
        return min(1.0, 2 * self._below(-abs(self.value))) if self.freedom else float("nan")

    def p_same(self, margin: float) -> float:
        """p of 'it is as far from 0 as the margin, or farther', by two one-sided tests; NaN as p is.

        Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15.
        """
        return (
            max(self._below(self.value - margin), self._below(-self.value - margin)) if self.freedom else float("nan")
        )

    def _below(self, distance: float) -> float:
        """The probability of a t at or below distance / error; 1 where there is neither distance nor error."""
        if self.error == 0:
            return float(distance >= 0)
        return float(stdtr(self.freedom, distance / self.error))


UNKNOWN = Effect(float("nan"), float("nan"), 0.0, float("nan"))


class Additive(Generic[CellType]):
    """accuracy of a run = cell + seed + residual: least squares over the runs of one student.

    hits: cell -> seed -> (N,) bool, whether each of the N validation images is classified rightly. What a seed does to
    all cells alike cancels between cells. The residual's variance is pooled over all cells, and so a cell with one seed
    has an interval too, once other cells have several. With one run a cell, nothing is known of it.

    variance: of the residual (fractions squared), NaN without degrees of freedom. freedom: its degrees of freedom.
    of_images: the part of it that is due to which images there are: two runs err on different ones. training: the rest.
    """

    def __init__(self, hits: Mapping[CellType, Mapping[int, np.ndarray]]) -> None:
        self.cells = list(hits)
        self.runs = [(cell, seed) for cell, seeds in hits.items() for seed in seeds]
        self._answers = np.stack([hits[cell][seed] for cell, seed in self.runs]).astype(np.float64)
        self.images = self._answers.shape[1]
        self.accuracy = self._answers.mean(axis=1)
        self._design, self._fit, self.freedom = _least_squares(self.runs, self.cells)
        left = self._answers - self._design @ (self._fit @ self._answers)
        means = left.mean(axis=1)
        self._squares = _rounded(means @ means)
        self.variance = self.of_images = float("nan")
        if self.freedom:
            self.variance = self._squares / self.freedom
            self.of_images = _rounded(np.var(left, axis=1, ddof=1).sum()) / self.images / self.freedom
        self.training = max(0.0, self.variance - self.of_images) if self.freedom else float("nan")

    def effect(self, weights: Mapping[CellType, float]) -> Effect:
        """A weighted sum of cells, weights summing to 0, with the variance that seeds and other images give it.

        Its weights over runs are a, by least squares. Variance: `training` times the sum of a squared, plus that of the
        images' own sums over the N images (which a paired bootstrap over images has, in closed form). Degrees of
        freedom by Satterthwaite 1946, Biometrics Bulletin 2.
        """
        a = self._run_weights(weights)
        if a is None:
            return UNKNOWN
        value = _rounded(a @ self.accuracy)
        images = _rounded(float(np.var(a @ self._answers, ddof=1))) / self.images
        if not self.freedom:
            return Effect(value, float(np.sqrt(images)), 0.0, float("nan"))
        seeds, squared = self.variance * float(a @ a), self.training * float(a @ a) + images
        new = np.sqrt(seeds + self.variance * sum(weight**2 for weight in weights.values()))
        ahead = float(stdtr(self.freedom, value / new)) if new else 0.5 + 0.5 * float(np.sign(value))
        freedom = self.freedom * (squared / seeds) ** 2 if seeds else float("inf")
        return Effect(value, float(np.sqrt(squared)), freedom, ahead)

    def alike(self, cells: Sequence[CellType]) -> float:
        """p of 'these cells are all equally accurate': Wald's F test; NaN where the runs cannot say."""
        first, *others = cells
        rows = [self._run_weights({other: 1.0, first: -1.0}) for other in others]
        known = [row for row in rows if row is not None]
        if not others or len(known) < len(rows) or not self.freedom:
            return float("nan")
        a = np.stack(known)
        covariance = self.training * a @ a.T + np.atleast_2d(np.cov(a @ self._answers)) / self.images
        differences = a @ self.accuracy
        if _equal(differences, np.zeros(len(a))):
            return 1.0
        return float(fdtrc(len(a), self.freedom, differences @ np.linalg.pinv(covariance) @ differences / len(a)))

    def among_best(self, cells: Sequence[CellType]) -> set[CellType]:
        """The cells that the best one is among, with probability 1 - LEVEL: those that no other is clearly above.

        Each is compared with all others, one-sided at LEVEL / (their number). All are kept where nothing is known of
        seeds. Gupta 1965, Technometrics 7; Hsu 1984, Annals of Statistics 12.
        """
        behind = set()
        for k, cell in enumerate(cells):
            for other in cells[:k]:
                effect = self.effect({cell: 1.0, other: -1.0})
                if effect.p / 2 < LEVEL / (len(cells) - 1):
                    behind.add(other if effect.value > 0 else cell)
        return set(cells) - behind

    def spread(self) -> tuple[float, float, float]:
        """The standard deviation of runs of one cell, which differ by their seed, and its 95 % interval.

        Its square is the sum of what seeds do to all cells alike and of the residual's variance. The interval is
        Graybill and Wang's (1980, JASA 75), for seeds have few degrees of freedom: with Satterthwaite's, it would hold
        the truth in five cases of six only. NaN without two runs of one cell.
        """
        by_cell = [[a for (c, _), a in zip(self.runs, self.accuracy, strict=True) if c == cell] for cell in self.cells]
        within, pairs = sum(len(runs) * float(np.var(runs)) for runs in by_cell), len(self.runs) - len(self.cells)
        if not pairs:
            return float("nan"), float("nan"), float("nan")
        parts = [(self._squares, self.freedom), (within - self._squares, pairs - self.freedom)]
        if not self.freedom:
            parts = [(within, pairs)]
        variance, below, above = within / pairs, 0.0, 0.0
        for squares, freedom in parts:
            if freedom:
                below += ((1 - freedom / chdtri(freedom, LEVEL / 2)) * squares / pairs) ** 2
                above += ((freedom / chdtri(freedom, 1 - LEVEL / 2) - 1) * squares / pairs) ** 2
        low, high = max(0.0, variance - np.sqrt(below)), variance + np.sqrt(above)
        return float(np.sqrt(variance)), float(np.sqrt(low)), float(np.sqrt(high))

    def _run_weights(self, weights: Mapping[CellType, float]) -> np.ndarray | None:
        """The weight of each run in a sum of cells, (runs,); None where the runs cannot say what it is."""
        of_columns = np.zeros(self._design.shape[1])
        for cell, weight in weights.items():
            of_columns[self.cells.index(cell)] = weight
        a = of_columns @ self._fit
        return a if _equal(a @ self._design, of_columns) else None


class Printed(Generic[CellType]):
    """Accuracies of single runs whose answers are not known, one or more a cell, independent of each other.

    accuracies: cell -> fractions. images: how many each is of. like: the model of other runs, whose spread these are
    taken to have; without it, or where it knows none, effects have the error of other images alone.
    """

    def __init__(self, accuracies: Mapping[CellType, Sequence[float]], images: int, like: Additive[Any] | None) -> None:
        self.accuracies, self.images = accuracies, images
        self.like = like if like is not None and like.freedom else None

    def effect(self, weights: Mapping[CellType, float]) -> Effect:
        """As Additive.effect; images by the binomial's variance."""
        value = squared = summed = 0.0
        for cell, weight in weights.items():
            runs = np.asarray(self.accuracies[cell])
            value += weight * float(runs.mean())
            squared += (weight / len(runs)) ** 2 * float(np.sum(runs * (1 - runs))) / self.images
            summed += weight**2 / len(runs)
        if self.like is None:
            return Effect(value, float(np.sqrt(squared)), 0.0, float("nan"))
        seeds = self.like.variance * summed
        squared += self.like.training * summed
        freedom = self.like.freedom * (squared / seeds) ** 2 if seeds else float("inf")
        return Effect(value, float(np.sqrt(squared)), freedom, float("nan"))


def verdicts(effects: Sequence[Effect], margin: float) -> list[Verdict]:
    """What effects that are corrected together come to: better or worse than 0, the same within the margin, undecided.

    The p-values of a difference are corrected by Holm's method, so that among all of them a difference is told where
    there is none with a probability of LEVEL at most. Sameness is tested one by one. Where both hold, the difference is
    told.
    """
    differs = holm([effect.p for effect in effects]) < LEVEL
    same = [effect.p_same(margin) < LEVEL for effect in effects]
    told: list[Verdict] = []
    for effect, is_different, is_same in zip(effects, differs, same, strict=True):
        if is_different:
            told.append("better" if effect.value > 0 else "worse")
        else:
            told.append("same" if is_same else "undecided")
    return told


def holm(p: ArrayLike) -> np.ndarray:
    """p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6); NaN stays, uncounted."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p)[: np.sum(~np.isnan(p))]
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def mcnemar(right: np.ndarray, other_right: np.ndarray) -> float:
    """McNemar's exact two-sided p for two trained models on the same images; (N,) bool each. 1 if they never differ.

    It says nothing of how they were trained: two runs that differ by their seed alone are two models.
    McNemar 1947, Psychometrika 12.
    """
    from scipy.stats import binomtest

    right, other_right = np.asarray(right, bool), np.asarray(other_right, bool)
    only, only_other = int(np.sum(right & ~other_right)), int(np.sum(~right & other_right))
    return float(binomtest(only, only + only_other).pvalue) if only + only_other else 1.0


def adjusted(values: Mapping[CellSeed, float]) -> dict[Any, float]:
    """Cells' means, as if each had been run with every seed: by least squares, cell + seed.

    values: (cell, seed) -> a number. The plain means where all cells have the same seeds, and of cells that cannot be
    brought to the same seeds: those that have none in common with others, not even by way of other cells.
    """
    runs, y = list(values), np.array(list(values.values()))
    cells = list(dict.fromkeys(cell for cell, _ in runs))
    design, fit, _ = _least_squares(runs, cells)
    seeds = design.shape[1] - len(cells)
    means = {}
    for k, cell in enumerate(cells):
        of_columns = np.concatenate([np.eye(len(cells))[k], np.full(seeds, 1 / seeds)])
        a = of_columns @ fit
        of_cell = design[:, k] / design[:, k].sum()
        means[cell] = float((a if _equal(a @ design, of_columns) else of_cell) @ y)
    return means


@dataclass(frozen=True)
class Chosen:
    """What a winner's gain does on a seed that it was not chosen by: means over the seeds left out, one at a time.

    before: its gain over the seeds that it was chosen by. after: its gain in its run of the seed left out. rounds: how
    many seeds were left out. cells: how many cells there were to choose from, at most.
    """

    before: float
    after: float
    rounds: int
    cells: int


def leave_a_seed_out(accuracies: Mapping[CellSeed, float], baseline: Hashable) -> Chosen | None:
    """Choose the most accurate cell on all seeds but one, and report it on that one; None where it cannot be done.

    A cell takes part where it has a run of the seed left out and of another.
    """
    before, after, most = [], [], 0
    for left_out in sorted({seed for _, seed in accuracies}):
        means = adjusted({run: value for run, value in accuracies.items() if run[1] != left_out} or {(None, 0): 0.0})
        there = {cell: value for cell, value in means.items() if (cell, left_out) in accuracies}
        base = there.pop(baseline, None)
        if base is None or len(there) < 2:
            continue
        winner = max(there, key=lambda cell: there[cell])
        before.append(there[winner] - base)
        after.append(accuracies[winner, left_out] - accuracies[baseline, left_out])
        most = max(most, len(there))
    return Chosen(float(np.mean(before)), float(np.mean(after)), len(before), most) if before else None


def rank_correlation(x: ArrayLike, y: ArrayLike) -> tuple[float, float, float]:
    """Spearman's rank correlation and its interval, NaN below five pairs or where all are ties.

    The interval is Bonett and Wright's (2000, Psychometrika 65).
    """
    ranks = np.stack([pd.Series(np.asarray(values)).rank() for values in (x, y)])
    if ranks.shape[1] < 5 or not np.ptp(ranks, axis=1).all():
        return float("nan"), float("nan"), float("nan")
    rho = float(np.corrcoef(ranks)[0, 1])
    reach = ndtri(1 - LEVEL / 2) * np.sqrt((1 + rho**2 / 2) / (ranks.shape[1] - 3))
    at = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return rho, float(np.tanh(at - reach)), float(np.tanh(at + reach))


def _rounded(number: float) -> float:
    """0 where a number is nothing but rounding: models that answer alike do not differ."""
    return float(number) if abs(number) > 1e-15 else 0.0


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """But for rounding."""
    return bool(np.abs(a - b).max() < 1e-9)


def _quantile(q: float, freedom: float) -> float:
    """Student's t."""
    return float(stdtrit(freedom, q) if np.isfinite(freedom) else ndtri(q))


def _least_squares(runs: Sequence[CellSeed], cells: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, int]:
    """Design (runs, cells + seeds), its pseudo-inverse, and the degrees of freedom that it leaves."""
    seeds = sorted({seed for _, seed in runs})
    design = np.zeros((len(runs), len(cells) + len(seeds)))
    for row, (cell, seed) in zip(design, runs, strict=True):
        row[cells.index(cell)] = row[len(cells) + seeds.index(seed)] = 1
    return design, np.linalg.pinv(design), len(runs) - int(np.linalg.matrix_rank(design))
