"""DataFrame -> Figure. Reads no file. One style, legible in print and for the colour-blind."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

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


def heatmaps(grids: dict[str, pd.DataFrame], *, label: str, baselines: dict[str, float] | None = None) -> Figure:
    """A heatmap for each student, T down and alpha across, with the values written in.

    grids: student -> DataFrame of the values, in percent or points. With `baselines` (student -> percent) the colours
    show the distance from it; without, they diverge around zero.
    """
    with plt.rc_context(STYLE):
        height = 0.75 + 0.33 * max(len(g) for g in grids.values())
        figure, axes = _axes(len(grids), 3.4, height)
        for ax, (student, grid) in zip(axes, grids.items(), strict=True):
            centre = baselines[student] if baselines else 0.0
            reach = max(float(np.nanmax(np.abs(grid.to_numpy() - centre))), 1e-9)
            sns.heatmap(
                grid,
                ax=ax,
                annot=True,
                fmt=".1f" if baselines else "+.1f",
                cmap="PuOr_r",
                center=centre,
                vmin=centre - reach,
                vmax=centre + reach,
                linewidths=0.6,
                annot_kws={"fontsize": 8},
                cbar_kws={"label": label},
            )
            ax.set(title=student, xlabel="alpha (weight of the cross-entropy)", ylabel="temperature T")
            ax.set_xticklabels([f"{c:g}" for c in grid.columns])
            ax.set_yticklabels([f"{t:g}" for t in grid.index], rotation=0)
    return figure


def learning_curves(histories: dict[str, dict[str, pd.DataFrame]], figure: str) -> Figure:
    """Accuracy against epoch: student -> name of the run -> history. figure: the history's column, a fraction."""
    with plt.rc_context(STYLE):
        drawn, axes = _axes(len(histories), 3.4, 2.6)
        for ax, (student, runs) in zip(axes, histories.items(), strict=True):
            for k, (name, history) in enumerate(runs.items()):
                points = history.dropna(subset=figure)
                ax.plot(
                    points["epoch"],
                    100 * points[figure],
                    label=name,
                    color=COLOURS[k % 7],
                    marker=MARKERS[k % 7],
                    linestyle=DASHES[k % 7],
                    markersize=3.5,
                    linewidth=1.2,
                )
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
    from .metrics import log_softmax

    top = np.argsort(-np.asarray(logits, np.float64), kind="stable")[:most]
    with plt.rc_context(STYLE):
        figure, axes = _axes(len(temperatures), 2.3, 2.4, sharey=True)
        for ax, T in zip(axes, temperatures, strict=True):
            p = np.exp(log_softmax(np.asarray(logits)[None], T))[0]
            ax.bar(range(len(top)), p[top], color=COLOURS[0])
            ax.set_xticks(range(len(top)), [classes[k][:12] for k in top], rotation=90)
            entropy = float(-(p * np.log(np.maximum(p, 1e-300))).sum())
            ax.set_title(f"T = {T:g}, entropy {entropy:.2f} nats")
        axes[0].set_ylabel("probability")
    return figure
