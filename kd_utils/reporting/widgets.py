"""Widgets over records and soft targets, for explore.ipynb: each shows one thing and redraws when its controls move.

Loads no torch until a model is asked.
"""

import io
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from .. import records
from ..cells import Cell
from ..learning import data
from ..learning.metrics import entropy
from ..records import StudentRecord
from ..text import short
from . import names, plots
from .results import CellRow, Point, Results
from .shown import chance, in_html, p_value, percent, points, visible
from .stats import mcnemar

if TYPE_CHECKING:
    from ..learning.run import Run

TEMPERATURES = [0.5, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100]
WORST_CLASSES = 8


def temperature(results: Results) -> widgets.VBox:
    """An image, and what teacher and student say of it at the temperature of a slider.

    The image is one of val, or a training image in one of the views that the soft targets are of: then the teacher's
    logits are the stored ones, and the student's are computed from its weights.
    """
    views = [(f"training view {view}", view) for view in range(results.study.view_count())]
    val = -1  # a Dropdown shows nothing where its value is None
    counts, classes = results.dataset["counts"], results.dataset["classes"]
    student = widgets.Dropdown(options=_runs(results), description="student", layout=_WIDE)
    source = widgets.Dropdown(options=[("val", val), *views], description="image of", layout=_WIDE)
    number = widgets.IntSlider(max=counts["val"] - 1, description="image", **_SMOOTH)
    T = widgets.SelectionSlider(options=TEMPERATURES, value=4, description="T", **_SMOOTH)
    picture, words = widgets.Image(format="png", layout=_PICTURE), widgets.HTML()

    def draw() -> None:
        record, view, at = _set(student), _set(source), _set(T)
        number.max = counts["val" if view == val else "train"] - 1
        index = _set(number)
        image = _val_image(results, record, index) if view == val else _view_image(results, record, view, index)
        picture.value = _png(plots.softened_at(image.pixels, image.label, image.says, at, classes))
        words.value = "<br>".join(
            f"entropy of the {who} at T = {at:g}: {entropy(logits[None], at)[0]:.3f} nats"
            for who, logits in image.says.items()
        )

    return _panel([student, source, number, T], [picture, words], draw)


def grid(results: Results) -> widgets.VBox:
    """The grid as buttons that show their accuracy; the one clicked shows how it learned and its worst classes."""
    students = [(results.called(student), student) for student in results.labels]
    student = widgets.Dropdown(options=students, description="student", layout=_WIDE)
    board, picture, words = widgets.VBox(), widgets.Image(format="png", layout=_PICTURE), widgets.HTML()
    sign = widgets.HTML()

    def show(cell: CellRow) -> None:
        picture.value = _png(_learned(results, cell.point))
        name = in_html(f"{results.called(cell.point.student)}, {cell.point.words}")
        words.value = (
            f"<b>{name}</b>: top-1 {percent(cell['top1'])} % ({points(cell['gain'])} points), last epoch "
            f"{percent(cell['top1_last'])} %, NLL {cell['nll']:.3f}, ECE {cell['ece']:.3f}, agreement with the "
            f"teacher {percent(cell['agreement'])} %"
        )

    def draw() -> None:
        board.children = _board(results, _set(student), lambda cell: _signed(sign, partial(show, cell)))
        show(results.best(_set(student)))

    return _panel([student, board], [words, picture], draw, sign)


def compare(results: Results) -> widgets.VBox:
    """Two cells, image by image: those that only one of them gets right, or both wrong."""
    runs = _runs(results)
    first = widgets.Dropdown(options=runs, description="first", layout=_WIDE)
    second = widgets.Dropdown(options=runs, value=runs[-1][1], description="second", layout=_WIDE)
    kinds: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "only the first is right": lambda a, b: a & ~b,
        "only the second is right": lambda a, b: ~a & b,
        "both are wrong": lambda a, b: ~a & ~b,
        "both are right": lambda a, b: a & b,
    }
    kind = widgets.Dropdown(options=list(kinds), description="images", layout=_WIDE)
    number = widgets.IntSlider(max=0, description="number", **_SMOOTH)
    picture, words = widgets.Image(format="png", layout=_PICTURE), widgets.HTML()

    def draw() -> None:
        pair: list[StudentRecord] = [_set(first), _set(second)]
        right = [record.predictions["predicted"] == record.predictions["label"] for record in pair]
        of_kind = {name: np.flatnonzero(test(*right)) for name, test in kinds.items()}
        counts = "; ".join(f"{name}: {len(places):,}" for name, places in of_kind.items())
        tested = f"McNemar's exact test of these two trained models: p = {p_value(mcnemar(*right))}"
        words.value = f"{counts}. {tested}{_ahead(results, *(Point.of(record.cell) for record in pair))}"
        places = of_kind[_set(kind)]
        number.max = max(len(places) - 1, 0)
        if not len(places):
            picture.value = b""
            return
        index = int(places[min(_set(number), len(places) - 1)])
        image, other = (_val_image(results, record, index) for record in pair)
        says = {"teacher": image.says["teacher"], "first": image.says["student"], "second": other.says["student"]}
        picture.value = _png(plots.softened_at(image.pixels, image.label, says, 1.0, results.dataset["classes"]))

    return _panel([first, second, kind, number], [words, picture], draw)


def _ahead(results: Results, cell: Point, other: Point) -> str:
    """What is to be expected of new runs of two cells of a student; '' where nothing is known of that."""
    if cell.student != other.student or cell == other:
        return ""
    ahead = results.models[cell.student].effect({cell: 1.0, other: -1.0}).ahead
    return "" if np.isnan(ahead) else f"; of new runs of both cells the first is ahead with probability {chance(ahead)}"


_WIDE = {"width": "420px"}
_CELL = {"width": "84px"}
_PICTURE = {"width": "760px", "height": "auto"}
_SMOOTH: dict[str, Any] = {"continuous_update": False, "layout": {"width": "420px"}}


class _Image(NamedTuple):
    """An image, (H, W, 3) uint8, the number of its class, and who -> logits, (C,) float64."""

    pixels: np.ndarray
    label: int
    says: dict[str, np.ndarray]


def _set(control: widgets.Widget) -> Any:
    """What a control is set to; what type that is follows from its options, which traitlets do not tell."""
    chosen: Any = control
    return chosen.value


def _runs(results: Results) -> list[tuple[str, StudentRecord]]:
    """Every run by name, best first."""
    ranked = sorted(results.students, key=lambda record: -record.metrics.top1_best)
    return [(f"{_called(results, record)} ({percent(record.metrics.top1_best)} %)", record) for record in ranked]


def _called(results: Results, record: StudentRecord) -> str:
    """'ResNet-18, T = 4, α = 0.5, seed 0', with the way to teach where it is not plain distillation."""
    told = [results.called(record.student), Point.of(record.cell).words, f"seed {record.seed}"]
    if record.method != "kd":
        told.insert(1, names.of_method(results.study, record.method))
    return visible(", ".join(told))


def _panel(controls: list, outputs: list, draw: Callable[[], None], sign: widgets.HTML | None = None) -> widgets.VBox:
    """The controls above what they show, and between them the sign of `_signed`."""
    sign = sign or widgets.HTML()
    for control in controls:
        if hasattr(control, "value"):
            control.observe(lambda change: _signed(sign, draw), names="value")
    _signed(sign, draw)
    return widgets.VBox([*controls, sign, *outputs])


def _signed(sign: widgets.HTML, draw: Callable[[], None]) -> None:
    """Draw, and say by the sign that it is under way, or why it failed."""
    sign.value = "computing …"
    try:
        draw()
        sign.value = ""
    except (data.DataError, records.RecordError, RuntimeError) as e:
        sign.value = f"<b>{in_html(str(e))}</b>"


def _board(results: Results, student: str, pick: Callable[[CellRow], None]) -> list[widgets.HBox]:
    """The grid of a student as rows of buttons, the baseline above; a click on one picks its cell."""
    gains = results.cells_of(student)["gain"].dropna().to_numpy(float)  # none before there is a baseline
    reach = float(np.abs(gains).max()) if gains.any() else 1.0

    def button(T: float | None, alpha: float) -> widgets.Button:
        cell = results.cell(student, T, alpha)
        return _empty_place() if cell is None else _button(cell, reach, pick)

    def label(text: str) -> widgets.Label:
        return widgets.Label(text, layout=_CELL)

    alphas = [alpha for alpha in results.study.grid.alphas if alpha < 1]
    rows: list[list[widgets.Widget]] = [
        [label("baseline"), button(None, 1.0)],
        [label(""), *(label(f"α = {short(alpha)}") for alpha in alphas)],
    ]
    for T in results.study.grid.temperatures:
        rows.append([label(f"T = {short(T)}"), *(button(T, alpha) for alpha in alphas)])
    return [widgets.HBox(row) for row in rows]


def _empty_place() -> widgets.Button:
    """The place of a cell that is not finished."""
    return widgets.Button(description="–", disabled=True, layout=_CELL)


def _button(cell: CellRow, reach: float, pick: Callable[[CellRow], None]) -> widgets.Button:
    """A cell with its accuracy; its colour is its gain as a share of reach, white where that is not known."""
    button = widgets.Button(description=percent(cell["top1"]), layout=_CELL)
    button.tooltip = f"{cell.point.words}: {points(cell['gain'])} points"
    shade = 0.5 if np.isnan(cell["gain"]) else 0.5 + 0.3 * cell["gain"] / reach
    button.style.button_color = to_hex(colormaps["PuOr_r"](shade))
    button.on_click(lambda _: pick(cell))
    return button


def _learned(results: Results, point: Point) -> Figure:
    """How a cell's first run learned, beside the baseline's, and its worst classes."""
    record, baseline = results.records_of(point)[0], results.records_of(Point.baseline(point.student))
    compared = {"baseline": baseline[0]} if baseline else {}
    compared["baseline" if point.T is None else point.words] = record
    histories = {name: records.history(run) for name, run in compared.items()}
    classes = results.dataset["classes"]
    accuracy = record.class_accuracy(len(classes))
    worst = np.argsort(accuracy, kind="stable")[:WORST_CLASSES]
    return plots.cell(histories, results.score_column, {classes[k]: float(accuracy[k]) for k in worst})


def _val_image(results: Results, record: StudentRecord, index: int) -> _Image:
    """An image of val, and what the teacher and a student say of it."""
    dataset = data.load(results.study)
    says = {"teacher": results.teacher.val_logits[index], "student": record.val_logits[index]}
    return _Image(dataset.images("val")[index], int(dataset.labels("val")[index]), _in_float64(says))


def _view_image(results: Results, record: StudentRecord, view: int, index: int) -> _Image:
    """A training image in a view, the teacher's stored soft target of it, and what a student says of it."""
    import torch

    from ..learning.training import predict_logits

    run = _run(results.study.file, record.cell)
    pixels = run.view(view)(run.images, torch.tensor([index], device=run.images.device))
    says = {"teacher": run.soft_targets[view][index], "student": predict_logits(run.model, pixels)[0]}
    return _Image(pixels[0].cpu().numpy(), int(run.dataset.labels("train")[index]), _in_float64(says))


def _in_float64(says: dict[str, Any]) -> dict[str, np.ndarray]:
    return {who: np.asarray(logits, np.float64) for who, logits in says.items()}


@cache
def _run(file: str, cell: Cell) -> "Run":
    """The run of a cell, its model loaded once."""
    from ..learning import run as runs

    return runs.student(
        file, student=cell.student, T=cell.asked_T, alpha=cell.alpha, method=cell.method, seed=cell.seed
    )


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as f:
        figure.savefig(f, format="png", dpi=100)
        plt.close(figure)
        return f.getvalue()
