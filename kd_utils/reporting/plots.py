"""DataFrame -> Figure. Reads no file. One style, legible in print and for the colour-blind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..learning.metrics import entropy, log_softmax
from ..study import short
from .shown import in_plot

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

How = ParamSpec("How")

# Okabe and Ito's palette for the colour-blind, with line styles and markers beside it
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
STYLE: "dict[RcKeyType, Any]" = {
    "figure.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "axes.prop_cycle": cycler(color=COLOURS),
}
CLASSES_EITHER_END = 12  # of many classes, the gains of so many of the worst and of the best are drawn
CLASSES_SOFTENED, CLASSES_SMALL = 10, 5  # classes of which probabilities are drawn, and in the small panels
BESIDE_LAST: dict[str, Any] = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


@dataclass(frozen=True)
class Example:
    """An image and what two models say of it. label: its class; teacher, student: logits, (C,) each.

    picture: (H, W, 3) uint8, or None where it may not be shown.
    """

    label: int
    teacher: np.ndarray
    student: np.ndarray
    picture: np.ndarray | None


def _styled(draw: Callable[How, Figure]) -> Callable[How, Figure]:
    """The same function, drawing in STYLE."""

    @wraps(draw)
    def styled(*args: How.args, **kwargs: How.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def _axes(count: int, width: float, height: float, **kwargs) -> tuple[Figure, list[Axes]]:
    """A row of axes, each of that width and height in inches."""
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), squeeze=False, layout="constrained", **kwargs
    )
    return figure, list(axes[0])


def _line(ax: Axes, k: int, x, y, label: str) -> None:
    """The k-th line of an axis, told from the others by colour, marker and dashes."""
    look: dict[str, Any] = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": DASHES[k % 7]}
    ax.plot(x, y, label=label, markersize=3.5, linewidth=1.2, **look)


def _accuracy_curves(ax: Axes, histories: Mapping[str, pd.DataFrame], column: str) -> None:
    """Accuracy in percent against epoch, a line a run; column: that of the histories, fractions."""
    for k, (name, history) in enumerate(histories.items()):
        evaluated = history.dropna(subset=column)
        _line(ax, k, evaluated["epoch"], 100 * evaluated[column], in_plot(name))
    ax.legend(frameon=False)


def _top_classes(logits: np.ndarray, count: int) -> list[int]:
    """The classes of the largest logits, the largest first."""
    return np.argsort(-np.asarray(logits, np.float64), kind="stable")[:count].tolist()


def _probabilities(logits: np.ndarray, T: float) -> np.ndarray:
    """The softmax at temperature T: (C,) -> (C,)."""
    return np.exp(log_softmax(np.asarray(logits)[None], T))[0]


def _entropy(logits: np.ndarray, T: float) -> float:
    """The entropy of the softmax at temperature T of one image's logits, (C,), in nats."""
    return float(entropy(np.asarray(logits)[None], T)[0])


@_styled
def heatmaps(
    grids: Mapping[str, pd.DataFrame],
    *,
    label: str,
    notes: Mapping[str, pd.DataFrame],
    centres: Mapping[str, float] | None = None,
) -> Figure:
    """A heatmap for each student, T down and alpha across.

    grids: student -> DataFrame of the values; notes: student -> DataFrame of what is written into the cells.
    The colours diverge around centres (student -> value), by default around zero.
    """
    import seaborn as sns  # which takes a second, and what a run shows needs no heatmap

    height = 0.75 + 0.4 * max(len(grid) for grid in grids.values())
    figure, axes = _axes(len(grids), 3.5, height)
    for ax, (student, grid) in zip(axes, grids.items(), strict=True):
        centre = centres[student] if centres else 0.0
        reach = max(float(np.nanmax(np.abs(grid.to_numpy() - centre))), 1e-9)
        sns.heatmap(
            grid,
            ax=ax,
            annot=notes[student],
            fmt="",
            cmap="PuOr_r",
            center=centre,
            vmin=centre - reach,
            vmax=centre + reach,
            linewidths=0.6,
            annot_kws={"fontsize": 7},
            cbar_kws={"label": label},
        )
        ax.set(title=in_plot(student), xlabel="alpha (weight of the cross-entropy)", ylabel="temperature T")
        ax.set_xticklabels([short(alpha) for alpha in grid.columns])
        ax.set_yticklabels([short(T) for T in grid.index], rotation=0)
    return figure


@_styled
def against_temperature(lines: Mapping[str, pd.DataFrame]) -> Figure:
    """Gain against T, a line with its band for each alpha; 0 is the baseline.

    lines: student -> DataFrame with T, alpha, gain, gain_low, gain_high, in points.
    """
    figure, axes = _axes(len(lines), 3.5, 2.8)
    for ax, (student, cells) in zip(axes, lines.items(), strict=True):
        for k, (alpha, line) in enumerate(cells.groupby("alpha")):
            line = line.sort_values("T")
            _line(ax, k, line["T"], line["gain"], f"alpha = {short(alpha)}")
            ax.fill_between(
                line["T"], line["gain_low"], line["gain_high"], color=COLOURS[k % 7], alpha=0.12, linewidth=0
            )
        ax.axhline(0, color="black", linewidth=1, label="baseline")
        ticks = sorted(cells["T"].unique())
        ax.set(title=in_plot(student), xlabel="temperature T", ylabel="gain, points", xscale="log")
        ax.set_xticks(ticks, [short(T) for T in ticks])
        ax.minorticks_off()
    axes[-1].legend(**BESIDE_LAST)
    return figure


@_styled
def agreement(cells: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy against agreement with the teacher, a point a cell; colour and marker say alpha, size says T.

    cells: student -> DataFrame with T (NaN: the baseline), alpha, agreement and value, in percent.
    """
    figure, axes = _axes(len(cells), 3.5, 2.8)
    for ax, (student, scattered) in zip(axes, cells.items(), strict=True):
        for k, (alpha, distilled) in enumerate(scattered.dropna(subset="T").groupby("alpha")):
            ax.scatter(
                distilled["agreement"],
                distilled["value"],
                s=12 + 22 * np.log10(distilled["T"].clip(lower=1)),
                color=COLOURS[k % 7],
                marker=MARKERS[k % 7],
                alpha=0.85,
                linewidths=0,
                label=f"alpha = {short(alpha)}",
            )
        baseline = scattered[scattered["T"].isna()]
        ax.scatter(baseline["agreement"], baseline["value"], s=70, color="black", marker="*", label="baseline")
        ax.set(title=in_plot(student), xlabel="agreement with the teacher, %", ylabel="top-1, %")
    axes[-1].legend(**BESIDE_LAST)
    return figure


@_styled
def reliability(diagrams: Mapping[str, Mapping[str, np.ndarray]], least: int) -> Figure:
    """Accuracy against confidence: student -> name of the run -> metrics.reliability's (bins, 3).

    Bins of fewer than `least` images are left out.
    """
    figure, axes = _axes(len(diagrams), 3.5, 3.4)
    for ax, (student, runs) in zip(axes, diagrams.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        for k, (name, diagram) in enumerate(runs.items()):
            count, confidence, accuracy = diagram.T
            drawn = count >= least
            _line(ax, k, confidence[drawn], accuracy[drawn], name)
        ax.set(title=in_plot(student), xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


@_styled
def per_class(gains: Mapping[str, pd.DataFrame]) -> Figure:
    """Gains of each class, sorted by those of the first column; of many classes those at either end.

    gains: student -> DataFrame, a row a class, a column a run, in points.
    """
    most = 2 * CLASSES_EITHER_END
    rows = min(most, max(len(table) for table in gains.values()))
    figure, axes = _axes(len(gains), 3.7, 1.3 + 0.17 * rows)
    for ax, (student, table) in zip(axes, gains.items(), strict=True):
        ranked = table.sort_values(table.columns[0], kind="stable")
        if len(ranked) > most:
            ranked = pd.concat([ranked.head(CLASSES_EITHER_END), ranked.tail(CLASSES_EITHER_END)])
        for k, column in enumerate(ranked.columns):
            ax.scatter(ranked[column], range(len(ranked)), s=16, color=COLOURS[k], marker=MARKERS[k], label=column)
        ax.axvline(0, color="grey", linewidth=0.8)
        ax.set_yticks(range(len(ranked)), [in_plot(str(name), 22) for name in ranked.index], fontsize=7)
        ax.set(title=in_plot(student), xlabel="gain over the baseline, points")
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.5 / (0.17 * rows + 0.4)))
    return figure


@_styled
def softened_beside(examples: Sequence[Example], temperatures: Sequence[float], classes: Sequence[str]) -> Figure:
    """What the temperature does to teacher and student: a row an image, a column a temperature.

    Shown are the classes of the teacher's largest logits; an image without a picture is named by its class.
    """
    figure, axes = plt.subplots(
        len(examples),
        1 + len(temperatures),
        figsize=(1.5 + 1.9 * len(temperatures), 1.45 * len(examples)),
        width_ratios=[0.75] + [1.0] * len(temperatures),
        squeeze=False,
        layout="constrained",
    )
    for row, example in zip(axes, examples, strict=True):
        _pictured(row[0], example.picture, classes[example.label])
        top = _top_classes(example.teacher, CLASSES_SMALL)
        places = np.arange(len(top))
        for column, (ax, T) in enumerate(zip(row[1:], temperatures, strict=True)):
            for k, (who, logits) in enumerate((("teacher", example.teacher), ("student", example.student))):
                shares = _probabilities(logits, T)[top]
                ax.barh(places + (k - 0.5) * 0.38, shares, height=0.38, color=COLOURS[k], label=who)
            ax.invert_yaxis()
            ax.set_yticks(places, [in_plot(classes[c], 14) for c in top] if column == 0 else [], fontsize=7)
            ax.tick_params(axis="x", labelsize=7)
    for ax, T in zip(axes[0][1:], temperatures, strict=True):
        ax.set_title(f"T = {short(T)}")
    figure.legend(*axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _pictured(ax: Axes, picture: np.ndarray | None, name: str) -> None:
    """An image under the name of its class, or the name alone."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if picture is None:
        ax.text(0.5, 0.5, in_plot(name), ha="center", va="center", fontsize=8, wrap=True)
    else:
        ax.imshow(picture)
        ax.set_title(in_plot(name, 18), fontsize=8)


@_styled
def learning_curves(histories: Mapping[str, Mapping[str, pd.DataFrame]], column: str) -> Figure:
    """Accuracy against epoch: student -> name of the run -> history. column: that of the histories, fractions."""
    figure, axes = _axes(len(histories), 3.4, 2.6)
    for ax, (student, runs) in zip(axes, histories.items(), strict=True):
        ax.set(title=in_plot(student), xlabel="epoch", ylabel="top-1, %")
        _accuracy_curves(ax, runs, column)
    return figure


@_styled
def learning_curve(history: pd.DataFrame) -> Figure:
    """One run: its training loss and its accuracy against epoch; of a model that was not trained, empty."""
    figure, (left, right) = _axes(2, 3.2, 2.4)
    if history.empty:
        left.set(title="not trained: judged as it is")
        return figure
    left.plot(history["epoch"], history["loss"], marker="o", markersize=3)
    left.set(xlabel="epoch", ylabel="training loss, nats")
    accuracies = [column for column in history.columns if column.endswith("_top1")]
    for k, column in enumerate(accuracies):
        evaluated = history.dropna(subset=column)
        right.plot(
            evaluated["epoch"],
            100 * evaluated[column],
            marker="o",
            markersize=3,
            color=COLOURS[k],
            label=column.removesuffix("_top1"),
        )
    right.set(xlabel="epoch", ylabel="top-1, %")
    right.legend(frameon=False)
    return figure


@_styled
def images(batches: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images: name of the row -> (N, H, W, 3) uint8, all of one height and width."""
    high, wide = next(iter(batches.values())).shape[1:3]
    rows, columns, gap = len(batches), max(len(batch) for batch in batches.values()), 1 + high // 16
    # one picture of them all: axes of their own would take most of the time that a run's notebook draws
    sheet = np.full((rows * (high + gap) - gap, columns * (wide + gap) - gap, 3), 255, np.uint8)
    for row, batch in enumerate(batches.values()):
        for column, image in enumerate(batch):
            top, left = row * (high + gap), column * (wide + gap)
            sheet[top : top + high, left : left + wide] = image
    figure, (ax,) = _axes(1, 0.95 * columns + 0.8, 1.0 * rows)
    ax.imshow(sheet, interpolation="none")
    ax.set_xticks([])
    ax.set_yticks(np.arange(rows) * (high + gap) + high / 2, [in_plot(name) for name in batches])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


@_styled
def softened(logits: np.ndarray, temperatures: Sequence[float], classes: Sequence[str]) -> Figure:
    """One image's probabilities at several temperatures, for the classes of the largest logits. logits: (C,)."""
    top = _top_classes(logits, CLASSES_SOFTENED)
    figure, axes = _axes(len(temperatures), 2.3, 2.4, sharey=True)
    for ax, T in zip(axes, temperatures, strict=True):
        ax.bar(range(len(top)), _probabilities(logits, T)[top], color=COLOURS[0])
        ax.set_xticks(range(len(top)), [in_plot(classes[c], 12) for c in top], rotation=90)
        ax.set_title(f"T = {T:g}, entropy {_entropy(logits, T):.2f} nats")
    axes[0].set_ylabel("probability")
    return figure


@_styled
def softened_at(
    picture: np.ndarray, label: int, says: Mapping[str, np.ndarray], T: float, classes: Sequence[str]
) -> Figure:
    """One image, and what several models say of it at one temperature.

    picture: (H, W, 3) uint8; label: its class; says: name -> logits, (C,). Shown are the classes of the largest
    logits of the first model. The axis is the same at every T, so that softening shows.
    """
    top = _top_classes(next(iter(says.values())), CLASSES_SOFTENED)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), width_ratios=[1, 2.2], layout="constrained", squeeze=False)
    left, right = axes[0]
    left.imshow(picture)
    left.set(xticks=[], yticks=[], title=in_plot(classes[label], 30))
    left.spines[:].set_visible(False)
    height = 0.8 / len(says)
    for k, (name, logits) in enumerate(says.items()):
        places = np.arange(len(top)) + (k - (len(says) - 1) / 2) * height
        right.barh(places, _probabilities(logits, T)[top], height=height, color=COLOURS[k], label=name)
    right.set_yticks(range(len(top)), [("→ " if c == label else "") + in_plot(classes[c], 22) for c in top])
    right.invert_yaxis()
    right.set(xlabel=f"probability at T = {T:g}", xlim=(0, 1))
    right.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(says), borderaxespad=0)
    return figure


@_styled
def cell(histories: Mapping[str, pd.DataFrame], column: str, worst: Mapping[str, float]) -> Figure:
    """One cell: its accuracy against epoch beside others, and its worst classes.

    histories: name -> history; column: that of the histories; worst: class -> accuracy. Fractions.
    """
    figure, (left, right) = _axes(2, 3.8, 2.8)
    left.set(xlabel="epoch", ylabel="top-1, %")
    _accuracy_curves(left, histories, column)
    right.barh(range(len(worst)), [100 * accuracy for accuracy in worst.values()], color=COLOURS[0])
    right.set_yticks(range(len(worst)), [in_plot(name, 22) for name in worst])
    right.invert_yaxis()
    right.set(xlabel="accuracy, %", title="its worst classes", xlim=(0, 100))
    return figure
