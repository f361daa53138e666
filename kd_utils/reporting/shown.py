"""Tables, figures and front matter that show themselves in JupyterLab and in the PDF, captions and labels included.

And how a number is written, once for tables, figures and sentences.

A label makes a cross-reference: text may say @tbl-x or @fig-x.
"""

import html
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ..study import short


@dataclass(frozen=True)
class Column:
    """How one column of a table is shown.

    write: the text of a cell, made of the values that its row has in the columns `of` of the table's frame.
    right: numbers stand to the right, words to the left.
    """

    write: Callable[..., str]
    of: tuple[str, ...]
    right: bool


def number(write: Callable[..., str], *of: str) -> Column:
    """A column of numbers; the first of `of` is the number itself, the others stand beside it."""
    return Column(write, of, right=True)


def words(of: str, write: Callable[..., str] = str) -> Column:
    """A column of names and other words."""
    return Column(write, (of,), right=False)


class Table:
    """A DataFrame of numbers and names, with a caption, a label and how each shown column is written.

    frame: the numbers, unrounded; it may have more columns than are shown. columns: head -> Column, in the order in
    which they are shown; by default the frame's own columns as they are.
    """

    def __init__(self, frame: pd.DataFrame, caption: str, label: str, columns: dict[str, Column] | None = None):
        self.frame, self.caption, self.label = frame, caption, label
        self.columns = _as_they_are(frame) if columns is None else columns

    def formatted(self) -> pd.DataFrame:
        """The table as it is shown: one row a row of the frame, one column of strings a shown column."""
        return pd.DataFrame({head: self._texts(column) for head, column in self.columns.items()})

    def markdown(self) -> str:
        """A Markdown table, its caption with the label below."""
        rows = self.formatted().itertuples(index=False)
        rules = ("---:" if self._is_right(column) else ":---" for column in self.columns.values())
        lines = [_markdown_row(self.columns), "|" + "|".join(rules) + "|", *map(_markdown_row, rows)]
        return "\n".join(lines) + f"\n\n: {self.caption} {{#tbl-{self.label}}}\n"

    def _texts(self, column: Column) -> list[str]:
        values = (self.frame[name] for name in column.of)
        return [column.write(*row) for row in zip(*values, strict=True)]

    def _is_right(self, column: Column) -> bool:
        """A column of numbers that has no number is one of dashes, which stand where words do."""
        return column.right and bool(self.frame[column.of[0]].notna().any())

    def _repr_mimebundle_(self, include=None, exclude=None):
        formatted = self.formatted()
        table = formatted.to_html(index=False, border=0, escape=True)
        return {
            "text/html": f"<div>{table}<p>{_html_caption(f'tbl-{self.label}', self.caption)}</p></div>",
            "text/markdown": self.markdown(),
            "text/plain": formatted.to_string(index=False),
        }


class Figure:
    """A matplotlib figure with a caption and a label, as SVG."""

    def __init__(self, figure, caption: str, label: str):
        import matplotlib.pyplot as plt

        with plt.rc_context({"svg.hashsalt": "kd-utils"}), io.StringIO() as f:  # the same figure, the same bytes
            figure.savefig(f, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
            self.svg = f.getvalue()
        plt.close(figure)
        self.caption, self.label = caption, label

    def _repr_mimebundle_(self, include=None, exclude=None):
        svg = self.svg[self.svg.index("<svg") :]
        caption = _html_caption(f"fig-{self.label}", self.caption)
        return (
            {
                "text/html": f"<figure>{svg}<figcaption>{caption}</figcaption></figure>",
                "image/svg+xml": self.svg,
                "text/plain": f"Figure: {self.caption}",
            },
            {"kd_utils": {"caption": self.caption, "label": f"fig-{self.label}"}},
        )


class Front:
    """Title, subtitle and abstract of the report; text may be Markdown."""

    MIME = "application/vnd.kd-utils.front+json"

    def __init__(self, title: str, subtitle: str, abstract: str):
        self.title, self.subtitle, self.abstract = title, subtitle, abstract

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {
            self.MIME: {"title": self.title, "subtitle": self.subtitle, "abstract": self.abstract},
            "text/markdown": f"# {self.title}\n\n*{self.subtitle}*\n\n{self.abstract}\n",
            "text/plain": self.title,
        }


class Text:
    """Markdown that is computed."""

    def __init__(self, markdown: str):
        self.markdown = markdown

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/markdown": self.markdown, "text/plain": self.markdown}


def percent(value: float, digits: int = 2) -> str:
    """A fraction as percent, '–' where there is none."""
    return "–" if pd.isna(value) else f"{100 * value:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, '–' where there is none."""
    return "–" if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")


def points(value: float, digits: int = 2) -> str:
    """A difference of fractions as signed percentage points, '–' where there is none."""
    return signed(100 * value, digits)


def half(low: float, high: float) -> str:
    """Half the width of an interval of fractions, in points, as ' ± x'; '' where there is none."""
    return "" if pd.isna(low) else f" ± {50 * (high - low):.2f}"


def p_value(value: float) -> str:
    """A p-value to three decimals, '–' where there is none."""
    if pd.isna(value):
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def temperature(value: float) -> str:
    """T, '–' where the loss has none."""
    return "–" if pd.isna(value) else short(value)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: 42 s, 3.1 min, 1.5 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def seeds_a_cell(counts: Sequence[int]) -> str:
    """How many seeds a cell has, in words. counts: the numbers of seeds of the cells in question."""
    least, most = min(counts), max(counts)
    if least < most:
        return f"{least} to {most} seeds a cell"
    return f"{most} seeds a cell" if most > 1 else "one seed a cell"


def _as_they_are(frame: pd.DataFrame) -> dict[str, Column]:
    """The columns of a frame, each shown under its own name."""
    return {
        str(name): Column(str, (name,), right=pd.api.types.is_numeric_dtype(dtype))
        for name, dtype in frame.dtypes.items()
    }


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _html_caption(label: str, caption: str) -> str:
    """A caption in JupyterLab, with the name by which the text refers to it."""
    return f"<b>@{label}</b> <em>{html.escape(caption)}</em>"
