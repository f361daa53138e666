"""DataFrame -> Figure. Reads no data. One style, legible in print and for the colour-blind."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from numpy.typing import ArrayLike

from ..learning.metrics import entropy, log_softmax
from ..text import short
from .shown import in_plot, symbols, visible

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

How = ParamSpec("How")
Drawn = TypeVar("Drawn")

# Okabe and Ito's palette for the colour-blind, with line styles and markers beside it
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
for _font in ("Regular", "Italic"):
    fontManager.addfont(str(package_files("kd_utils.reporting").joinpath("fonts", f"LibertinusSerif-{_font}.ttf")))
_math: "dict[RcKeyType, Any]" = {"mathtext.rm": "Libertinus Serif", "mathtext.it": "Libertinus Serif:italic"}
plt.rcParams.update({**_math, "mathtext.cal": _math["mathtext.it"]})  # of fontset custom alone; asked for when saving
PANEL = 3.2  # inches: the width of a panel, two of which stand side by side in the PDF
CURVES = 2.4  # and the height of one with curves or points
SMALL = 8.5
TEMPERATURE, ALPHA = "temperature $T$", r"weight of the cross-entropy $\alpha$"
Panels = dict[str, Figure]  # a student's name, say -> what is drawn of it
STYLE: "dict[RcKeyType, Any]" = {
    "figure.dpi": 110,
    "font.family": ["Libertinus Serif", "DejaVu Sans"],  # the paper's font; the other has signs that it lacks
    "mathtext.fontset": "custom",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "axes.prop_cycle": cycler(color=COLOURS),
}
CLASSES_EITHER_END = 12  # of many classes, the gains of so many of the worst and of the best are drawn
CLASSES_SOFTENED, CLASSES_SMALL = 10, 5  # classes of which probabilities are drawn, and in the small panels


@dataclass(frozen=True)
class Example:
    """An image and what two models say of it. label: its class; teacher, student: logits, (C,) each.

    picture: (H, W, 3) uint8, or None where it may not be shown.
    """

    label: int
    teacher: np.ndarray
    student: np.ndarray
    picture: np.ndarray | None


def _styled(draw: Callable[How, Drawn]) -> Callable[How, Drawn]:
    """The same function, drawing in STYLE."""

    @wraps(draw)
    def styled(*args: How.args, **kwargs: How.kwargs) -> Drawn:
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def _axes(count: int, width: float, height: float, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A row of axes, each of that width and height in inches."""
    figure, axes = plt.subplots(
        1, count, figsize=(width * count, height), squeeze=False, layout="constrained", **kwargs
    )
    return figure, list(axes[0])


def _panel(height: float) -> tuple[Figure, Axes]:
    """A figure of one axis, of that height in inches."""
    figure, (ax,) = _axes(1, PANEL, height)
    return figure, ax


def _legend(figure: Figure, columns: int) -> None:
    """The legend of a panel, below it."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1, handletextpad=0.5)


def _run(name: str) -> str:
    """The name of a run in a legend, with the symbols of the equations."""
    return symbols(in_plot(name))


def _alpha(alpha: object) -> str:
    return rf"$\alpha$ = {short(alpha)}"


def _class(name: str, width: int = 26) -> str:
    """The name of a class, whole, in lines of so many characters at most; what none could draw ends in dots."""
    return "\n".join(map(in_plot, textwrap.wrap(visible(name), width, max_lines=3, placeholder=" …")))


def _line(ax: Axes, k: int, x: ArrayLike, y: ArrayLike, label: str) -> None:
    """The k-th line of an axis, told from the others by colour, marker and dashes."""
    look: dict[str, Any] = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": DASHES[k % 7]}
    ax.plot(x, y, label=label, markersize=3.5, linewidth=1.2, **look)


def _accuracy_curves(ax: Axes, histories: Mapping[str, pd.DataFrame], column: str) -> None:
    """Accuracy in percent against epoch, a line a run; column: that of the histories, fractions."""
    for k, (name, history) in enumerate(histories.items()):
        evaluated = history.dropna(subset=column)
        _line(ax, k, evaluated["epoch"], 100 * evaluated[column], _run(name))


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
    notes: Mapping[str, pd.DataFrame],
    centres: Mapping[str, float] | None = None,
) -> Panels:
    """A heatmap for each student, T down and alpha across.

    grids: student -> DataFrame of the values; notes: student -> DataFrame of what is written into the cells.
    The colours diverge around centres (student -> value), by default around zero; cells without a value are grey.
    """
    import seaborn as sns  # which takes a second, and what a run shows needs no heatmap

    rows = max(len(grid) for grid in grids.values())
    panels = {}
    for student, grid in grids.items():
        centre = centres[student] if centres else 0.0
        reach = max(float(np.nanmax(np.abs(grid.to_numpy(float) - centre))), 1e-9)
        figure, ax = _panel(0.75 + 0.32 * rows)
        sns.heatmap(
            grid.astype(float),
            ax=ax,
            annot=notes[student],
            fmt="",
            cmap="PuOr_r",
            vmin=centre - reach,
            vmax=centre + reach,
            linewidths=0.6,
            annot_kws={"fontsize": 7.5},
            cbar=False,
        )
        colours = np.asarray(ax.collections[0].get_facecolor())
        for note in ax.texts:  # seaborn's choice of black or white has less contrast
            column, row = (int(at) for at in note.get_position())
            note.set_color(_ink(colours[row * len(grid.columns) + column]))
        ax.set_facecolor("0.85")
        ax.tick_params(length=0)
        ax.set(title=in_plot(student), xlabel=ALPHA, ylabel=TEMPERATURE)
        ax.set_xticklabels([short(alpha) for alpha in grid.columns])
        ax.set_yticklabels([short(T) for T in grid.index], rotation=0)
        panels[student] = figure
    return panels


def _ink(colour: np.ndarray) -> str:
    """Black or white, whichever is the easier to read on a colour, (4,): WCAG's contrast, never below 4.5 : 1."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = float(linear[:3] @ (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


@_styled
def against_temperature(lines: Mapping[str, pd.DataFrame]) -> Panels:
    """Gain against T, a line with its band for each alpha; 0 is the baseline.

    lines: student -> DataFrame with T, alpha, gain, gain_low, gain_high, in points.
    """
    panels = {}
    for student, cells in lines.items():
        figure, ax = _panel(CURVES)
        for k, (alpha, line) in enumerate(cells.groupby("alpha")):
            line = line.sort_values("T")
            _line(ax, k, line["T"], line["gain"], _alpha(alpha))
            ax.fill_between(
                line["T"], line["gain_low"], line["gain_high"], color=COLOURS[k % 7], alpha=0.12, linewidth=0
            )
        ax.axhline(0, color="black", linewidth=1, label="baseline")
        ticks = sorted(cells["T"].unique())
        ax.set(title=in_plot(student), xlabel=TEMPERATURE, ylabel="gain, points", xscale="log")
        ax.set_xticks(ticks, [short(T) for T in ticks])
        ax.minorticks_off()
        _legend(figure, 3)
        panels[student] = figure
    return panels


@_styled
def agreement(cells: Mapping[str, pd.DataFrame]) -> Panels:
    """Accuracy against agreement with the teacher, a point a cell; colour and marker say alpha, size says T.

    cells: student -> DataFrame with T (NaN: the baseline), alpha, agreement and value, in percent.
    """
    panels = {}
    for student, scattered in cells.items():
        figure, ax = _panel(CURVES)
        for k, (alpha, distilled) in enumerate(scattered.dropna(subset="T").groupby("alpha")):
            ax.scatter(
                distilled["agreement"],
                distilled["value"],
                s=12 + 22 * np.log10(distilled["T"].clip(lower=1)),
                color=COLOURS[k % 7],
                marker=MARKERS[k % 7],
                alpha=0.85,
                linewidths=0,
                label=_alpha(alpha),
            )
        baseline = scattered[scattered["T"].isna()]
        ax.scatter(baseline["agreement"], baseline["value"], s=70, color="black", marker="*", label="baseline")
        ax.set(title=in_plot(student), xlabel="agreement with the teacher, %", ylabel="top-1, %")
        _legend(figure, 3)
        panels[student] = figure
    return panels


@_styled
def reliability(diagrams: Mapping[str, Mapping[str, np.ndarray]], least: int) -> Panels:
    """Accuracy against confidence: student -> name of the run -> metrics.reliability's (bins, 3).

    Bins of fewer than `least` images are left out.
    """
    panels = {}
    for student, runs in diagrams.items():
        figure, ax = _panel(CURVES)
        ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        for k, (name, diagram) in enumerate(runs.items()):
            count, confidence, accuracy = diagram.T
            drawn = count >= least
            _line(ax, k, confidence[drawn], accuracy[drawn], _run(name))
        ax.set(title=in_plot(student), xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        _legend(figure, 1)
        panels[student] = figure
    return panels


@_styled
def per_class(gains: Mapping[str, pd.DataFrame]) -> Panels:
    """Gains of each class, sorted by those of the first column; of many classes those at either end.

    gains: student -> DataFrame, a row a class, a column a run, in points.
    """
    most, panels = 2 * CLASSES_EITHER_END, {}
    for student, table in gains.items():
        ranked = table.sort_values(table.columns[0], kind="stable")
        if len(ranked) > most:
            ranked = pd.concat([ranked.head(CLASSES_EITHER_END), ranked.tail(CLASSES_EITHER_END)])
        figure, ax = _panel(0.9 + 0.145 * len(ranked))
        for k, column in enumerate(ranked.columns):
            ax.scatter(
                ranked[column], range(len(ranked)), s=16, color=COLOURS[k], marker=MARKERS[k], label=_run(column)
            )
        ax.axvline(0, color="grey", linewidth=0.8)
        ax.set_yticks(range(len(ranked)), [_class(str(name)) for name in ranked.index])
        ax.set(title=in_plot(student), xlabel="gain over the baseline, points")
        ax.grid(axis="y", linewidth=0.3)
        _legend(figure, 1)
        panels[student] = figure
    return panels


@_styled
def softened_beside(examples: Sequence[Example], temperatures: Sequence[float], classes: Sequence[str]) -> Panels:
    """What the temperature does to teacher and student: a panel an image, a column a temperature, one axis for all.

    Shown are the classes of the teacher's largest logits and that of the image, by which its panel is called.
    """
    panels, widths = {}, []
    for number, example in enumerate(examples, 1):
        pictured = example.picture is not None
        figure, axes = plt.subplots(
            1,
            len(temperatures) + pictured,
            figsize=(PANEL, 1.9),
            width_ratios=[1.0] * (len(temperatures) + pictured),
            squeeze=False,
            layout="constrained",
        )
        *picture, first = axes[0][: 1 + pictured]
        for ax in picture:
            ax.imshow(example.picture)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        top = _top_classes(example.teacher, CLASSES_SMALL)
        if example.label not in top:
            top[-1] = example.label
        places = np.arange(len(top))
        for ax, T in zip(axes[0][pictured:], temperatures, strict=True):
            for k, (who, logits) in enumerate((("teacher", example.teacher), ("student", example.student))):
                shares = _probabilities(logits, T)[top]
                ax.barh(places + (k - 0.5) * 0.38, shares, height=0.38, color=COLOURS[k], label=who)
            ax.invert_yaxis()
            ax.set_yticks(places, [_class(classes[c]) for c in top] if ax is first else [])
            ax.set(xlim=(0, 1), title=f"$T$ = {short(T)}")
            ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        figure.suptitle(f"image {number}: {_class(classes[example.label], 44)}", fontsize=SMALL)
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        panels[f"image {number}, {classes[example.label]}"] = figure
        figure.draw_without_rendering()
        widths.append(max(name.get_window_extent().width for name in first.get_yticklabels()) / figure.bbox.width)
    for figure, width in zip(panels.values(), widths, strict=True):  # the axes of all panels are as wide
        left = max(widths) - width
        figure.set_layout_engine("constrained", rect=(left, 0, 1 - left, 1))
    return panels


@_styled
def learning_curves(histories: Mapping[str, Mapping[str, pd.DataFrame]], column: str) -> Panels:
    """Accuracy against epoch: student -> name of the run -> history. column: that of the histories, fractions."""
    panels = {}
    for student, runs in histories.items():
        figure, ax = _panel(CURVES)
        ax.set(title=in_plot(student), xlabel="epoch", ylabel="top-1, %")
        _accuracy_curves(ax, runs, column)
        _legend(figure, 2)
        panels[student] = figure
    return panels


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
    right.legend()
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
        ax.set_xticks(range(len(top)), [_class(classes[c], 18) for c in top], rotation=90)
        ax.set_title(f"$T$ = {T:g}, entropy {_entropy(logits, T):.2f} nats")
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
    left.set(xticks=[], yticks=[], title=_class(classes[label]))
    left.spines[:].set_visible(False)
    height = 0.8 / len(says)
    for k, (name, logits) in enumerate(says.items()):
        places = np.arange(len(top)) + (k - (len(says) - 1) / 2) * height
        right.barh(places, _probabilities(logits, T)[top], height=height, color=COLOURS[k], label=name)
    right.set_yticks(range(len(top)), [("→ " if c == label else "") + _class(classes[c]) for c in top])
    right.invert_yaxis()
    right.set(xlabel=f"probability at $T$ = {T:g}", xlim=(0, 1))
    right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(says), borderaxespad=0)
    return figure


@_styled
def cell(histories: Mapping[str, pd.DataFrame], column: str, worst: Mapping[str, float]) -> Figure:
    """One cell: its accuracy against epoch beside others, and its worst classes.

    histories: name -> history; column: that of the histories; worst: class -> accuracy. Fractions.
    """
    figure, (left, right) = _axes(2, 3.8, 2.8)
    left.set(xlabel="epoch", ylabel="top-1, %")
    _accuracy_curves(left, histories, column)
    left.legend()
    right.barh(range(len(worst)), [100 * accuracy for accuracy in worst.values()], color=COLOURS[0])
    right.set_yticks(range(len(worst)), [_class(name) for name in worst])
    right.invert_yaxis()
    right.set(xlabel="accuracy, %", title="its worst classes", xlim=(0, 100))
    return figure
