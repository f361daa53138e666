"""Results -> the figures of the report, each answering one question, with its caption. Loads no torch."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from .. import records
from ..learning import metrics
from . import plots
from .results import LEAST_P, Results
from .shown import Figure, percent, point, points, signed

SOFT_TEMPERATURES = [1.0, 4.0, 20.0]
IMAGES_SHOWN = 3
LEAST_IN_BIN = 10  # a bin's accuracy from fewer images is noise


def accuracy(results: Results) -> Figure:
    """Which temperature and weight give the most accurate student?"""
    grids = {s: 100 * results.pivot(s, "top1_best") for s in results.labels}
    mixed = _counts(results)[1:]

    def note(c):
        return _note(percent(c.top1_best, 1), "=" * c.tied, c.low, c.high, c.n if mixed else None)

    notes = {s: results.pivot(s, note).fillna("") for s in results.labels}
    centres = {s: float(g[1.0].iloc[0]) if 1.0 in g else float(np.nanmean(g)) for s, g in grids.items()}
    caption = (
        f"Top-1 accuracy on val in percent, ± half its 95 % interval, {_seeds(results, noted=True)}. White is the "
        "baseline, the column alpha = 1; = marks cells that cannot be told from the best (corrected p of at least "
        f"{LEAST_P:g})."
    )
    return Figure(plots.heatmaps(grids, label="top-1, %", notes=notes, centres=centres), caption, "accuracy")


def gain(results: Results) -> Figure | None:
    """Where does distillation help, where does it harm? None before there is a baseline."""
    labels = [s for s in results.labels if "baseline" in results.roles(s)]
    if not labels:
        return None
    grids = {s: 100 * results.pivot(s, "gain") for s in labels}
    mixed = _counts(results)[1:]

    def note(c):
        mark = "*" * (c.p_holm < LEAST_P)
        return _note(points(c.gain, 1), mark, c.gain_low, c.gain_high, c.n if mixed else None)

    notes = {s: results.pivot(s, note).fillna("") for s in labels}
    caption = (
        f"Gain over the baseline in percentage points, ± half its 95 % interval, {_seeds(results, noted=True)}. * "
        f"marks gains and losses with a corrected p under {LEAST_P:g}."
    )
    return Figure(plots.heatmaps(grids, label="gain, points", notes=notes), caption, "gain")


def temperature(results: Results) -> Figure:
    """How does accuracy follow T at each alpha?"""
    lines, baselines = {}, {}
    for student in results.labels:
        cells = results.of(student)
        shown = pd.DataFrame({"T": cells["T"], "alpha": cells["alpha"], "value": 100 * cells["top1_best"]})
        shown[["low", "high"]] = 100 * cells[["low", "high"]]
        lines[student] = shown.dropna(subset="T")
        for base in shown[shown["T"].isna()].to_dict("records"):
            baselines[student] = (base["value"], base["low"], base["high"])
    caption = (
        f"Accuracy against temperature for each alpha, with 95 % bands, {_seeds(results)}; the black line is alpha = 1."
    )
    return Figure(plots.against_temperature(lines, baselines), caption, "temperature")


def learning(results: Results) -> Figure:
    """How do the best, the standard and the worst cell and the baseline learn?"""
    histories = {
        s: {_named(role, c): records.history(results.records_of(c)[0]) for role, c in results.roles(s).items()}
        for s in results.labels
    }
    split = "held-out training images" if results.score_column.startswith("holdout") else "val"
    caption = f"Accuracy on {split} against epoch: best, standard and worst cell and the baseline, first seed."
    return Figure(plots.learning_curves(histories, results.score_column), caption, "learning")


def agreement(results: Results) -> Figure:
    """Is the student that agrees more with its teacher the more accurate one?"""
    cells, found = {}, []
    for student in results.labels:
        own = results.of(student)
        cells[student] = pd.DataFrame(
            {
                "T": own["T"],
                "alpha": own["alpha"],
                "agreement": 100 * own["agreement"],
                "value": 100 * own["top1_best"],
            }
        )
        if len(own) > 2:
            found.append(f"{signed(spearmanr(own['agreement'], own['top1_best']).statistic)} for {student}")
    rho = f" Spearman's rank correlation is {', '.join(found)}." if found else ""
    caption = f"Accuracy against agreement with the teacher, a point a cell; larger points are higher T.{rho}"
    return Figure(plots.agreement(cells), caption, "agreement")


def calibration(results: Results) -> Figure:
    """Does distillation make the student's confidence truer?"""
    diagrams = {}
    for student in results.labels:
        diagrams[student] = {}
        for role, cell in results.roles(student).items():
            if role == "worst":
                continue
            own = [r.predictions for r in results.records_of(cell)]
            confidence = np.concatenate([p["confidence"] for p in own])
            right = np.concatenate([p["predicted"] == p["label"] for p in own])
            name = f"{_named(role, cell)}, ECE {cell['ece']:.3f}"
            diagrams[student][name] = metrics.reliability(confidence, right)
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
    student = results.labels[0]
    cell = results.roles(student).get("best", results.of(student).iloc[0])
    taught = results.records_of(cell)[0].predictions
    says = results.teacher.predictions
    places = np.linspace(0, len(says["example"]) - 1, min(IMAGES_SHOWN, len(says["example"]))).astype(int)
    index = says["example"][places]
    examples = [
        {"label": int(says["label"][i]), "teacher": says["example_logits"][k], "student": taught["example_logits"][k]}
        for k, i in zip(places, index, strict=True)
    ]
    drawn = plots.softened_beside(
        examples, SOFT_TEMPERATURES, results.dataset["classes"], None if pictures is None else pictures[index]
    )
    caption = (
        f"Probabilities of the teacher and of {student} at {point(cell)}, softened at three temperatures, for "
        f"{len(examples)} validation images fixed by their places in the data set, and the teacher's first classes."
    )
    return Figure(drawn, caption, "softened")


def per_class(results: Results) -> Figure | None:
    """Which classes gain? None before there is a baseline and a distilled cell."""
    gains = {}
    for student in results.labels:
        roles = results.roles(student)
        if "baseline" not in roles or "best" not in roles:
            continue
        base = _class_accuracy(results, roles["baseline"])
        columns = {
            _named(r, roles[r]): 100 * (_class_accuracy(results, roles[r]) - base)
            for r in ("best", "standard")
            if r in roles
        }
        gains[student] = pd.DataFrame(columns, index=results.dataset["classes"])
    if not gains:
        return None
    images = results.dataset["counts"]["val"] / len(results.dataset["classes"])
    caption = f"Gain of each class over the baseline, on about {images:.0f} images each, sorted by the best cell's."
    return Figure(plots.per_class(gains), caption, "classes")


def mix(results: Results) -> Figure | None:
    """How much of the gradient is the teacher's? None before there is a distilled cell."""
    grids = {s: 100 * results.pivot(s, "mix").drop(columns=1.0, errors="ignore") for s in results.labels}
    grids = {s: g for s, g in grids.items() if g.size}
    notes = {s: results.pivot(s, lambda c: percent(c.mix, 0)).fillna("")[g.columns] for s, g in grids.items()}
    if not grids:
        return None
    caption = (
        "Effective mix: the teacher's share of the gradient in percent, that is (1 − alpha) g(T² KL) over itself plus "
        "alpha g(CE), where g is the norm of a part's gradient with respect to an image's logits, averaged over images "
        "and epochs. Equal alpha is not equal mix; white is half and half."
    )
    drawn = plots.heatmaps(grids, label="teacher's share, %", notes=notes, centres=dict.fromkeys(grids, 50.0))
    return Figure(drawn, caption, "mix")


def _note(value: str, mark: str, low: float, high: float, seeds: int | None) -> str:
    """What is written into a heatmap's cell: value and mark, ± half the interval, the seeds if cells differ in them."""
    interval = "" if low == high else f"\n±{50 * (high - low):.1f}"
    return value + mark + interval + ("" if seeds is None else f" ({seeds})")


def _counts(results: Results) -> list[int]:
    """The numbers of seeds that cells of the grid have."""
    return sorted(results.cells.loc[results.cells["method"] == "kd", "n"].unique().tolist())


def _seeds(results: Results, noted: bool = False) -> str:
    """How many seeds a cell has; noted: where that differs, the figure notes it in its cells."""
    least, *more = _counts(results)
    if more:
        return f"{least} to {more[-1]} seeds a cell{' (in brackets)' * noted}"
    return f"{least} seeds a cell" if least > 1 else "one seed a cell"


def _named(role: str, cell: pd.Series) -> str:
    """'baseline', or 'best: T=20, alpha=0.1'."""
    return role if role == "baseline" else f"{role}: T={cell['T']:g}, alpha={cell['alpha']:g}"


def _class_accuracy(results: Results, cell: pd.Series) -> np.ndarray:
    """Accuracy on val of each class, the mean over the cell's seeds: (classes,) fractions."""
    count = len(results.dataset["classes"])
    return np.mean([r.class_accuracy(count) for r in results.records_of(cell)], axis=0)
