"""A training as it goes on, in a notebook: a bar, the time left, a curve that grows. Loads no torch, draws by hand."""

import time
from typing import Any

from ..text import duration
from .shown import percent

EVERY = 0.5  # seconds between two pictures
LEFT, TOP, WIDTH, HEIGHT = 46, 22, 380, 110  # of the curves, in pixels; beside and below them stand their scales
LOSS, ACCURACY = "#0072b2", "#d55e00"


class Training:
    """Shows a run's fit() as one output that changes, and in the end becomes a line: `run.fit(Training())`."""

    def __init__(self) -> None:
        self.epochs = 0
        self.rows: list[dict[str, Any]] = []  # of the epochs so far, as Fit.history has them
        self._done = 0.0  # epochs, parts of one included
        self._began: tuple[float, float] | None = None  # when, and at which epoch, this attempt began
        self._drawn = 0.0
        self._over = False
        self._handle: Any = None

    def begin(self, epochs: int) -> None:
        """A training of so many epochs begins, or goes on."""
        from IPython.display import display

        self.epochs = epochs
        self._handle = display(self, display_id=True)

    def batch(self, done: float) -> None:
        """So many epochs are done, parts of one included."""
        if self._began is None:
            self._began = time.monotonic(), done
        self._done = done
        self._draw()

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended."""
        self.rows.append(row)
        self._draw()

    def end(self) -> None:
        """The training is over."""
        self._over = True
        self._draw(now=True)

    def _draw(self, now: bool = False) -> None:
        if self._handle is not None and (now or time.monotonic() - self._drawn >= EVERY):
            self._handle.update(self)
            self._drawn = time.monotonic()

    @property
    def text(self) -> str:
        """The line: where the training is, how long it still takes, and what it has come to."""
        judged = [row for row in self.rows if _accuracy(row)]
        came_to = [f"{_words(judged[-1])} {percent(judged[-1][_accuracy(judged[-1])], 1)} %"] if judged else []
        came_to += [f"loss {self.rows[-1]['loss']:.3g}"] if self.rows else []
        if self._over:
            seconds = sum(row["seconds"] for row in self.rows)
            return f"{len(self.rows)} epochs in {duration(seconds)}: {', '.join(came_to)}"
        epoch = min(int(self._done) + 1, self.epochs)
        return ", ".join([f"epoch {epoch} of {self.epochs}", *came_to, *self._left()])

    def _left(self) -> list[str]:
        if self._began is None or self._done <= self._began[1]:
            return []
        pace = (time.monotonic() - self._began[0]) / (self._done - self._began[1])
        return [f"{duration(pace * (self.epochs - self._done))} left"]

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        bar = f'<progress max="{self.epochs}" value="{self._done:.3f}" style="width:{WIDTH}px"></progress><br>'
        shown = f"<div>{self.text}</div>" if self._over else f"<div>{bar}{self.text}{curves(self.rows)}</div>"
        return {"text/html": shown, "text/plain": self.text}, {"kd_utils": {"progress": True}}


def curves(rows: list[dict[str, Any]]) -> str:
    """Loss and accuracy of each epoch so far as SVG, each on its own scale; '' before there are two epochs."""
    if len(rows) < 2:
        return ""
    judged = [row for row in rows if _accuracy(row)]
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    lines = [_curve([(row["epoch"], row["loss"]) for row in rows], first, last, LOSS, "{:.3g}", "loss", 0)]
    if len(judged) > 1:
        values = [(row["epoch"], 100 * row[_accuracy(row)]) for row in judged]
        words = f"{_words(judged[0])}, %"
        lines.append(_curve(values, first, last, ACCURACY, "{:.1f}", words, WIDTH))
    size = f'width="{WIDTH + 2 * LEFT}" height="{TOP + HEIGHT + 22}"'
    axis = f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 18}" text-anchor="middle">epoch {first} to {last}</text>'
    return f'<br><svg {size} font-size="12" fill="currentColor" role="img">{axis}{"".join(lines)}</svg>'


def _curve(
    values: list[tuple[int, float]], first: int, last: int, colour: str, form: str, words: str, scale_at: int
) -> str:
    """One line with its scale, at the left (scale_at 0) or the right; its name above."""
    least, most = min(y for _, y in values), max(y for _, y in values)
    span = (most - least) or 1.0
    places = " ".join(
        f"{LEFT + WIDTH * (x - first) / (last - first):.1f},{TOP + HEIGHT * (most - y) / span:.1f}" for x, y in values
    )
    anchor, x, inwards = ("start", LEFT + WIDTH + 4, "end") if scale_at else ("end", LEFT - 4, "start")
    text = f'<text fill="{colour}" x="{x}" text-anchor="{anchor}" y='
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        f'{text}"{TOP + 4}">{form.format(most)}</text>{text}"{TOP + HEIGHT + 4}">{form.format(least)}</text>'
        f'<text fill="{colour}" x="{LEFT + scale_at}" y="12" text-anchor="{inwards}">{words}</text>'
    )


def _words(row: dict[str, Any]) -> str:
    """The accuracy that an epoch was judged by, in words: val top-1."""
    return _accuracy(row).replace("_top1", " top-1")


def _accuracy(row: dict[str, Any]) -> str:
    """The name of the accuracy that an epoch was judged by, '' if it was not."""
    return next((name for name in row if name.endswith("top1")), "")
