"""Results -> the figures of the report, each answering one question, with its caption. Loads no torch."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from .. import records
from ..learning import metrics
from ..sources import SOURCES
from ..text import short
from . import plots, stats
from .results import CellRow, Point, Results
from .shown import Figure, between, fixed, in_markdown, percent, points, seeds_a_cell, signed, visible

SOFT_TEMPERATURES = [1.0, 4.0, 20.0]
IMAGES_SHOWN = 4
LEAST_IN_BIN = 10  # a bin's accuracy from fewer images is noise


def accuracy(results: Results) -> Figure:
    """Which temperature and weight give the most accurate student?"""
    uneven = _seeds_differ(results)

    def note(cell: CellRow) -> str:
        return percent(cell["top1"], 1) + ("=" if cell["among_best"] else "") + (f" ({cell['n']})" if uneven else "")

    grids = {results.names[student]: 100 * results.grid(student, "top1") for student in results.labels}
    notes = {results.names[student]: results.grid(student, note).fillna("") for student in results.labels}
    centres = {name: _baseline_or_mean(grid) for name, grid in grids.items()}
    caption = (
        f"Top-1 accuracy in percent, {_seeds(results, noted=True)}. White is the baseline, the column $\\alpha = 1$; "
        "orange is above it, purple below."
    )
    drawn = plots.heatmaps(grids, notes=notes, centres=centres)
    return Figure(drawn, caption, "accuracy", _spoken(results, "top1", "accuracy, percent", percent))


def gain(results: Results) -> Figure | None:
    """Where does distillation help, where does it harm? None before there is a baseline."""
    students = [student for student in results.labels if results.row(Point.baseline(student)) is not None]
    if not students:
        return None
    uneven = _seeds_differ(results)

    def note(cell: CellRow) -> str:
        mark = "*" if cell["verdict"] in ("better", "worse") else ""
        value = points(cell["gain"], 1) + mark
        return _note(value, cell["gain_low"], cell["gain_high"], cell["n"] if uneven else None)

    grids = {results.names[student]: 100 * results.grid(student, "gain") for student in students}
    notes = {results.names[student]: results.grid(student, note).fillna("") for student in students}
    caption = f"Gain over the baseline in points, ± half its 95 % interval, {_seeds(results, noted=True)}."
    drawn = plots.heatmaps(grids, notes=notes)
    return Figure(drawn, caption, "gain", _spoken(results, "gain", "gain, points", points))


def temperature(results: Results) -> Figure | None:
    """How does the gain follow T at each alpha? None before there is a baseline and a distilled cell."""
    lines = {}
    for student in results.labels:
        cells = results.distilled_of(student).dropna(subset="gain")
        columns = {name: 100 * cells[name] for name in ("gain", "gain_low", "gain_high")}
        if len(cells):
            lines[results.names[student]] = pd.DataFrame({"T": cells["T"], "alpha": cells["alpha"], **columns})
    if not lines:
        return None
    caption = f"Gain over the baseline against temperature, with 95 % bands, {_seeds(results)}."
    says = dict.fromkeys(lines, "a line for each weight, the gain against the temperature")
    return Figure(plots.against_temperature(lines), caption, "temperature", says)


def learning(results: Results) -> Figure:
    """How do the best, the standard and the worst cell and the baseline learn?"""
    histories = {}
    for student in results.labels:
        first_runs = {
            _run_name(role, cell): results.records_of(cell.point)[0] for role, cell in results.roles(student).items()
        }
        histories[results.names[student]] = {name: records.history(record) for name, record in first_runs.items()}
    split = "held-out training images" if results.score_column.startswith("holdout") else "the validation images"
    caption = f"Accuracy on {split} against epoch: a run each of best, standard and worst cell, and of the baseline."
    says = {name: f"curves of {', '.join(runs)}" for name, runs in histories.items()}
    return Figure(plots.learning_curves(histories, results.score_column), caption, "learning", says)


def agreement(results: Results) -> Figure:
    """Is the student that agrees more with its teacher the more accurate one?"""
    scattered, says, correlations = {}, {}, []
    for student in results.labels:
        name, cells = results.names[student], results.cells_of(student)
        percentages = {"agreement": 100 * cells["agreement"], "value": 100 * cells["top1"]}
        scattered[name] = pd.DataFrame({"T": cells["T"], "alpha": cells["alpha"], **percentages})
        rho, low, high = stats.rank_correlation(cells["agreement"], cells["top1"])
        if not np.isnan(rho):
            correlations.append(f"{between(rho, low, high, signed)} ({in_markdown(name)})")
            says[name] = f"accuracy against agreement, a rank correlation of {signed(rho)}"
    rho = f" Spearman's rank correlation: {', '.join(correlations)}." if correlations else ""
    caption = f"Accuracy against agreement with the teacher, a point a cell; larger points are of higher $T$.{rho}"
    return Figure(plots.agreement(scattered), caption, "agreement", says)


def calibration(results: Results) -> Figure:
    """Does distillation make the student's confidence truer?"""
    diagrams = {}
    for student in results.labels:
        roles = results.roles(student)
        diagrams[results.names[student]] = {
            f"{_run_name(role, cell)}, ECE {cell['ece']:.3f}": _reliability(results, cell.point)
            for role, cell in roles.items()
            if role != "worst"
        }
    caption = (
        f"Reliability: accuracy of the images of one confidence, in bins of at least {LEAST_IN_BIN} images, all seeds "
        "together. Below the dotted line a model is surer than it is right."
    )
    says = {name: "; ".join(runs) for name, runs in diagrams.items()}
    return Figure(plots.reliability(diagrams, LEAST_IN_BIN), caption, "calibration", says)


def softened(results: Results, pictures: np.ndarray | None = None) -> Figure:
    """What does the temperature do to what a teacher says?

    pictures: the data set's val images, (N, H, W, 3) uint8, where they are at hand and may be shown.
    """
    cell = results.example
    student_says = results.records_of(cell.point)[0].predictions
    teacher_says = results.teacher.predictions
    kept = teacher_says["example"]  # indices of the images whose logits are kept with the predictions
    places = np.linspace(0, len(kept) - 1, min(IMAGES_SHOWN, len(kept))).astype(int)
    examples = [
        plots.Example(
            label=int(teacher_says["label"][kept[place]]),
            teacher=teacher_says["example_logits"][place],
            student=student_says["example_logits"][place],
            picture=None if pictures is None else pictures[kept[place]],
        )
        for place in places
    ]
    caption = (
        f"Probabilities that the teacher and {in_markdown(results.names[cell.point.student])} ({cell.point.math}) give "
        f"to {len(examples)} validation images: of the teacher's first classes, and of the true one, named above."
    )
    if not SOURCES[results.study.data.name].shown:
        caption += " The licence of the images does not let a report show them."
    elif pictures is None:
        caption += " The images are not at hand where this report was made."
    drawn = plots.softened_beside(examples, SOFT_TEMPERATURES, results.dataset["classes"])
    temperatures = ", ".join(map(short, SOFT_TEMPERATURES))
    says = dict.fromkeys(drawn, f"probabilities of the teacher's first classes at T = {temperatures}")
    return Figure(drawn, caption, "softened", says)


def per_class(results: Results) -> Figure | None:
    """Which classes gain? None before there is a baseline and a distilled cell."""
    gains = {}
    for student in results.labels:
        roles = results.roles(student)
        if "baseline" not in roles or "best" not in roles:
            continue
        baseline = roles["baseline"].point
        columns = {
            _run_name(role, roles[role]): 100 * results.class_gains(roles[role].point)
            for role in ("best", "standard")
            if role in roles and results.pairs_of(roles[role].point, baseline)
        }
        if columns:
            gains[results.names[student]] = pd.DataFrame(columns, index=results.dataset["classes"])
    if not gains:
        return None
    images = results.dataset["counts"]["val"] / len(results.dataset["classes"])
    caption = (
        f"Gain of each class over the baseline, on about {images:.0f} images each, over the seeds that both have; "
        "sorted by the best cell's."
    )
    says = {name: f"{table.columns[0]}, {_extremes(table.iloc[:, 0])}" for name, table in gains.items()}
    return Figure(plots.per_class(gains), caption, "classes", says)


def mix(results: Results) -> Figure | None:
    """How much of the gradient is the teacher's? None before there is a distilled cell."""
    grids, notes = {}, {}
    for student in results.labels:
        if results.distilled_of(student).empty:
            continue
        name = results.names[student]
        grids[name] = 100 * results.grid(student, "mix").drop(columns=1.0, errors="ignore")
        shares = results.grid(student, lambda cell: percent(cell["mix"], 0)).fillna("")
        notes[name] = shares[grids[name].columns]
    if not grids:
        return None
    caption = "The teacher's share of the gradient in percent, mean over images and epochs. White is half and half."
    drawn = plots.heatmaps(grids, notes=notes, centres=dict.fromkeys(grids, 50.0))
    says = _spoken(results, "mix", "the teacher's share, percent", lambda share: percent(share, 0))
    return Figure(drawn, caption, "mix", says)


def _spoken(results: Results, column: str, what: str, write: Callable[[float], str]) -> dict[str, str]:
    """What a heatmap of a column shows, in words: its least and its greatest value."""
    says = {}
    for student in results.labels:
        cells = results.distilled_of(student).dropna(subset=column).sort_values(column)
        if len(cells):
            ends = [f"{write(cell[column])} at {cell.point.words}" for cell in results.rows(cells.iloc[[0, -1]])]
            says[results.names[student]] = f"{what}, from {' to '.join(ends)}"
    return says


def _extremes(gains: pd.Series) -> str:
    """'from −9.00 points (goose) to +17.00 points (slug)': the least and the greatest of gains in points."""
    ranked = gains.sort_values()
    ends = [f"{signed(float(ranked.iloc[k]))} points ({visible(str(ranked.index[k]))})" for k in (0, -1)]
    return f"from {' to '.join(ends)}"


def _note(value: str, low: float, high: float, seeds: int | None) -> str:
    """What is written into a heatmap's cell: its value, ± half the interval, the seeds if cells differ in them."""
    interval = f"\n±{fixed(50 * (high - low), 1)}" if high > low else ""
    return value + interval + ("" if seeds is None else f" ({seeds})")


def _baseline_or_mean(grid: pd.DataFrame) -> float:
    """What a heatmap's colours diverge around: its column alpha = 1, or the mean before there is a baseline."""
    return float(grid[1.0].iloc[0]) if 1.0 in grid else float(np.nanmean(grid.to_numpy()))


def _seeds_differ(results: Results) -> bool:
    return len(set(results.seed_counts(grid=True))) > 1


def _seeds(results: Results, noted: bool = False) -> str:
    """How many seeds a cell has; noted: where that differs, the figure notes it in its cells."""
    brackets = " (in brackets)" if noted and _seeds_differ(results) else ""
    return seeds_a_cell(results.seed_counts(grid=True)) + brackets


def _run_name(role: str, cell: CellRow) -> str:
    """'baseline', or 'best: T = 20, α = 0.1'."""
    return role if cell.point.T is None else f"{role}: {cell.point.words}"


def _reliability(results: Results, point: Point) -> np.ndarray:
    """metrics.reliability of all runs of a cell together: (bins, 3)."""
    predictions = [record.predictions for record in results.records_of(point)]
    confidence = np.concatenate([p["confidence"] for p in predictions])
    right = np.concatenate([p["predicted"] == p["label"] for p in predictions])
    return metrics.reliability(confidence, right)
