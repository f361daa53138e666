"""An executed notebook -> PDF, by pandoc and typst: no TeX, no browser. Code is left out, what it shows is kept."""

import tempfile
from importlib.resources import files as resources
from pathlib import Path

from nbconvert.exporters import Exporter

from . import files, paths
from .display import Front
from .study import Study

_READ = "markdown-native_divs-native_spans-markdown_in_html_blocks"
# tables that are HTML only (a plain DataFrame) become pandoc tables
# and @fig-x, @tbl-x are cross-references, not citations
_FILTER = """
function Cite(cite)
  return pandoc.RawInline('typst', '#ref(<' .. cite.citations[1].id .. '>)')
end
function RawBlock(raw)
  if raw.format:match 'html' then return pandoc.read(raw.text, 'html').blocks end
end
"""


class ReportError(RuntimeError):
    """A PDF that cannot be made; the message says of which cell, or what pandoc or typst say."""


class PaperExporter(Exporter):
    """nbconvert's exporter `paper`: markdown and outputs of an executed notebook, as a paper."""

    export_from_notebook = "Paper (PDF)"
    output_mimetype = "application/pdf"

    def _file_extension_default(self):
        return ".pdf"

    def from_notebook_node(self, nb, resources=None, **kw):
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        name = resources.get("metadata", {}).get("name", "report")
        return _pdf(nb, name), resources


def make(study: Study) -> Path:
    """Run analysis.ipynb on the study's records, and print it to report/STUDY/report.pdf, its figures beside it.

    Returns the PDF's path. Raises ReportError, which names the executed notebook if that is where it failed.
    """
    import logging

    from . import tables

    tables.load(study)  # says at once what is missing
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook

    executed = paths.results(study.name) / "analysis.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # jupyter_client warns of kernels on the loopback address
    try:
        nb = execute_notebook(
            paths.notebook("analysis"),
            executed,
            {"study": study.file},
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # as above, on the kernel's side
        )
    except PapermillExecutionError as e:
        raise ReportError(f"the analysis failed: {e.evalue}; see {executed}") from None
    folder = paths.report(study.name)
    with files.whole(folder / "report.pdf") as tmp:
        tmp.write_bytes(_pdf(nb, study.name, folder / "figures"))
    return folder / "report.pdf"


def _pdf(nb, title: str, keep_figures: Path | None = None) -> bytes:
    import pypandoc
    import typst

    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        front, body = _markdown(nb, folder)
        (folder / "filter.lua").write_text(_FILTER, encoding="utf-8")
        template = folder / "template.typ"
        template.write_text(resources("kd_utils").joinpath("paper.typ").read_text(encoding="utf-8"), encoding="utf-8")
        metadata = {"title": front.get("title", title), **{k: v for k, v in front.items() if k != "title"}}
        head = "---\n" + "".join(f"{k}: |\n{_indent(v)}\n" for k, v in metadata.items()) + "---\n\n"
        try:
            text = pypandoc.convert_text(
                head + body,
                "typst",
                format=_READ,
                extra_args=[
                    "--template",
                    str(template),
                    "--lua-filter",
                    str(folder / "filter.lua"),
                    "--wrap=preserve",
                    "--columns=2000",
                ],
            )
        except RuntimeError as e:
            raise ReportError(f"pandoc: {e}") from e
        source = folder / "paper.typ"
        source.write_text(text, encoding="utf-8")
        try:
            pdf = typst.compile(str(source), root=str(folder), timestamp=0)
        except Exception as e:
            raise ReportError(f"typst: {e}") from e
        if keep_figures:
            figures = sorted(folder.glob("*.svg"))
            with files.whole(keep_figures) as new:
                new.mkdir()
                for figure in figures:
                    (new / figure.name).write_bytes(figure.read_bytes())
                files.remove(keep_figures)
        return pdf


def _markdown(nb, folder: Path) -> tuple[dict, str]:
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
                parts.append(_verbatim(output.text))
                continue
            shown = output.data
            if Front.MIME in shown:
                front = shown[Front.MIME]
            elif "image/svg+xml" in shown or "image/png" in shown:
                parts.append(_picture(output, folder, f"cell{number:03d}-{k}"))
            elif "text/markdown" in shown:
                parts.append(shown["text/markdown"])
            elif "text/html" in shown:
                parts.append(shown["text/html"])
            elif "text/plain" in shown:
                parts.append(_verbatim(shown["text/plain"]))
    return front, "\n\n".join(parts) + "\n"


def _picture(output, folder: Path, name: str) -> str:
    import base64

    about = output.metadata.get("kd_utils", {})
    name = about.get("label", name)
    if "image/svg+xml" in output.data:
        path = folder / f"{name}.svg"
        path.write_text(output.data["image/svg+xml"], encoding="utf-8")
    else:
        path = folder / f"{name}.png"
        path.write_bytes(base64.b64decode(output.data["image/png"]))
    label = f"{{#{name}}}" if about else ""
    return f"![{about.get('caption', '')}]({path.name}){label}"


def _verbatim(text: str) -> str:
    return "```\n" + text.rstrip().replace("```", "'''") + "\n```"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
