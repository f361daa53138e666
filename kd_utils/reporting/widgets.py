"""Widgets over records and soft targets, for explore.ipynb: each shows one thing and redraws when its controls move."""

import html
import io
from functools import cache

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from .. import records
from ..learning import data
from ..learning.metrics import entropy
from ..records import Record
from ..study import Cell
from . import plots
from .results import Results
from .shown import percent, point, points

TEMPERATURES = [0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100]
WORST_CLASSES = 8


def temperature(found: Results) -> widgets.VBox:
    """An image, and what teacher and student say of it at the temperature of a slider.

    The image is one of val, or a training image in one of the views that the soft targets are of: then the teacher's
    logits are the stored ones, and the student's are computed from its weights.
    """
    cell = widgets.Dropdown(options=_cells(found), description="student", layout=_WIDE)
    views = [(f"training view {k}", k) for k in range(found.study.view_count())]
    source = widgets.Dropdown(options=[("val", None), *views], description="image of", layout=_WIDE)
    image = widgets.IntSlider(max=found.dataset["counts"]["val"] - 1, description="image", **_SMOOTH)
    T = widgets.SelectionSlider(options=TEMPERATURES, value=4, description="T", **_SMOOTH)
    picture, words = widgets.Image(format="png", layout=_PICTURE), widgets.HTML()

    def draw(_=None):
        image.max = found.dataset["counts"]["val" if source.value is None else "train"] - 1
        shown = _of_val(found, cell.value) if source.value is None else _of_view(found, cell.value, source.value)
        pixels, label, says = shown(image.value)
        picture.value = _png(plots.softened_at(pixels, label, says, T.value, found.dataset["classes"]))
        words.value = "<br>".join(
            f"entropy of the {who} at T = {T.value:g}: {entropy(logits[None], T.value)[0]:.3f} nats"
            for who, logits in says.items()
        )

    return _panel([cell, source, image, T], [picture, words], draw)


def grid(found: Results) -> widgets.VBox:
    """The grid as buttons that show their accuracy; the one clicked shows how it learned and its worst classes."""
    student = widgets.Dropdown(options=found.labels, description="student", layout=_WIDE)
    board, picture, words = widgets.VBox(), widgets.Image(format="png", layout=_PICTURE), widgets.HTML()

    def pick(cell):
        own, base = found.records_of(cell)[0], found.cell(student.value, None, 1.0)
        histories = {"baseline": found.records_of(base)[0]} if base is not None else {}
        histories = {name: records.history(r) for name, r in {**histories, own.cell.name: own}.items()}
        accuracy = own.class_accuracy(len(found.dataset["classes"]))
        worst = np.argsort(accuracy, kind="stable")[:WORST_CLASSES]
        named = {found.dataset["classes"][k]: accuracy[k] for k in worst}
        picture.value = _png(plots.cell(histories, found.score_column, named))
        words.value = (
            f"<b>{html.escape(own.cell.name)}</b>: top-1 {percent(cell['top1_best'])} % "
            f"({points(cell['gain'])} points), last epoch {percent(cell['top1_last'])} %, NLL {cell['nll']:.3f}, "
            f"ECE {cell['ece']:.3f}, agreement with the teacher {percent(cell['agreement'])} %"
        )

    def button(cell, reach: float) -> widgets.Button:
        if cell is None:
            return widgets.Button(description="–", disabled=True, layout=_CELL)
        made = widgets.Button(description=percent(cell["top1_best"]), layout=_CELL)
        made.tooltip = f"{point(cell)}: {points(cell['gain'])} points"
        shade = 0.5 if np.isnan(cell["gain"]) else 0.5 + 0.3 * cell["gain"] / reach
        made.style.button_color = to_hex(colormaps["PuOr_r"](shade))
        made.on_click(lambda _: pick(cell))
        return made

    def draw(_=None):
        own = found.of(student.value)
        reach = own["gain"].abs().max() or 1.0
        alphas = [a for a in sorted(found.study.grid.alpha) if a < 1]
        rows = [[widgets.Label("baseline", layout=_CELL), button(found.cell(student.value, None, 1.0), reach)]]
        rows.append([widgets.Label(text, layout=_CELL) for text in ("", *(f"alpha = {a:g}" for a in alphas))])
        for T in sorted(found.study.grid.T):
            cells = [button(found.cell(student.value, T, a), reach) for a in alphas]
            rows.append([widgets.Label(f"T = {T:g}", layout=_CELL), *cells])
        board.children = [widgets.HBox(row) for row in rows]
        pick(own.iloc[0])

    return _panel([student, board], [words, picture], draw)


def compare(found: Results) -> widgets.VBox:
    """Two cells, image by image: those that only one of them gets right, or both wrong."""
    cells = _cells(found)
    first = widgets.Dropdown(options=cells, description="first", layout=_WIDE)
    second = widgets.Dropdown(options=cells, value=cells[-1][1], description="second", layout=_WIDE)
    kinds = {
        "only the first is right": lambda a, b: a & ~b,
        "only the second is right": lambda a, b: ~a & b,
        "both are wrong": lambda a, b: ~a & ~b,
        "both are right": lambda a, b: a & b,
    }
    kind = widgets.Dropdown(options=list(kinds), description="images", layout=_WIDE)
    number = widgets.IntSlider(max=0, description="number", **_SMOOTH)
    picture, words = widgets.Image(format="png", layout=_PICTURE), widgets.HTML()

    def draw(_=None):
        a, b = first.value, second.value
        right = [r.predictions["predicted"] == r.predictions["label"] for r in (a, b)]
        counts = {name: int(test(*right).sum()) for name, test in kinds.items()}
        words.value = "; ".join(f"{name}: {count:,}" for name, count in counts.items())
        index = np.flatnonzero(kinds[kind.value](*right))
        number.max = max(len(index) - 1, 0)
        if not len(index):
            picture.value = b""
            return
        pixels, label, says = _of_val(found, a)(index[min(number.value, number.max)])
        other = _of_val(found, b)(index[min(number.value, number.max)])[2]
        says = {"teacher": says["teacher"], "first": says["student"], "second": other["student"]}
        picture.value = _png(plots.softened_at(pixels, label, says, 1.0, found.dataset["classes"]))

    return _panel([first, second, kind, number], [words, picture], draw)


_WIDE = {"width": "420px"}
_CELL = {"width": "84px"}
_PICTURE = {"width": "760px", "height": "auto"}
_SMOOTH = {"continuous_update": False, "layout": {"width": "420px"}}


def _cells(found: Results) -> list[tuple[str, Record]]:
    """Every run by name, best first."""
    ranked = sorted(found.students, key=lambda r: -r.metrics["top1_best"])
    return [(f"{r.cell.name} ({percent(r.metrics['top1_best'])} %)", r) for r in ranked]


def _panel(controls: list, shown: list, draw) -> widgets.VBox:
    """The controls above what they show; a failure is said in place of the picture."""
    trouble = widgets.HTML()

    def safely(change=None):
        try:
            draw(change)
            trouble.value = ""
        except (data.DataError, records.RecordError, RuntimeError) as e:
            trouble.value = f"<b>{html.escape(str(e))}</b>"

    for control in controls:
        if hasattr(control, "value"):
            control.observe(safely, names="value")
    safely()
    return widgets.VBox([*controls, trouble, *shown])


def _of_val(found: Results, record: Record):
    """index -> (pixels, label, {teacher, student: logits}) of val."""
    dataset = data.load(found.study)
    logits = {"teacher": found.teacher.val_logits, "student": record.val_logits}

    def one(index: int):
        says = {who: np.asarray(own[index], np.float64) for who, own in logits.items()}
        return dataset.images("val")[index], int(dataset.labels("val")[index]), says

    return one


def _of_view(found: Results, record: Record, view: int):
    """index -> (pixels, label, {teacher, student: logits}) of a training image in a view."""
    import torch

    from ..learning.training import predict_logits

    run = _run(found.study.file, record.cell)

    def one(index: int):
        pixels = run.view(view)(run.images, torch.tensor([index], device=run.images.device))
        says = {"teacher": run.soft_targets[view][index], "student": predict_logits(run.model, pixels)[0]}
        says = {who: np.asarray(own, np.float64) for who, own in says.items()}
        return pixels[0].cpu().numpy(), int(run.dataset.labels("train")[index]), says

    return one


@cache
def _run(file: str, cell: Cell):
    """The run of a cell, its model loaded once."""
    from ..learning import run as runs

    T = 1.0 if cell.T is None else cell.T
    return runs.student(file, student=cell.student, T=T, alpha=cell.alpha, method=cell.method, seed=cell.seed)


def _png(figure) -> bytes:
    with io.BytesIO() as f:
        figure.savefig(f, format="png", dpi=100)
        plt.close(figure)
        return f.getvalue()
