"""Are the intervals and verdicts of the report worth what they say? Whole studies are drawn whose truth is known.

    make calibrate      # 2,000 studies of each kind, some minutes; writes calibration.json: the table of docs/trust.md

A run is right on an image where a sum is above 0: of the cell's own, of the seed, of the run, of the image, of the cell
on that image, and of chance, all normal. So the truth is known: a cell's accuracy is the normal distribution's. The
studies have the size of those in git: 24 cells and a baseline, and runs that vary as much, for what images do.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits  # scikit-learn has it

from kd_utils.reporting import stats

FILE = Path(__file__).resolve().parent / "calibration.json"
STUDIES = 2000
CELLS, IMAGES = 24, 600
BASELINE, ACCURACY = 0, 0.40
IMAGE, CELL_ON_IMAGE, SEED, RUN = 1.6, 0.25, 0.1, 0.12  # standard deviations of what the sum is of; chance has 1
MARGIN = 0.05  # of sameness; the studies in git have ten times the images, and a margin of 0.01

# how many of the cells, the baseline among them, have each seed
DESIGNS: dict[str, list[int]] = {
    "one seed": [25],
    "three seeds": [25, 25, 25],
    "as in git: one seed, and two more of 9 cells": [25, 9, 9],
}


@dataclass(frozen=True)
class Tally:
    """Shares of studies, or of comparisons.

    gains, contrasts, spreads: of intervals that hold the truth, of the gain of each cell, of that of half of them
    together, and of the standard deviation of runs of a cell. false_stars: of studies without any gain where a cell is
    called better or worse. false_same: of gains as large as the margin that are called none. best_held: of sets that
    hold the best cell. None where a design gives none of these.
    """

    gains: float
    contrasts: float
    spreads: float | None
    false_stars: float
    false_same: float | None
    best_held: float | None


@threadpool_limits.wrap(limits=1)  # the matrices are small
def tally(design: str, studies: int, seed: int = 0) -> Tally:
    """Draw so many studies of a design with some gains, as many without any, and as many with gains of the margin."""
    rng = np.random.default_rng(seed)
    counts = DESIGNS[design]
    gains, contrasts, spreads, stars, same, held = [], [], [], [], [], []
    half = {cell: 2 / CELLS for cell in range(1, CELLS // 2 + 1)} | {BASELINE: -1.0}
    for _ in range(studies):
        accuracies = np.full(CELLS + 1, ACCURACY)
        accuracies[1:] += rng.choice([0.0, 0.02, 0.05, 0.08], CELLS)
        hits, truth = draw(rng, accuracies, counts)
        model = stats.Additive(hits)
        effects = against_baseline(model)
        gains += [covers(effect, truth[cell] - truth[BASELINE]) for cell, effect in enumerate(effects, 1)]
        wanted = sum(weight * truth[cell] for cell, weight in half.items())
        contrasts.append(covers(model.effect(half), wanted))
        if model.freedom:
            few = list(range(9))  # a set of 9 tells as much as one of 25, and takes a seventh of the time
            held.append(max(few, key=lambda cell: truth[cell]) in model.among_best(few))

        none = stats.Additive(draw(rng, np.full(CELLS + 1, ACCURACY), counts)[0])
        told = stats.verdicts(against_baseline(none), MARGIN)
        stars.append("better" in told or "worse" in told)
        _, low, high = none.spread()
        spreads += [low <= true_spread() <= high] if none.freedom else []

        apart = np.full(CELLS + 1, ACCURACY + MARGIN)
        apart[BASELINE] = ACCURACY
        effects = against_baseline(stats.Additive(draw(rng, apart, counts)[0]))
        same += [effect.p_same(MARGIN) < stats.LEVEL for effect in effects if effect.freedom]
    return Tally(
        gains=float(np.mean(gains)),
        contrasts=float(np.mean(contrasts)),
        spreads=float(np.mean(spreads)) if spreads else None,
        false_stars=float(np.mean(stars)),
        false_same=float(np.mean(same)) if same else None,
        best_held=float(np.mean(held)) if held else None,
    )


def draw(
    rng: np.random.Generator, accuracies: np.ndarray, counts: list[int]
) -> tuple[dict[int, dict[int, np.ndarray]], np.ndarray]:
    """A study's answers, cell -> seed -> (IMAGES,) bool, and what its intervals are to hold: an accuracy for each cell.

    With several seeds that is the accuracy over all seeds and images; with one, that of these very runs on all images.
    """
    cells, seeds = len(accuracies), len(counts)
    spread = math.sqrt(1 + IMAGE**2 + CELL_ON_IMAGE**2)
    own = ndtri(accuracies) * math.hypot(spread, SEED, RUN)
    of_runs = own[:, None] + SEED * rng.standard_normal(seeds) + RUN * rng.standard_normal((cells, seeds))
    of_images = IMAGE * rng.standard_normal((1, IMAGES)) + CELL_ON_IMAGE * rng.standard_normal((cells, IMAGES))
    chance = rng.standard_normal((cells, seeds, IMAGES), dtype=np.float32)
    right = (of_runs[:, :, None] + of_images[:, None, :]).astype(np.float32) + chance > 0
    hits = {c: {s: right[c, s] for s, count in enumerate(counts) if c < count} for c in range(cells)}
    return hits, accuracies if seeds > 1 else ndtr(of_runs[:, 0] / spread)


@cache
def true_spread() -> float:
    """The standard deviation of the accuracy of runs of a cell that is right on ACCURACY of the images.

    Its square is that of the accuracy on all images, plus that of chance on IMAGES of them: the mean of p (1 - p), p
    the probability that a run is right on an image.
    """
    rng, draws = np.random.default_rng(0), 1_000_000
    on_image = math.hypot(IMAGE, CELL_ON_IMAGE)
    own = ndtri(ACCURACY) * math.sqrt(1 + on_image**2 + SEED**2 + RUN**2)
    of_run = own + math.hypot(SEED, RUN) * rng.standard_normal(draws)
    p = ndtr(of_run + on_image * rng.standard_normal(draws))
    return float(np.sqrt(np.var(ndtr(of_run / math.hypot(1, on_image))) + np.mean(p * (1 - p)) / IMAGES))


def against_baseline(model: stats.Additive) -> list[stats.Effect]:
    """The gain of each cell."""
    return [model.effect({cell: 1.0, BASELINE: -1.0}) for cell in range(1, CELLS + 1)]


def covers(effect: stats.Effect, truth: float) -> bool:
    """Whether the interval of 95 % holds the truth."""
    low, high = effect.interval()
    return low <= truth <= high


def kept() -> Mapping[str, dict]:
    """The tallies that are kept, a design each, and how many studies they are of."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def main() -> None:
    """Draw all studies, and keep the tallies."""
    tallies = {design: vars(tally(design, STUDIES)) for design in DESIGNS}
    FILE.write_text(json.dumps({"studies": STUDIES, "designs": tallies}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
