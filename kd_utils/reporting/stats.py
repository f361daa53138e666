"""Right and wrong answers -> intervals, tests, rank correlations. NumPy, scipy and statsmodels; knows no study.

What varies: the validation images, of which there might have been others, and the seeds. With one seed a cell only the
images vary, and an interval says how far these very models would differ on other images, not what another seed does.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 5000
TAIL = (1 - 0.95) / 2  # the share of samples on either side of an interval of 95 %
AT_ONCE = 4_000_000  # images drawn at a time


class Bootstrap:
    """A bootstrap over the validation images, and over the seeds where a cell has several.

    hits: cell -> seed -> (N,) bool, whether each of the N images is classified rightly. All cells are resampled with
    the same images, so differences between them are paired (Efron and Tibshirani 1993, 'An introduction to the
    bootstrap'). Deviations of seeds are resampled beside, stretched by sqrt(S / (S - 1)) so that their variance is
    the unbiased one. Two or three seeds know little of their spread: where it is as large as that of the images, an
    interval of 95 % is one of about 90 % (tests/unit/test_stats.py). Deterministic.
    """

    def __init__(self, hits: Mapping[Any, Mapping[int, np.ndarray]], resamples: int = RESAMPLES):
        self.hits = hits
        self.resamples = resamples
        columns = [(cell, seed) for cell, seeds in hits.items() for seed in seeds]
        answers = np.stack([hits[cell][seed] for cell, seed in columns], axis=1).astype(np.float32)
        self._observed = dict(zip(columns, answers.mean(axis=0, dtype=np.float64).tolist(), strict=True))
        resampled = _resampled_means(answers, resamples)
        self._resampled = {column: resampled[:, k] for k, column in enumerate(columns)}

    def seeds(self, cell: Hashable, other: Hashable | None = None) -> list[int]:
        """The seeds of a cell, or those that two cells have in common."""
        return sorted(set(self.hits[cell]) & set(self.hits[cell if other is None else other]))

    def mean(self, cell: Hashable) -> np.ndarray:
        """Resampled accuracies of a cell, the mean over its seeds: (resamples,), fractions."""
        seeds = self.seeds(cell)
        return self._over_seeds(
            np.stack([self._resampled[cell, s] for s in seeds], axis=1),
            np.array([self._observed[cell, s] for s in seeds]),
        )

    def difference(self, cell: Hashable, other: Hashable) -> np.ndarray:
        """Resampled differences of accuracy, cell less other, over the seeds they have in common: (resamples,)."""
        seeds = self.seeds(cell, other)
        return self._over_seeds(
            np.stack([self._resampled[cell, s] - self._resampled[other, s] for s in seeds], axis=1),
            np.array([self._observed[cell, s] - self._observed[other, s] for s in seeds]),
        )

    def p_value(self, cell: Hashable, other: Hashable) -> float:
        """Two-sided p of 'both are equally accurate', paired: McNemar's exact test for one common seed, else bootstrap.

        McNemar 1947, Psychometrika 12; the bootstrap's p is the level at which its interval just reaches 0, at least
        1 / resamples. NaN without a common seed, 1 for a cell against itself.
        """
        seeds = self.seeds(cell, other)
        if not seeds:
            return float("nan")
        if cell == other:
            return 1.0
        if len(seeds) == 1:
            return mcnemar(self.hits[cell][seeds[0]], self.hits[other][seeds[0]])
        samples = self.difference(cell, other)
        p = 2 * min(np.mean(samples <= 0), np.mean(samples >= 0))
        return float(min(1.0, max(p, 1 / self.resamples)))

    def _over_seeds(self, resampled: np.ndarray, observed: np.ndarray) -> np.ndarray:
        count = len(observed)
        means = resampled.mean(axis=1, dtype=np.float64)
        if count == 1:
            return means
        deviations = (observed - observed.mean()) * np.sqrt(count / (count - 1))
        drawn = np.random.default_rng(count).integers(count, size=(len(means), count))
        return means + deviations[drawn].mean(axis=1)


def _resampled_means(answers: np.ndarray, resamples: int) -> np.ndarray:
    """Means of each column of answers, (N, K), over N rows drawn with replacement: (resamples, K)."""
    n = len(answers)
    rng = np.random.default_rng(0)
    parts, left = [], resamples
    while left:
        rows = min(left, max(1, AT_ONCE // n))
        drawn = rng.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float32)
        parts.append(counts @ answers / n)
        left -= rows
    return np.concatenate(parts)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled values, (resamples,)."""
    low, high = np.quantile(samples, [TAIL, 1 - TAIL])
    return float(low), float(high)


def mcnemar(right: np.ndarray, other_right: np.ndarray) -> float:
    """McNemar's exact two-sided p for two classifiers on the same images; (N,) bool each. 1 if they never differ."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    right, other_right = np.asarray(right, bool), np.asarray(other_right, bool)
    only, only_other = int(np.sum(right & ~other_right)), int(np.sum(~right & other_right))
    return float(test([[0, only], [only_other, 0]], exact=True).pvalue) if only + only_other else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6); NaN stays, uncounted."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, np.float64)
    known = ~np.isnan(p)
    corrected = np.full(p.shape, np.nan)
    if known.any():
        corrected[known] = multipletests(p[known], method="holm")[1]
    return corrected


def pairs(x: ArrayLike, strata: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of places in one stratum that differ in x: their first and their second places, (pairs,) int each."""
    x, strata = np.asarray(x, np.float64), np.asarray(strata)
    first, second = np.triu_indices(len(x), 1)
    paired = (strata[first] == strata[second]) & (x[first] != x[second])
    return first[paired], second[paired]


def concordance(values: ArrayLike, x: ArrayLike, strata: ArrayLike) -> np.ndarray:
    """Does `values` rise with x among cells of the same stratum? Goodman and Kruskal's gamma over all such pairs.

    values: (..., K); x, strata: (K,). Returns (...): (rising - falling) / (rising + falling) pairs, from -1 to 1, 0
    where all are ties, NaN without a pair. It takes one row of a stratum as well as a full grid.
    Goodman and Kruskal 1954, JASA 49.
    """
    values, x = np.asarray(values, np.float64), np.asarray(x, np.float64)
    first, second = pairs(x, strata)
    sign = np.sign(values[..., second] - values[..., first]) * np.sign(x[second] - x[first])
    if not sign.shape[-1]:
        return np.full(sign.shape[:-1], np.nan)
    return sign.sum(axis=-1) / np.maximum(np.abs(sign).sum(axis=-1), 1)


def spread(groups: list[np.ndarray]) -> tuple[float, float, float]:
    """The standard deviation within groups (runs of a cell, a seed each), pooled, and its 95 % chi-squared interval.

    NaN without a group of two.
    """
    from scipy.stats import chi2

    freedom = sum(len(g) - 1 for g in groups)
    if freedom <= 0:
        nan = float("nan")
        return nan, nan, nan
    squares = sum(float(np.sum((np.asarray(g) - np.mean(g)) ** 2)) for g in groups)
    low, high = (np.sqrt(squares / chi2.ppf(q, freedom)) for q in (1 - TAIL, TAIL))
    return float(np.sqrt(squares / freedom)), float(low), float(high)
