"""Results -> the figures of the report, each answering one question, with its caption. Loads no torch."""

import numpy as np
import pandas as pd

from .. import records
from ..learning import metrics
from ..study import short
from . import plots, stats
from .results import CellRow, Point, Results
from .shown import Figure, between, in_markdown, percent, points, seeds_a_cell, signed
from .stats import LEVEL

SOFT_TEMPERATURES = [1.0, 4.0, 20.0]
IMAGES_SHOWN = 3
LEAST_IN_BIN = 10  # a bin's accuracy from fewer images is noise


def accuracy(results: Results) -> Figure:
    """Which temperature and weight give the most accurate student?"""
    uneven = _seeds_differ(results)

    def note(cell: CellRow) -> str:
        return percent(cell["top1"], 1) + ("=" if cell["among_best"] else "") + (f"\n({cell['n']})" if uneven else "")

    grids = {student: 100 * results.grid(student, "top1") for student in results.labels}
    notes = {student: results.grid(student, note).fillna("") for student in results.labels}
    centres = {student: _baseline_or_mean(grid) for student, grid in grids.items()}
    marked = " = marks a set of cells that holds the best one with 95 % confidence." if results.varied else ""
    caption = (
        f"Top-1 accuracy on val in percent, {_seeds(results, noted=True)}. White is the baseline, the column alpha = 1."
        f"{marked}"
    )
    return Figure(plots.heatmaps(grids, label="top-1, %", notes=notes, centres=centres), caption, "accuracy")


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

    grids = {student: 100 * results.grid(student, "gain") for student in students}
    notes = {student: results.grid(student, note).fillna("") for student in students}
    over = "seeds and images" if results.varied else "images alone, of these trained models"
    marked = f" * marks gains and losses with a corrected p under {LEVEL:g}." if results.varied else ""
    caption = (
        f"Gain over the baseline in percentage points, ± half its 95 % interval over {over}, "
        f"{_seeds(results, noted=True)}.{marked}"
    )
    return Figure(plots.heatmaps(grids, label="gain, points", notes=notes), caption, "gain")


def temperature(results: Results) -> Figure | None:
    """How does the gain follow T at each alpha? None before there is a baseline and a distilled cell."""
    lines = {}
    for student in results.labels:
        cells = results.distilled_of(student).dropna(subset="gain")
        columns = {name: 100 * cells[name] for name in ("gain", "gain_low", "gain_high")}
        if len(cells):
            lines[student] = pd.DataFrame({"T": cells["T"], "alpha": cells["alpha"], **columns})
    if not lines:
        return None
    caption = (
        "Gain over the baseline against temperature for each alpha, with 95 % bands, "
        f"{_seeds(results)}; the black line is the baseline."
    )
    return Figure(plots.against_temperature(lines), caption, "temperature")


def learning(results: Results) -> Figure:
    """How do the best, the standard and the worst cell and the baseline learn?"""
    histories = {}
    for student in results.labels:
        first_runs = {
            _run_name(role, cell): results.records_of(cell.point)[0] for role, cell in results.roles(student).items()
        }
        histories[student] = {name: records.history(record) for name, record in first_runs.items()}
    split = "held-out training images" if results.score_column.startswith("holdout") else "val"
    caption = f"Accuracy on {split} against epoch: best, standard and worst cell and the baseline, first seed."
    return Figure(plots.learning_curves(histories, results.score_column), caption, "learning")


def agreement(results: Results) -> Figure:
    """Is the student that agrees more with its teacher the more accurate one?"""
    scattered, correlations = {}, []
    for student in results.labels:
        cells = results.cells_of(student)
        percentages = {"agreement": 100 * cells["agreement"], "value": 100 * cells["top1"]}
        scattered[student] = pd.DataFrame({"T": cells["T"], "alpha": cells["alpha"], **percentages})
        rho, low, high = stats.rank_correlation(cells["agreement"], cells["top1"])
        if not np.isnan(rho):
            correlations.append(f"{between(rho, low, high, signed)} for {in_markdown(student)}")
    rho = f" Spearman's rank correlation is {', '.join(correlations)}." if correlations else ""
    caption = f"Accuracy against agreement with the teacher, a point a cell; larger points are higher T.{rho}"
    return Figure(plots.agreement(scattered), caption, "agreement")


def calibration(results: Results) -> Figure:
    """Does distillation make the student's confidence truer?"""
    diagrams = {}
    for student in results.labels:
        roles = results.roles(student)
        diagrams[student] = {
            f"{_run_name(role, cell)}, ECE {cell['ece']:.3f}": _reliability(results, cell.point)
            for role, cell in roles.items()
            if role != "worst"
        }
    caption = (
        f"Reliability diagrams: of {metrics.ECE_BINS} bins of confidence those with at least {LEAST_IN_BIN} images, "
        "all seeds together; ECE is of all bins, the mean over seeds. Below the dotted line a model is surer than it "
        "is right."
    )
    return Figure(plots.reliability(diagrams, LEAST_IN_BIN), caption, "calibration")


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
        f"Probabilities of the teacher and of {in_markdown(cell.point.student)} at {cell.point.words}, softened at "
        f"three temperatures, for {len(examples)} validation images fixed by their places in the data set, and the "
        "teacher's first classes."
    )
    drawn = plots.softened_beside(examples, SOFT_TEMPERATURES, results.dataset["classes"])
    return Figure(drawn, caption, "softened")


def per_class(results: Results) -> Figure | None:
    """Which classes gain? None before there is a baseline and a distilled cell."""
    gains = {}
    for student in results.labels:
        roles = results.roles(student)
        if "baseline" not in roles or "best" not in roles:
            continue
        baseline = roles["baseline"].point
        columns = {
            _run_name(role, roles[role]): 100 * _class_gain(results, roles[role].point, baseline)
            for role in ("best", "standard")
            if role in roles and results.pairs_of(roles[role].point, baseline)
        }
        if columns:
            gains[student] = pd.DataFrame(columns, index=results.dataset["classes"])
    if not gains:
        return None
    images = results.dataset["counts"]["val"] / len(results.dataset["classes"])
    caption = (
        f"Gain of each class over the baseline, over the seeds that both have, on about {images:.0f} images each, "
        "sorted by the best cell's."
    )
    return Figure(plots.per_class(gains), caption, "classes")


def mix(results: Results) -> Figure | None:
    """How much of the gradient is the teacher's? None before there is a distilled cell."""
    grids, notes = {}, {}
    for student in results.labels:
        if results.distilled_of(student).empty:
            continue
        grids[student] = 100 * results.grid(student, "mix").drop(columns=1.0, errors="ignore")
        shares = results.grid(student, lambda cell: percent(cell["mix"], 0)).fillna("")
        notes[student] = shares[grids[student].columns]
    if not grids:
        return None
    caption = (
        "Effective mix: the teacher's share of the gradient in percent, that is (1 − alpha) g(T² KL) over itself plus "
        "alpha g(CE), where g is the norm of a part's gradient with respect to an image's logits, averaged over images "
        "and epochs. Equal alpha is not equal mix; white is half and half."
    )
    drawn = plots.heatmaps(grids, label="teacher's share, %", notes=notes, centres=dict.fromkeys(grids, 50.0))
    return Figure(drawn, caption, "mix")


def _note(value: str, low: float, high: float, seeds: int | None) -> str:
    """What is written into a heatmap's cell: its value, ± half the interval, the seeds if cells differ in them."""
    interval = f"\n±{50 * (high - low):.1f}" if high > low else ""
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
    """'baseline', or 'best: T=20, alpha=0.1'."""
    point = cell.point
    return role if point.T is None else f"{role}: T={short(point.T)}, alpha={short(point.alpha)}"


def _reliability(results: Results, point: Point) -> np.ndarray:
    """metrics.reliability of all runs of a cell together: (bins, 3)."""
    predictions = [record.predictions for record in results.records_of(point)]
    confidence = np.concatenate([p["confidence"] for p in predictions])
    right = np.concatenate([p["predicted"] == p["label"] for p in predictions])
    return metrics.reliability(confidence, right)


def _class_gain(results: Results, point: Point, baseline: Point) -> np.ndarray:
    """Accuracy on val of each class less the baseline's, over the seeds that both have: (classes,) fractions."""
    count, pairs = len(results.dataset["classes"]), results.pairs_of(point, baseline)
    return np.mean([run.class_accuracy(count) - base.class_accuracy(count) for run, base in pairs], axis=0)
