"""What the eye meets: the report of the committed records, made once, without a kernel."""

import ast
import hashlib
import io
import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import typst
from PIL import Image
from pypdf import PdfReader

from kd_utils.reporting import figures, paper, plots

pytestmark = pytest.mark.xdist_group("paper")  # whose report one worker makes


@pytest.fixture(scope="module")
def report(kept, checkout, tmp_path_factory):
    """The executed analysis of the committed records: its text as Markdown, the PDF, its pages as pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KD_ROOT", raising=False)
        nb = executed(nbformat.read(checkout / "notebooks" / "analysis.ipynb", as_version=4))
        folder = tmp_path_factory.mktemp("paper")
        made = paper._Paper(nb, "report", folder)
        pdf, html = made.pdf(), made.html()
    (folder / "report.html").write_text(html, encoding="utf-8")
    pages = typst.compile(str(folder / "report.typ"), root=str(folder), format="png", ppi=40)
    pages = [np.asarray(Image.open(io.BytesIO(page)).convert("L")) for page in pages]
    text = " ".join(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages).split())
    return SimpleNamespace(
        nb=nb, folder=folder, body=made.text.split("---", 2)[2], pdf=pdf, html=html, pages=pages, text=text
    )


def executed(nb):
    """The notebook with the outputs of its cells, run in this process."""
    space = {}
    for cell in [cell for cell in nb.cells if cell.cell_type == "code"]:
        told = []
        space["display"] = told.append
        *before, last = ast.parse(cell.source).body
        exec(compile(ast.Module(before, []), "cell", "exec"), space)
        if isinstance(last, ast.Expr):
            told.append(eval(compile(ast.Expression(last.value), "cell", "eval"), space))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            space["study"] = "tiny-imagenet-20"
        bundles = [shown._repr_mimebundle_() for shown in told if hasattr(shown, "_repr_mimebundle_")]
        cell.outputs = [nbformat.v4.new_output("display_data", data=bundle) for bundle in bundles]
    return nb


def test_no_page_but_the_last_is_a_fifth_empty(report):
    for number, page in enumerate(report.pages[:-1], 1):
        inked = np.flatnonzero((page < 200).any(axis=1)) / len(page)
        lowest = inked[inked < 0.93].max()  # below stands the page's number
        assert lowest > 0.75, f"page {number} ends at {lowest:.0%}"


def test_what_is_shown_stands_behind_its_first_mention_and_near(report):
    shown = re.findall(r'"label": "(fig-[\w.-]+)"|\{#(tbl-[\w.-]+)\}', report.body)
    assert len(shown) > 15
    for label in (fig or tbl for fig, tbl in shown):
        mention = report.body.index(f"@{label}")
        place = re.search(rf'"label": "{label}"|\{{#{label}\}}', report.body).start()
        between = re.sub(
            r"```\{.output-figure\}.*?```|^\|.*?$|^: .*?$", "", report.body[mention:place], flags=re.S | re.M
        )
        assert mention < place, label
        assert len(between) < 4500 or label.startswith("tbl-grid"), label


def test_captions_have_two_lines_at_most(report):
    tables = re.findall(r"^: (.*) \{#", report.body, re.M)
    drawn = re.findall(r'"caption": "(.*?)", "label"', report.body)
    assert len(tables) > 8 and len(drawn) == 9
    for caption in tables + drawn:
        assert len(re.sub(r"[$\\]", "", caption)) < 240, caption  # a line of the PDF holds 125


def test_figures_are_in_the_paper_s_font(report, kept):
    fonts = {str(font) for page in PdfReader(io.BytesIO(report.pdf)).pages for font in used(page)}
    assert any("LibertinusSerif" in font for font in fonts)
    (panel, *_) = plots.heatmaps({"a": kept.grid("resnet18", "top1")}, notes={"a": kept.grid("resnet18", "n")}).values()
    assert {text.get_fontname() for text in panel.axes[0].texts} == {"Libertinus Serif"}


def used(page):
    return [font.get_object()["/BaseFont"] for font in page["/Resources"].get("/Font", {}).values()]


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture
def drawn(monkeypatch):
    """The panels of the next figures, which are not written."""
    panels = []
    monkeypatch.setattr(figures, "Figure", lambda drawn, *_: panels.extend(drawn.values()))
    return panels


def test_numbers_on_heatmaps_are_legible(kept, drawn):
    from matplotlib.colors import to_rgba

    for figure in (figures.accuracy, figures.gain, figures.mix):
        figure(kept)
    count = 0
    for panel in drawn:
        ax = panel.axes[0]
        (mesh,) = ax.collections
        colours = mesh.to_rgba(mesh.get_array())
        for text in ax.texts:
            column, row = (int(x) for x in text.get_position())
            bright, dark = sorted((luminance(to_rgba(text.get_color())), luminance(colours[row, column])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, text.get_text()
            count += 1
    assert count == 2 * (30 + 30 + 24)


def test_names_of_classes_are_whole_and_temperatures_share_an_axis(kept, drawn):
    figures.per_class(kept)
    names = {" ".join(label.get_text().split()) for panel in drawn for label in panel.axes[0].get_yticklabels()}
    assert names == set(kept.dataset["classes"])
    drawn.clear()
    figures.softened(kept)
    for panel in drawn:
        assert {ax.get_xlim() for ax in panel.axes} == {(0, 1)} and len(panel.axes) == len(figures.SOFT_TEMPERATURES)
        assert {label.get_text().replace("\n", " ") for label in panel.axes[0].get_yticklabels()} <= names


def test_the_list_of_records_lies_beside_it_and_its_hash_is_in_it(report):
    listed = (report.folder / "beside" / "records.csv").read_bytes()
    assert hashlib.sha256(listed).hexdigest() in report.text.replace(" ", "")


def test_the_published_study_is_named_where_its_claims_are_tested(report):
    told = report.text.split("Claims of the published study")[1]
    assert "Cichor (2025)" in told and "200 classes" in told.split("1a.")[0]
    assert "Report 2: Knowledge Distillation Progress" in report.text.split("References")[-1]


# --- the HTML


def test_the_html_is_built_for_every_reader(report):
    page = report.html
    assert '<html lang="en">' in page and page.count("<h1") == 1 and "<title>Temperature and weight" in page
    heads = re.findall(r"<th\b[^>]*>", page)
    assert len(heads) > 80 and all('scope="' in head for head in heads)
    assert page.count("<table") == page.count("<caption") == 12
    first = re.findall(r"<tr>\s*<(t[hd])\b[^>]*scope=\"(\w+)\"", page)
    assert len(first) == page.count("<tr>") and {("th", "col"), ("th", "row")} == set(first)
    says = re.findall(r"<img [^>]*alt=\"([^\"]*)\"", page)
    assert len(says) == page.count("<img ") == 20 and all(len(text) > 20 for text in says)
    words = re.sub(r"<style.*?</style>|<annotation.*?</annotation>|<[^>]*>", "", page.split("</header>")[1], flags=re.S)
    assert not re.findall(r".{9} (?:[=≥≤±<%] |%).{9}", words) and words.count("\xa0") > 200
    contents = re.search(r"<nav aria-label=\"Contents\">(.*?)</nav>", page, re.S)[1]
    sections = re.findall(r"<h2[^>]* id=\"([^\"]+)\"|<h2 id=\"([^\"]+)\"", page)
    assert set(re.findall(r'href="#([^"]+)"', contents)) == {a or b for a, b in sections} - {"abstract"}
    listed = page.split('id="references"')[-1]
    assert listed.count('<a href="https://arxiv.org/abs/') == report.text.split("References")[-1].count("arXiv:")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1200, "light")])
def test_the_html_is_accessible_and_fits(report, browser, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((report.folder / "report.html").as_uri())
    found = [(v["id"], v["nodes"][0]["html"][:150]) for v in axe.Axe().run(page).response["violations"]]
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    edges = page.evaluate(
        """() => [...document.querySelectorAll('p, li, h1, h2, figcaption, caption > div, img')]
            .map(e => e.getBoundingClientRect().right)"""
    )
    assert max(edges) <= width
    rows = page.evaluate(
        """() => [...document.querySelectorAll('figure')]
            .map(f => new Set([...f.querySelectorAll('img')].map(i => i.getBoundingClientRect().top)).size)"""
    )
    assert rows == ([1] * 3 + [2] + [1] * 5 if width == 1200 else [2] * 3 + [4] + [2] * 5)  # panels beside or below
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
