import html
import io
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbconvert.exporters import get_exporter
from pypdf import PdfReader

from kd_utils.reporting import paper, results, shown, tables


def text(pdf: bytes) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages).split())


def test_the_report_holds_the_metrics_of_the_records(at_finished, study_results):
    shown = text((at_finished / "report" / "small" / "report.pdf").read_bytes())
    for student in study_results.labels:
        ranked = study_results.cells_of(student)
        for cell in (ranked.iloc[0], ranked.iloc[-1]):
            assert f"{100 * cell['top1']:.2f}" in shown
            if cell["T"] == cell["T"]:
                assert f"± {50 * (cell['gain_high'] - cell['gain_low']):.2f}" in shown
            assert f"{cell['nll']:.3f}" in shown
    for record in study_results.teachers:
        assert f"{100 * record.metrics.top1_best:.2f}" in shown
    for record in [*study_results.teachers, *study_results.students]:
        assert record.id in shown
    for row in results.published().to_dict("records"):
        assert f"{row['val_acc_pct']:.2f}" in shown


def test_captions_are_numbered_and_cross_references_resolve(at_finished):
    shown = text((at_finished / "report" / "small" / "report.pdf").read_bytes())
    assert "Table 1:" in shown and "Figure 1:" in shown and "Figure 1 shows the accuracy" in shown
    assert "Equation 2" in shown and "(1)" in shown
    for sign in ("??", "@fig", "@tbl", "@eq", "yet)"):
        assert sign not in shown


def test_only_what_is_cited_is_in_the_references(at_finished):
    shown = text((at_finished / "report" / "small" / "report.pdf").read_bytes())
    listed = shown.split("References")[-1].split("Appendix")[0]
    assert "arXiv:1503.02531" in listed and "Alpaydin" in listed
    assert "Krizhevsky" not in listed and "Zhao" not in listed


def test_the_html_says_the_same_and_loads_nothing(at_finished):
    page = (at_finished / "report" / "small" / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page) and "@import" not in page
    assert "<math" in page and page.count("<figure") >= 9
    targets = set(re.findall(r'href="#([\w.-]+)"', page))
    assert {"fig-accuracy", "tbl-claims", "eq-model"} <= targets
    assert targets <= set(re.findall(r'id="([\w.-]+)"', page))
    pdf = text((at_finished / "report" / "small" / "report.pdf").read_bytes())
    for label, number in re.findall(r'href="#((?:fig|tbl)-[\w.-]+)">((?:Figure|Table) \d+)<', page):
        caption = re.search(rf'id="{label}".*?<(?:fig)?caption[^>]*>(.*?)</(?:fig)?caption>', page, re.S)[1]
        words = html.unescape(re.sub(r"<[^>]*>", "", caption)).split()
        assert " ".join(words[:2]) == number + ":"
        assert " ".join(words[:5]) in pdf, "the PDF numbers it otherwise"


def test_figures_lie_beside_it_as_svg(at_finished, study_results):
    names = {p.stem for p in (at_finished / "report" / "small" / "figures").iterdir()}
    assert names == {label for label in tables.sources(study_results) if label.startswith("fig-")}


def test_nbconvert_exports_the_same(at_finished, tmp_path):
    """To PDF as typed, to HTML as other programs find the format: by its name."""
    analysis = at_finished / "results" / "small" / "analysis.ipynb"
    words = ["nbconvert", "--to", "paper", "--output-dir", str(tmp_path), str(analysis)]
    typed = [str(Path(sys.executable).parent / "jupyter"), *words]
    done = subprocess.run(typed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html, _ = get_exporter("paperhtml")().from_filename(str(analysis))
    report = at_finished / "report" / "small"
    assert (tmp_path / "analysis.pdf").read_bytes() == (report / "report.pdf").read_bytes()
    assert html == (report / "report.html").read_text()


@pytest.mark.xdist_group("lab")
def test_jupyterlab_s_menu_has_it(lab, at_finished):
    """The server that JupyterLab asks lists the format and gives the same PDF."""

    def get(path: str) -> bytes:
        request = urllib.request.Request(f"{lab.address}/{path}", headers={"Authorization": f"token {lab.token}"})
        return urllib.request.urlopen(request, timeout=60).read()

    shutil.copy(at_finished / "results" / "small" / "analysis.ipynb", lab.folder / "analysis.ipynb")
    formats = json.loads(get("api/nbconvert"))
    assert formats["paper"]["output_mimetype"] == "application/pdf"
    assert formats["paperhtml"]["output_mimetype"] == "text/html"
    pdf = get("nbconvert/paper/analysis.ipynb?download=true")
    assert pdf == (at_finished / "report" / "small" / "report.pdf").read_bytes()


def test_a_plain_dataframe_and_a_picture_survive(tmp_path):
    import base64

    from PIL import Image

    f = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 0, 0)).save(f, "PNG")
    frame = pd.DataFrame({"left": [1], "right": [23456]})
    cells = [
        nbformat.v4.new_markdown_cell("# Heading\n\n50 % & $x_1$"),
        nbformat.v4.new_code_cell("hidden", outputs=[
            nbformat.v4.new_output("display_data", data={"text/html": frame.to_html(), "text/plain": "frame"}),
            nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(f.getvalue()).decode()}),
            nbformat.v4.new_output("stream", text="a line\n"),
        ]),
    ]  # fmt: skip
    nb = nbformat.v4.new_notebook(cells=cells)
    pdf, _ = paper.PaperExporter().from_notebook_node(nb)
    assert "23456" in text(pdf) and "a line" in text(pdf) and "hidden" not in text(pdf)
    assert len(PdfReader(io.BytesIO(pdf)).pages[0].images) == 1


def test_a_notebook_that_failed_makes_no_pdf():
    failed = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[failed])])
    with pytest.raises(paper.ReportError, match="cell 1 of the notebook failed: ValueError: no"):
        paper.PaperExporter().from_notebook_node(nb)


def test_a_table_s_special_characters_survive():
    frame = pd.DataFrame({"a|b": ["x_1 * $5 | 50%"], "n": ["1"]})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("t", outputs=[
        nbformat.v4.new_output("display_data", data=shown.Table(frame, "What # it & is", "t")._repr_mimebundle_())
    ])])  # fmt: skip
    pdf, _ = paper.PaperExporter().from_notebook_node(nb)
    assert "x_1 * $5 | 50%" in text(pdf) and "What # it & is" in text(pdf) and "a|b" in text(pdf)
