"""An executed notebook -> PDF, by pandoc and typst, and HTML, by pandoc: no TeX, no browser.

Code is left out, what it shows is kept. The HTML is one file that loads nothing and runs nothing: neither raw HTML nor
raw typst passes, and no picture but those of the notebook's outputs. Loads no torch.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from nbconvert.exporters import Exporter
from nbformat import NotebookNode

from .. import files, paths
from ..study import Study
from .shown import Figure, File, Front, Text, in_markdown

_READ = "markdown-pandoc_title_block-native_divs-native_spans-raw_html-raw_tex-raw_attribute-latex_macros"


class ReportError(RuntimeError):
    """A PDF that cannot be made; the message says of which cell, or what pandoc or typst say."""


class PaperExporter(Exporter):
    """nbconvert's exporter `paper`: markdown and outputs of an executed notebook, as a paper."""

    export_from_notebook = "Paper (PDF)"
    output_mimetype = "application/pdf"

    def _file_extension_default(self) -> str:
        return ".pdf"

    def _print(self, paper: "_Paper") -> bytes | str:
        return paper.pdf()

    def from_notebook_node(self, nb: NotebookNode, resources: Any = None, **kw: Any) -> tuple[Any, dict[str, Any]]:
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        with _paper(nb, resources.get("metadata", {}).get("name", "report")) as paper:
            return self._print(paper), resources


class PaperHTMLExporter(PaperExporter):
    """nbconvert's exporter `paperhtml`: the same as one HTML file."""

    export_from_notebook = "Paper (HTML)"
    output_mimetype = "text/html"

    def _file_extension_default(self) -> str:
        return ".html"

    def _print(self, paper: "_Paper") -> bytes | str:
        return paper.html()


def write(nb: NotebookNode, study: Study) -> None:
    """Write the executed analysis of a study to report/STUDY/: report.pdf, report.html, figures. Raises ReportError."""
    folder = paths.report(study.name)
    with _paper(nb, study.name) as paper:
        with files.whole(folder / paths.PDF) as tmp:
            tmp.write_bytes(paper.pdf())
        with files.whole(folder / paths.HTML) as tmp:
            tmp.write_text(paper.html(), encoding="utf-8")
        for file in paper.folder.glob("beside/*"):
            with files.whole(folder / file.name) as tmp:
                tmp.write_bytes(file.read_bytes())
        with files.whole(folder / "figures") as new:
            new.mkdir()
            for figure in sorted(paper.folder.glob("*.svg")):
                (new / figure.name).write_bytes(figure.read_bytes())
            files.remove(folder / "figures")


@contextmanager
def _paper(nb: NotebookNode, title: str) -> Iterator["_Paper"]:
    with tempfile.TemporaryDirectory() as tmp:
        yield _Paper(nb, title, Path(tmp))


class _Paper:
    """An executed notebook as pandoc's Markdown in a folder, its pictures beside it."""

    def __init__(self, nb: NotebookNode, title: str, folder: Path) -> None:
        front, body = _markdown(nb, folder)
        self.folder = folder
        metadata = {"title": in_markdown(title), **front}
        head = "".join(f"{key}: |\n{_indent(text)}\n" for key, text in metadata.items())
        # of a file's name that is not UTF-8, Python has signs that no file may hold
        self.text = f"---\n{head}---\n\n{body}".encode("utf-8", "backslashreplace").decode()
        for name in ("paper.css", "paper.html", "paper.lua", "paper.typ"):
            (folder / name).write_text(
                package_files("kd_utils.reporting").joinpath(name).read_text(encoding="utf-8"), encoding="utf-8"
            )

    def pdf(self) -> bytes:
        import typst

        source = self.folder / "report.typ"
        source.write_text(self._pandoc("typst", "--template=paper.typ"), encoding="utf-8")
        try:
            return typst.compile(str(source), root=str(self.folder), timestamp=0)
        except Exception as e:
            raise ReportError(f"typst: {e}") from e

    def html(self) -> str:
        return self._pandoc(
            "html5",
            "--template=paper.html",
            "--embed-resources",
            "--mathml",
            "--toc",
            "--number-sections",
            "--shift-heading-level-by=1",  # the title is the one heading of the first level
        )

    def _pandoc(self, to: str, *options: str) -> str:
        import pypandoc

        try:
            return pypandoc.convert_text(
                self.text,
                to,
                format=_READ,
                extra_args=[
                    "--lua-filter=paper.lua",
                    "--wrap=preserve",
                    "--columns=2000",  # tables with longer lines would have columns of fixed widths
                    f"--resource-path={self.folder}",
                    *options,
                ],
                cworkdir=str(self.folder),
            )
        except RuntimeError as e:
            raise ReportError(f"pandoc: {e}") from e


def _markdown(nb: NotebookNode, folder: Path) -> tuple[dict[str, Any], str]:
    """The notebook as pandoc's Markdown, its pictures written to folder; and the front matter, if it has one."""
    front, parts = {}, []
    for number, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        if cell.cell_type != "code":
            continue
        for k, output in enumerate(cell.outputs):
            if output.output_type == "error":
                raise ReportError(f"cell {number + 1} of the notebook failed: {output.ename}: {output.evalue}")
            if output.output_type == "stream":
                if output.name == "stdout":  # warnings stay in the notebook
                    parts.append(_verbatim(output.text))
            elif Front.MIME in output.data:
                front = output.data[Front.MIME]
            elif File.MIME in output.data:
                _beside(output.data[File.MIME], folder)
            else:
                parts.append(_rich(output, folder, f"cell{number:03d}-{k}"))
    return front, _resolved("\n\n".join(part for part in parts if part is not None)) + "\n"


def _rich(output: NotebookNode, folder: Path, name: str) -> str | None:
    """What an output shows, in the richest of its forms that pandoc's Markdown can hold; None where it has none."""
    forms = output.data
    if Figure.MIME in forms:
        return _figure(forms[Figure.MIME], folder)
    if "image/svg+xml" in forms or "image/png" in forms:
        return _picture(output, folder, name)
    if Text.MIME in forms:
        return forms[Text.MIME]["markdown"]
    if "text/markdown" in forms:
        return forms["text/markdown"]
    if "text/html" in forms:
        return _verbatim(forms["text/html"], "{.output-html}")  # of which paper.lua makes a table
    if "text/plain" in forms:
        return _verbatim(forms["text/plain"])
    return None


def _resolved(body: str) -> str:
    """Cross-references to what an unfinished study has nothing to show for say so."""
    labels = {*re.findall(r"\{#(tbl-[\w.-]+)\}", body), *re.findall(r'"label": "(fig-[\w.-]+)"', body)}
    labels |= {*re.findall(r"\\label\{(eq-[\w-]+)\}", body)}

    def known(match: re.Match) -> str:
        label = match[1].rstrip(".-")
        stop = match[1][len(label) :]  # of the sentence
        return match[0] if label in labels else f"(no {label} yet){stop}"

    return re.sub(r"(?<!\\)@((?:fig|tbl|eq)-[\w.-]+)", known, body)


def _figure(told: dict, folder: Path) -> str:
    """A figure of one picture or several, their files written to folder; paper.lua puts them together."""
    several = len(told["panels"]) > 1
    panels = []
    for number, panel in enumerate(told["panels"], 1):
        path = folder / (f"{told['label']}-{number}.svg" if several else f"{told['label']}.svg")
        path.write_text(panel["svg"], encoding="utf-8")
        panels.append({"file": path.name, "says": panel["says"]})
    return _verbatim(json.dumps({**told, "panels": panels}), "{.output-figure}")


def _picture(output: NotebookNode, folder: Path, name: str) -> str:
    import base64

    if "image/svg+xml" in output.data:
        path = folder / f"{name}.svg"
        path.write_text(output.data["image/svg+xml"], encoding="utf-8")
    else:
        path = folder / f"{name}.png"
        path.write_bytes(base64.b64decode(output.data["image/png"]))
    return f"![]({path.name})"


def _beside(told: dict, folder: Path) -> None:
    """Write a file that is to lie beside the report to a folder in folder."""
    if not re.fullmatch(r"\w+\.\w+", told["name"]):
        raise ReportError(f"no file beside a report is called {told['name']!r}")
    (folder / "beside").mkdir(exist_ok=True)
    (folder / "beside" / told["name"]).write_text(told["text"], encoding="utf-8")


def _verbatim(text: str, kind: str = "") -> str:
    return f"```{kind}\n" + text.rstrip().replace("```", "'''") + "\n```"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
