"""DataFrame -> Figure. Reads no file. One style, legible in print and for the colour-blind."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..learning.metrics import entropy, log_softmax

# Okabe and Ito's palette for the colour-blind, with line styles and markers beside it
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
STYLE = {
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
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}


def _axes(count: int, width: float = 3.4, height: float = 2.8, **kwargs) -> tuple[Figure, list]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, count, figsize=(width * count, height), squeeze=False, layout="constrained", **kwargs
        )
    return figure, list(axes[0])


def _line(ax, k: int, x, y, label: str) -> None:
    """The k-th line of an axis, told from the others by colour, marker and dashes."""
    look = {"color": COLOURS[k % 7], "marker": MARKERS[k % 7], "linestyle": DASHES[k % 7]}
    ax.plot(x, y, label=label, markersize=3.5, linewidth=1.2, **look)


def heatmaps(
    grids: dict[str, pd.DataFrame],
    *,
    label: str,
    notes: dict[str, pd.DataFrame],
    centres: dict[str, float] | None = None,
) -> Figure:
    """A heatmap for each student, T down and alpha across.

    grids: student -> DataFrame of the values; notes: student -> DataFrame of what is written into the cells.
    The colours diverge around centres (student -> value), by default around zero.
    """
    with plt.rc_context(STYLE):
        height = 0.75 + 0.4 * max(len(g) for g in grids.values())
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
            ax.set(title=student, xlabel="alpha (weight of the cross-entropy)", ylabel="temperature T")
            ax.set_xticklabels([f"{c:g}" for c in grid.columns])
            ax.set_yticklabels([f"{t:g}" for t in grid.index], rotation=0)
    return figure


def against_temperature(lines: dict[str, pd.DataFrame], baselines: dict[str, tuple[float, float, float]]) -> Figure:
    """Accuracy against T, a line with its band for each alpha, beside the baseline.

    lines: student -> DataFrame with T, alpha, value, low, high, in percent; baselines: student -> value, low, high.
    """
    with plt.rc_context(STYLE):
        figure, axes = _axes(len(lines), 3.5, 2.8)
        for ax, (student, cells) in zip(axes, lines.items(), strict=True):
            for k, (alpha, line) in enumerate(cells.groupby("alpha")):
                line = line.sort_values("T")
                _line(ax, k, line["T"], line["value"], f"alpha = {alpha:g}")
                ax.fill_between(line["T"], line["low"], line["high"], color=COLOURS[k % 7], alpha=0.12, linewidth=0)
            if student in baselines:
                value, low, high = baselines[student]
                ax.axhline(value, color="black", linewidth=1, label="baseline")
                ax.axhspan(low, high, color="black", alpha=0.08, linewidth=0)
            ticks = sorted(cells["T"].unique())
            ax.set(title=student, xlabel="temperature T", ylabel="top-1, %", xscale="log")
            ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
            ax.minorticks_off()
        axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def agreement(cells: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy against agreement with the teacher, a point a cell; colour and marker say alpha, size says T.

    cells: student -> DataFrame with T (NaN: the baseline), alpha, agreement and value, in percent.
    """
    with plt.rc_context(STYLE):
        figure, axes = _axes(len(cells), 3.5, 2.8)
        for ax, (student, own) in zip(axes, cells.items(), strict=True):
            for k, (alpha, points) in enumerate(own.dropna(subset="T").groupby("alpha")):
                ax.scatter(
                    points["agreement"],
                    points["value"],
                    s=12 + 22 * np.log10(points["T"].clip(lower=1)),
                    color=COLOURS[k % 7],
                    marker=MARKERS[k % 7],
                    alpha=0.85,
                    linewidths=0,
                    label=f"alpha = {alpha:g}",
                )
            base = own[own["T"].isna()]
            ax.scatter(base["agreement"], base["value"], s=70, color="black", marker="*", label="baseline")
            ax.set(title=student, xlabel="agreement with the teacher, %", ylabel="top-1, %")
        axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def reliability(diagrams: dict[str, dict[str, np.ndarray]], least: int) -> Figure:
    """Accuracy against confidence: student -> name of the run -> metrics.reliability's (bins, 3).

    Bins of fewer than `least` images are left out.
    """
    with plt.rc_context(STYLE):
        figure, axes = _axes(len(diagrams), 3.5, 3.4)
        for ax, (student, runs) in zip(axes, diagrams.items(), strict=True):
            ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
            for k, (name, (count, confidence, accuracy)) in enumerate((n, d.T) for n, d in runs.items()):
                shown = count >= least
                _line(ax, k, confidence[shown], accuracy[shown], name)
            ax.set(title=student, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
            ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def per_class(gains: dict[str, pd.DataFrame], most: int = 12) -> Figure:
    """Gains of each class, sorted by those of the first column; with many classes the `most` at either end.

    gains: student -> DataFrame, a row a class, a column a run, in points.
    """
    with plt.rc_context(STYLE):
        rows = min(2 * most, max(len(g) for g in gains.values()))
        figure, axes = _axes(len(gains), 3.7, 1.3 + 0.17 * rows)
        for ax, (student, table) in zip(axes, gains.items(), strict=True):
            ranked = table.sort_values(table.columns[0], kind="stable")
            if len(ranked) > 2 * most:
                ranked = pd.concat([ranked.head(most), ranked.tail(most)])
            for k, column in enumerate(ranked.columns):
                ax.scatter(ranked[column], range(len(ranked)), s=16, color=COLOURS[k], marker=MARKERS[k], label=column)
            ax.axvline(0, color="grey", linewidth=0.8)
            ax.set_yticks(range(len(ranked)), [str(name)[:22] for name in ranked.index], fontsize=7)
            ax.set(title=student, xlabel="gain over the baseline, points")
            ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.5 / (0.17 * rows + 0.4)))
    return figure


def softened_beside(
    examples: list[dict], temperatures: list[float], classes: list[str], pictures: np.ndarray | None, most: int = 5
) -> Figure:
    """What the temperature does to teacher and student: a row an image, a column a temperature.

    examples: label (index of the class), teacher and student logits, (C,) each. pictures: (rows, H, W, 3) uint8, or
    None to name the classes only. Shown are the classes of the teacher's largest logits.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(examples),
            1 + len(temperatures),
            figsize=(1.5 + 1.9 * len(temperatures), 1.45 * len(examples)),
            width_ratios=[0.75] + [1.0] * len(temperatures),
            squeeze=False,
            layout="constrained",
        )
        for r, (row, example) in enumerate(zip(axes, examples, strict=True)):
            name = classes[example["label"]]
            row[0].set(xticks=[], yticks=[])
            row[0].spines[:].set_visible(False)
            if pictures is None:
                row[0].text(0.5, 0.5, name, ha="center", va="center", fontsize=8, wrap=True)
            else:
                row[0].imshow(pictures[r])
                row[0].set_title(name[:18], fontsize=8)
            top = np.argsort(-np.asarray(example["teacher"], np.float64), kind="stable")[:most]
            for c, T in enumerate(temperatures, 1):
                ax, places = row[c], np.arange(len(top))
                for k, who in enumerate(("teacher", "student")):
                    p = np.exp(log_softmax(np.asarray(example[who])[None], T))[0]
                    ax.barh(places + (k - 0.5) * 0.38, p[top], height=0.38, color=COLOURS[k], label=who)
                ax.invert_yaxis()
                ax.set_yticks(places, [classes[k][:14] for k in top] if c == 1 else [], fontsize=7)
                ax.tick_params(axis="x", labelsize=7)
                if r == 0:
                    ax.set_title(f"T = {T:g}")
        figure.legend(*axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def learning_curves(histories: dict[str, dict[str, pd.DataFrame]], figure: str) -> Figure:
    """Accuracy against epoch: student -> name of the run -> history. figure: the history's column, a fraction."""
    with plt.rc_context(STYLE):
        drawn, axes = _axes(len(histories), 3.4, 2.6)
        for ax, (student, runs) in zip(axes, histories.items(), strict=True):
            for k, (name, history) in enumerate(runs.items()):
                points = history.dropna(subset=figure)
                _line(ax, k, points["epoch"], 100 * points[figure], name)
            ax.set(title=student, xlabel="epoch", ylabel="top-1, %")
            ax.legend(frameon=False)
    return drawn


def learning_curve(history: pd.DataFrame) -> Figure:
    """One run: its training loss and its accuracy against epoch."""
    with plt.rc_context(STYLE):
        figure, (left, right) = _axes(2, 3.2, 2.4)
        left.plot(history["epoch"], history["loss"], marker="o", markersize=3)
        left.set(xlabel="epoch", ylabel="training loss, nats")
        for k, column in enumerate(c for c in history.columns if c.endswith("top1")):
            found = history.dropna(subset=column)
            right.plot(
                found["epoch"], 100 * found[column], marker="o", markersize=3, color=COLOURS[k], label=column[:-5]
            )
        right.set(xlabel="epoch", ylabel="top-1, %")
        right.legend(frameon=False)
    return figure


def images(batches: dict[str, np.ndarray], titles: list[str] | None = None) -> Figure:
    """Rows of images: name of the row -> (N, H, W, 3) uint8; titles stand over the first row."""
    rows, columns = len(batches), max(len(b) for b in batches.values())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(0.95 * columns + 0.8, 1.0 * rows + 0.25), squeeze=False, layout="constrained"
        )
        for r, (name, batch) in enumerate(batches.items()):
            for c in range(columns):
                ax = axes[r][c]
                ax.set(xticks=[], yticks=[])
                for side in ax.spines.values():
                    side.set_visible(False)
                if c < len(batch):
                    ax.imshow(batch[c])
                if r == 0 and titles:
                    ax.set_title(titles[c][:14], fontsize=8)
            axes[r][0].set_ylabel(name)
    return figure


def softened(logits: np.ndarray, temperatures: list[float], classes: list[str], most: int = 10) -> Figure:
    """One image's probabilities at several temperatures, for the classes of the largest logits. logits: (C,)."""
    top = np.argsort(-np.asarray(logits, np.float64), kind="stable")[:most]
    with plt.rc_context(STYLE):
        figure, axes = _axes(len(temperatures), 2.3, 2.4, sharey=True)
        for ax, T in zip(axes, temperatures, strict=True):
            p = np.exp(log_softmax(np.asarray(logits)[None], T))[0]
            ax.bar(range(len(top)), p[top], color=COLOURS[0])
            ax.set_xticks(range(len(top)), [classes[k][:12] for k in top], rotation=90)
            ax.set_title(f"T = {T:g}, entropy {entropy(np.asarray(logits)[None], T)[0]:.2f} nats")
        axes[0].set_ylabel("probability")
    return figure


def softened_at(
    picture: np.ndarray, label: int, says: dict[str, np.ndarray], T: float, classes: list[str], most: int = 10
) -> Figure:
    """One image, and what several models say of it at one temperature.

    picture: (H, W, 3) uint8; label: its class; says: name -> logits, (C,). Shown are the classes of the largest
    logits of the first model.
    """
    top = np.argsort(-next(iter(says.values())), kind="stable")[:most]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(7.2, 3.2), width_ratios=[1, 2.2], layout="constrained", squeeze=True
        )
        left.imshow(picture)
        left.set(xticks=[], yticks=[], title=classes[label][:30])
        left.spines[:].set_visible(False)
        height = 0.8 / len(says)
        for k, (name, logits) in enumerate(says.items()):
            p = np.exp(log_softmax(logits[None], T))[0]
            places = np.arange(len(top)) + (k - (len(says) - 1) / 2) * height
            shown = f"{name}, entropy {entropy(logits[None], T)[0]:.2f} nats"
            right.barh(places, p[top], height=height, color=COLOURS[k], label=shown)
        right.set_yticks(range(len(top)), [("→ " if k == label else "") + classes[k][:22] for k in top])
        right.invert_yaxis()
        right.set(xlabel="probability", title=f"T = {T:g}")
        right.legend(frameon=False, loc="lower right")
    return figure


def cell(histories: dict[str, pd.DataFrame], figure: str, worst: dict[str, float]) -> Figure:
    """One cell: its accuracy against epoch beside others, and its worst classes.

    histories: name -> history; figure: the history's column; worst: class -> accuracy. Fractions.
    """
    with plt.rc_context(STYLE):
        drawn, (left, right) = _axes(2, 3.8, 2.8)
        for k, (name, history) in enumerate(histories.items()):
            points = history.dropna(subset=figure)
            _line(left, k, points["epoch"], 100 * points[figure], name)
        left.set(xlabel="epoch", ylabel="top-1, %")
        left.legend(frameon=False)
        right.barh(range(len(worst)), [100 * a for a in worst.values()], color=COLOURS[0])
        right.set_yticks(range(len(worst)), [name[:22] for name in worst])
        right.invert_yaxis()
        right.set(xlabel="accuracy, %", title="its worst classes", xlim=(0, 100))
    return drawn
