"""Results -> the figures of the report, each answering one question, with its caption. Loads no torch."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from . import metrics, plots, records
from .display import Figure
from .results import LEAST_P, STANDARD, Results
from .tables import point

SOFT_TEMPERATURES = [1.0, 4.0, 20.0]
IMAGES_SHOWN = 3
LEAST_IN_BIN = 10  # a bin's accuracy from fewer images is noise


def accuracy(results: Results) -> Figure:
    """Which temperature and weight give the most accurate student?"""
    grids = {s: 100 * results.pivot(s, "top1_best") for s in results.labels}
    notes = {s: _notes(results, s, "{:.1f}", ("low", "high"), "tied", "=") for s in results.labels}
    centres = {s: float(g[1.0].iloc[0]) if 1.0 in g else float(np.nanmean(g)) for s, g in grids.items()}
    caption = (
        f"Top-1 accuracy on val in percent, ± half its 95 % interval, {_seeds(results)}. White is the baseline, "
        f"the column alpha = 1; = marks cells that cannot be told from the best (corrected p of at least {LEAST_P:g})."
    )
    return Figure(plots.heatmaps(grids, label="top-1, %", notes=notes, centres=centres), caption, "accuracy")


def gain(results: Results) -> Figure | None:
    """Where does distillation help, where does it harm? None before there is a baseline."""
    labels = [s for s in results.labels if "baseline" in results.roles(s)]
    if not labels:
        return None
    grids = {s: 100 * results.pivot(s, "gain") for s in labels}
    notes = {s: _notes(results, s, "{:+.1f}", ("gain_low", "gain_high"), "p_holm", "*") for s in labels}
    caption = (
        f"Gain over the baseline in percentage points, ± half its 95 % interval, {_seeds(results)}. * marks gains and "
        f"losses with a corrected p under {LEAST_P:g}."
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
            found.append(f"{spearmanr(own['agreement'], own['top1_best']).statistic:+.2f} for {student}")
    rho = f" Spearman's rank correlation is {', '.join(found)}." if found else ""
    caption = f"Accuracy against agreement with the teacher, a point a cell; larger points are higher T.{rho}"
    return Figure(plots.agreement(cells), caption.replace("-", "−") if "-0." in caption else caption, "agreement")


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
    notes = {s: g.map(lambda x: "" if pd.isna(x) else f"{x:.0f}") for s, g in grids.items()}
    if not grids:
        return None
    caption = (
        "Effective mix: the teacher's share of the gradient in percent, that is (1 − alpha) g(T² KL) over itself plus "
        "alpha g(CE), where g is the norm of a part's gradient with respect to an image's logits, averaged over images "
        "and epochs. Equal alpha is not equal mix; white is half and half."
    )
    drawn = plots.heatmaps(grids, label="teacher's share, %", notes=notes, centres=dict.fromkeys(grids, 50.0))
    return Figure(drawn, caption, "mix")


def _notes(results: Results, student: str, form: str, ends: tuple[str, str], mark: str, sign: str) -> pd.DataFrame:
    """What is written into a heatmap's cells: value, ± half the interval, a mark."""
    value = 100 * results.pivot(student, "top1_best" if mark == "tied" else "gain")
    low, high = (100 * results.pivot(student, end) for end in ends)
    marked = results.pivot(student, mark)
    seeds = results.pivot(student, "n")
    mixed = results.of(student)["n"].nunique() > 1
    written = value.copy().astype(object)
    for T in value.index:
        for alpha in value.columns:
            if pd.isna(value.loc[T, alpha]):
                written.loc[T, alpha] = ""
                continue
            flag = marked.loc[T, alpha]
            is_marked = flag is True or flag == 1 if mark == "tied" else not pd.isna(flag) and flag < LEAST_P
            text = form.format(value.loc[T, alpha]).replace("-", "−") + (sign if is_marked else "")
            if not (mark != "tied" and alpha == 1):
                text += f"\n±{(high.loc[T, alpha] - low.loc[T, alpha]) / 2:.1f}"
            written.loc[T, alpha] = text + (f" ({seeds.loc[T, alpha]:.0f})" if mixed else "")
    return written


def _seeds(results: Results) -> str:
    counts = sorted(results.cells.loc[results.cells["method"] == "kd", "n"].unique())
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} seeds a cell (in brackets)"
    return f"{counts[0]} seeds a cell" if counts[0] > 1 else "one seed a cell"


def _named(role: str, cell: pd.Series) -> str:
    """baseline; standard; best: T = 20, alpha = 0.1"""
    if role == "baseline":
        return role
    own = f"T={cell['T']:g}, alpha={cell['alpha']:g}"
    return (
        f"{role}: {own}"
        if (cell["T"], cell["alpha"]) != STANDARD or role == "standard"
        else f"{role} (standard): {own}"
    )


def _class_accuracy(results: Results, cell: pd.Series) -> np.ndarray:
    """Accuracy on val of each class, the mean over the cell's seeds: (classes,) fractions."""
    count = len(results.dataset["classes"])
    return np.mean([r.class_accuracy(count) for r in results.records_of(cell)], axis=0)
