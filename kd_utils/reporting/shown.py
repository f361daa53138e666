"""Tables, figures and front matter that show themselves in JupyterLab and in the PDF, captions and labels included.

And how a number is written, once for tables, figures and sentences.

A label makes a cross-reference: text may say @tbl-x or @fig-x.
"""

import html
import io

import pandas as pd


class Table:
    """A DataFrame with a caption and a label; cells are shown as they are (format them first)."""

    def __init__(self, frame: pd.DataFrame, caption: str, label: str):
        self.frame, self.caption, self.label = frame, caption, label

    def _markdown(self) -> str:
        columns = [str(c) for c in self.frame.columns]
        right = [pd.api.types.is_numeric_dtype(self.frame[c]) or _numbers(self.frame[c]) for c in self.frame.columns]
        lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---:" if r else ":---" for r in right) + "|"]
        for row in self.frame.itertuples(index=False):
            lines.append("| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |")
        return "\n".join(lines) + f"\n\n: {self.caption} {{#tbl-{self.label}}}\n"

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = self.frame.to_html(index=False, border=0, escape=True)
        return {
            "text/html": f"<div>{shown}<p>{_shown(f'tbl-{self.label}', self.caption)}</p></div>",
            "text/markdown": self._markdown(),
            "text/plain": self.frame.to_string(index=False),
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
        caption = _shown(f"fig-{self.label}", self.caption)
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


def _shown(label: str, caption: str) -> str:
    """A caption in JupyterLab, with the name by which the text refers to it."""
    return f"<b>@{label}</b> <em>{html.escape(caption)}</em>"


def _numbers(column: pd.Series) -> bool:
    """Whether a column of strings reads as numbers, dashes aside."""
    stripped = [str(v).split(" ")[0].replace(",", "").lstrip("+−-<") for v in column if str(v) not in ("", "–")]
    return bool(stripped) and all(v.replace(".", "", 1).isdigit() for v in stripped)


def percent(value: float, digits: int = 2) -> str:
    """A fraction as percent, '–' where there is none."""
    return "–" if pd.isna(value) else f"{100 * value:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, '–' where there is none."""
    return "–" if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")


def points(value: float, digits: int = 2) -> str:
    """A difference of fractions as signed percentage points, '–' where there is none."""
    return signed(100 * value, digits)


def half(low: float, high: float, digits: int = 2) -> str:
    """Half the width of an interval of fractions, in points, as '± x'; '' where there is none."""
    return "" if pd.isna(low) else f" ± {50 * (high - low):.{digits}f}"


def p_value(value: float) -> str:
    """A p-value to three decimals, '–' where there is none."""
    return "–" if pd.isna(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def temperature(value: float) -> str:
    """T, '–' where the loss has none."""
    return "–" if pd.isna(value) else f"{value:g}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: 42 s, 3.1 min, 1.5 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def point(cell) -> str:
    """A cell's T and alpha in words, or 'the baseline'."""
    return "the baseline" if pd.isna(cell["T"]) else f"T = {cell['T']:g}, alpha = {cell['alpha']:g}"
