"""Tables, figures and front matter that show themselves in JupyterLab and in the PDF, captions and labels included.

And how a number and a name are written, once for tables, figures and sentences. Names are data: of studies, models,
classes, devices. Whatever characters they have, they are shown as they are typed and are never markup. In typst,
paper.lua sees to that.

A label makes a cross-reference: text may say @tbl-x or @fig-x.
"""

import hashlib
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..text import printable, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn


@dataclass(frozen=True)
class Column:
    """How one column of a table is shown.

    write: the text of a cell, made of the values that its row has in the columns `of` of the table's frame.
    right: numbers stand to the right, words to the left. markup: the text is Markdown; else words are names.
    symbolic: T and α in the words are the symbols of the equations.
    """

    write: Callable[..., str]
    of: tuple[str, ...]
    right: bool
    markup: bool = False
    symbolic: bool = False


def number(write: Callable[..., str], *of: str) -> Column:
    """A column of numbers; the first of `of` is the number itself, the others stand beside it."""
    return Column(write, of, right=True)


def words(of: str, write: Callable[..., str] = str) -> Column:
    """A column of names and other words."""
    return Column(write, (of,), right=False)


def symbolic(of: str, write: Callable[..., str] = str) -> Column:
    """A column of words that tell of T and α: 'T = 4, α = 0.5'."""
    return Column(write, (of,), right=False, symbolic=True)


def references(of: str) -> Column:
    """A column of cross-references: @tbl-x."""
    return Column(str, (of,), right=False, markup=True)


def visible(name: str) -> str:
    """A name on one line: what has no glyph is written as Python and YAML do, \\x1b, \\u202e, blanks as spaces.

    So nothing can turn the text around it to the other direction, or end a file that may not hold it.
    """
    return " ".join(printable(name).split())


def in_markdown(name: str) -> str:
    """A name as pandoc's Markdown: every sign that could be markup is escaped; within words, - . _ are none."""
    return re.sub(r"(?<![A-Za-z0-9])[-._]|[-._](?![A-Za-z0-9])|[^\w\s\-.,_%/]", _escaped, visible(name), flags=re.ASCII)


def in_html(name: str) -> str:
    """A name as HTML; JupyterLab takes what stands between dollars for mathematics, but not across elements."""
    return html.escape(visible(name)).replace("$", "<span>$</span>")


def in_plot(name: str) -> str:
    """A name for matplotlib: dollars are no mathematics. One that starts with an underscore would be no legend's."""
    text = visible(name).replace("$", "\\$")
    return " " + text if text.startswith("_") else text


def symbols(text: str) -> str:
    """Text, or its Markdown, as Markdown in which T, before a relation or 'of at', and α are those of the equations."""
    return re.sub(r"\bT(?= (?:\\?[=≥≤<>]|of at))", "$T$", text).replace("α", r"$\alpha$")


def plain(markdown: str) -> str:
    """Markdown with names in it, as a reader would type it."""
    markdown = markdown.replace("$T$", "T").replace(r"$\alpha$", "α")
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)


def label(kind: str, name: str) -> str:
    """The label of what is shown of a name: as it is, or else its hash, where a cross-reference cannot hold it."""
    whole = re.fullmatch(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", name)
    return f"{kind}-{name if whole else hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


class Table:
    """A DataFrame of numbers and names, with a caption, a label and how each shown column is written.

    frame: the numbers, unrounded; it may have more columns than are shown. columns: head -> Column, in the order in
    which they are shown; by default the frame's own columns as they are.
    """

    def __init__(self, frame: pd.DataFrame, caption: str, label: str, columns: dict[str, Column] | None = None) -> None:
        self.frame, self.caption, self.label = frame, caption, label
        self.columns = _as_they_are(frame) if columns is None else columns

    def formatted(self) -> pd.DataFrame:
        """The table as it is shown: one row a row of the frame, one column of strings a shown column."""
        return pd.DataFrame({head: self._texts(column) for head, column in self.columns.items()})

    def markdown(self) -> str:
        """A Markdown table, its caption with the label below."""
        rows = self.formatted().itertuples(index=False)
        rules = ("---:" if self._is_right(column) else ":---" for column in self.columns.values())
        body = (_markdown_row(map(_cell, row, self.columns.values())) for row in rows)
        lines = [_markdown_row(map(_head, self.columns)), "|" + "|".join(rules) + "|", *body]
        return "\n".join(lines) + f"\n\n: {self.caption} {{#tbl-{self.label}}}\n"

    def _texts(self, column: Column) -> list[str]:
        values = (self.frame[name] for name in column.of)
        return [visible(column.write(*row)) for row in zip(*values, strict=True)]

    def _is_right(self, column: Column) -> bool:
        """A column of numbers that has no number is one of dashes, which stand where words do."""
        return column.right and bool(self.frame[column.of[0]].notna().any())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        formatted = self.formatted()
        table = formatted.to_html(index=False, border=0, escape=True)
        return {
            "text/html": f"<div>{table}<p>{_html_caption(f'tbl-{self.label}', self.caption)}</p></div>",
            "text/markdown": self.markdown(),
            "text/plain": formatted.to_string(index=False),
        }


class Figure:
    """What matplotlib drew, a picture or several beside each other, as SVG, with a caption and a label.

    drawn: a figure, or what a panel is of -> its figure. says: what a panel is of -> what it shows, for those who do
    not see it.
    """

    MIME = "application/vnd.kd-utils.figure+json"

    def __init__(
        self,
        drawn: "Drawn | dict[str, Drawn]",
        caption: str,
        label: str,
        says: Mapping[str, str] | None = None,
    ) -> None:
        panels = drawn if isinstance(drawn, dict) else {"": drawn}
        self.panels = [
            {"svg": _svg(figure), "says": ": ".join(filter(None, [visible(name), (says or {}).get(name, "")]))}
            for name, figure in panels.items()
        ]
        self.caption, self.label = caption, label

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        svgs = "".join(panel["svg"][panel["svg"].index("<svg") :] for panel in self.panels)
        caption = _html_caption(f"fig-{self.label}", self.caption)
        return {
            self.MIME: {"panels": self.panels, "caption": self.caption, "label": f"fig-{self.label}"},
            "text/html": f"<figure>{svgs}<figcaption>{caption}</figcaption></figure>",
            "text/plain": f"Figure: {plain(self.caption)}",
        }


def _settle(figure: "Drawn") -> None:
    """Lay a figure out for good, its axes to a millionth: the last digits differ from one process to the next."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        if axes.get_axes_locator() is None:
            left, bottom, wide, high = (round(float(side), 6) for side in axes.get_position(original=True).bounds)
            axes.set_position((left, bottom, wide, high))


def _svg(figure: "Drawn") -> str:
    """What is drawn, as SVG: the same figure, the same bytes."""
    import matplotlib.pyplot as plt

    _settle(figure)
    with plt.rc_context({"svg.hashsalt": "kd-utils"}), io.StringIO() as f:
        figure.savefig(f, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
        return f.getvalue()


class File:
    """A text file that lies beside the report; the report tells its SHA-256."""

    MIME = "application/vnd.kd-utils.file+json"

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {self.MIME: {"name": self.name, "text": self.text}, "text/plain": f"{self.name}, SHA-256 {self.sha256}"}


class Front:
    """Title, subtitle and abstract of the report; text may be Markdown."""

    MIME = "application/vnd.kd-utils.front+json"

    def __init__(self, title: str, subtitle: str, abstract: str) -> None:
        self.title, self.subtitle, self.abstract = title, subtitle, abstract

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            self.MIME: {"title": self.title, "subtitle": self.subtitle, "abstract": self.abstract},
            "text/markdown": f"# {self.title}\n\n*{self.subtitle}*\n\n{referring(self.abstract)}\n",
            "text/plain": plain(self.title),
        }


class Text:
    """Markdown that is computed. In JupyterLab its cross-references are words; the report numbers them."""

    MIME = "application/vnd.kd-utils.text+json"

    def __init__(self, markdown: str) -> None:
        self.markdown = markdown

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        in_words = referring(self.markdown)
        return {self.MIME: {"markdown": self.markdown}, "text/markdown": in_words, "text/plain": in_words}


_KINDS = {"fig": "Figure", "tbl": "Table", "eq": "Equation"}


def referring(markdown: str, mark: str = "*") -> str:
    """Markdown with cross-references in words: @fig-gain as Figure *gain*, which is how its caption begins."""
    return re.sub(r"(?<!\\)@(fig|tbl|eq)-([\w.-]*\w)", lambda m: f"{_KINDS[m[1]]} {mark}{m[2]}{mark}", markdown)


def fixed(value: float, digits: int = 2) -> str:
    """A number with so many decimals. Its last bits say nothing: where it lies between two, they do not choose."""
    return f"{round(value, 9):.{digits}f}"


def percent(value: float, digits: int = 2) -> str:
    """A fraction as percent, '–' where there is none."""
    return "–" if pd.isna(value) else fixed(100 * value, digits)


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, '–' where there is none."""
    return "–" if pd.isna(value) else f"{round(value, 9):+.{digits}f}".replace("-", "−")


def points(value: float, digits: int = 2) -> str:
    """A difference of fractions as signed percentage points, '–' where there is none."""
    return signed(100 * value, digits)


def half(low: float, high: float) -> str:
    """Half the width of an interval of fractions, in points, as ' ± x'; '' where there is none."""
    return "" if pd.isna(low) else f" ± {fixed(50 * (high - low))}"


def between(value: float, low: float, high: float, write: Callable[[float], str] = points) -> str:
    """A number with its interval, +2.92 [+1.83, +4.01]; '–' where there is none."""
    if pd.isna(value):
        return "–"
    return write(value) + ("" if pd.isna(low) else f" [{write(low)}, {write(high)}]")


def width(margin: float) -> str:
    """So many points in words: 'a point', '0.5 points'."""
    return "a point" if margin == 1 else f"{margin:g} points"


def chance(value: float) -> str:
    """A probability to two decimals, '–' where there is none; never 0 or 1."""
    if pd.isna(value):
        return "–"
    return "<0.01" if value < 0.01 else ">0.99" if value > 0.99 else fixed(value)


def p_value(value: float) -> str:
    """A p-value to three decimals, '–' where there is none."""
    if pd.isna(value):
        return "–"
    return "<0.001" if value < 0.001 else fixed(value, 3)


def temperature(value: float) -> str:
    """T, '–' where the loss has none."""
    return "–" if pd.isna(value) else short(value)


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
    return "| " + " | ".join(texts) + " |"


def _cell(text: str, column: Column) -> str:
    if column.markup or column.right:
        return text
    return symbols(in_markdown(text)) if column.symbolic else in_markdown(text)


def _head(text: str) -> str:
    """The head of a column: T and α stand as in the equations, as text, for some screen readers pass mathematics by."""
    return f"*{text}*" if text in ("T", "α") else in_markdown(text)


def _escaped(sign: re.Match) -> str:
    """A backslash before ASCII punctuation; other signs are no markup."""
    return "\\" + sign[0] if sign[0].isascii() else sign[0]


def _html_caption(label: str, caption: str) -> str:
    """A caption in JupyterLab, with the name by which the text refers to it."""
    kind, _, name = label.partition("-")
    return f"<b>{_KINDS[kind]} {in_html(name)}</b> <em>{in_html(plain(referring(caption, mark='')))}</em>"
