"""Names are data: whatever signs they have, the report shows them as typed, and runs and loads nothing."""

import html
import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from helpers import SMALL, write_study
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from kd_utils import data_notes, records
from kd_utils.reporting import paper, plots, shown
from kd_utils.running import pipeline

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # the figures' font has no glyph for some scripts
HOSTILE = [
    "<iframe src=/etc/passwd></iframe>",
    "<img src=http://127.0.0.1:9/x.png onerror=alert(1)>",
    "![x](/etc/passwd) ![y](http://127.0.0.1:9/y.png) [z](javascript:alert(1))",
    "<script>alert(1)</script>",
    '`#read("/etc/passwd")`{=typst} #read("/etc/passwd")',
    "@foo @fig-x [@foo; @bar] {#tbl-x} \\label{eq-x}",
    "$\\frac$ $x_1$ \\$ $",
    "= a -- b --- c ... -? 1. // d /* e */ ~ 'f' \"g\"",
    "1. a",
    "- a | b \\| c",
    "--- # :::",
    "\x1b[31m \x00 \x85 \u2028 \u202e \ufeff \udc80",
    "שלום مرحبا _x_ *y* ^z^ ~~w~~",
    "_private",
]
signs = st.sampled_from(
    "<>&\"'`*_{}[]()#+-.!|~^$@\\/=:;,%?\x00\x07\x1b\x7f\x85\u202e\u2066\u200f\ufeff\udc80שم aA1\t\n"
)
names = st.one_of(st.text(signs, min_size=1, max_size=25), st.text(min_size=1, max_size=25))


def notebook(name: str) -> nbformat.NotebookNode:
    """A notebook whose outputs have the name in every place that a report has for one."""
    text = shown.in_markdown(name)
    table = shown.Table(pd.DataFrame({"Name": [name], "n": [1]}), f"{text} and @tbl-t", "t")
    figure = shown.Figure(drawn(name), f"{text}: a figure", "f")
    outputs = []
    for one in (shown.Front(text, f"Study {text}", f"{text} is the abstract."), table, figure):
        made = one._repr_mimebundle_()
        data, metadata = made if isinstance(made, tuple) else (made, {})
        outputs.append(nbformat.v4.new_output("display_data", data=data, metadata=metadata))
    said = shown.Text(f"{text}\n\n**{text}**: of {text} (@{shown.label('tbl', name)}), @tbl-t.\n\n- {text}\n")
    outputs.append(nbformat.v4.new_output("display_data", data=said._repr_mimebundle_()))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("hidden", outputs=outputs)])


def drawn(name: str):
    history = pd.DataFrame({"epoch": [1, 2], "val_top1": [0.5, 0.6]})
    return plots.cell({name: history, "other": history}, "val_top1", {name: 0.5})


class Page(HTMLParser):
    """What a page says, and what in it could run or load something."""

    def __init__(self, text: str):
        super().__init__()
        self.said, self.found, self.reading = "", [], False
        self.feed(text)
        self.said = " ".join(self.said.split())

    def handle_starttag(self, tag, attrs):
        self.reading |= tag == "body"
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
            self.found.append(tag)
        for name, value in attrs:
            address = name in ("src", "href", "srcset", "action", "data", "xlink:href")
            cited = (
                tag == "a" and value and value.startswith("https://arxiv.org/abs/")
            )  # loads nothing until it is followed
            if name.startswith("on") or (address and not cited and not value.startswith(("data:image/", "#"))):
                self.found.append(f"{tag} {name}={value[:80]}")

    def handle_data(self, data):
        if self.reading:
            self.said += data


def inert(text: str) -> Page:
    """The page, in which nothing runs or names another address."""
    page = Page(text)
    assert page.found == []
    assert "default-src 'none'" in html.unescape(text.split("<style", 1)[0])
    return page


def same(name: str) -> None:
    nb = notebook(name)
    page, _ = paper.PaperHTMLExporter().from_notebook_node(nb, {"metadata": {"name": name}})
    typed, said = shown.visible(name), inert(page).said
    # title, subtitle, abstract, cell, two captions, and four times in the text
    assert not typed or said.count(typed) >= 10
    assert not re.search(r"no (fig|tbl|eq)-t yet", said)
    paper.PaperExporter().from_notebook_node(nb, {"metadata": {"name": name}})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_typed(name):
    same(name)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(names)
def test_any_name_is_shown_as_typed(name):
    same(name)


@settings(max_examples=300, deadline=None)
@given(names)
@example("\udc80\u202e")
def test_no_name_has_a_sign_that_ends_a_file_or_turns_the_text(name):
    text = shown.visible(name)
    assert all(unicodedata.category(c) not in ("Cc", "Cs") for c in text)
    text.encode()  # raises where a file may not hold it
    assert not {unicodedata.bidirectional(c) for c in text} & {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI", "PDF"}
    assert shown.plain(shown.in_markdown(name)) == text
    assert html.unescape(re.sub(r"</?span>", "", shown.in_html(name))) == text


@settings(max_examples=40, deadline=None)
@given(names)
@example("$\\frac$")
@example("$a$ _b \\$ $")
def test_a_plot_draws_names_and_no_mathematics(name):
    from matplotlib.text import Text

    shown_as, mathematics = Text(text=shown.in_plot(name))._preprocess_math(shown.in_plot(name))
    assert not mathematics and shown_as.removeprefix(" ") == shown.visible(name)


@settings(max_examples=100, deadline=None)
@given(names, names)
def test_a_label_is_one_name_s(a, b):
    assert re.fullmatch(r"t-[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", shown.label("t", a))
    assert (shown.label("t", a) == shown.label("t", b)) == (a == b)


def test_the_pdf_reads_as_typed():
    typed = "= a <b> #read(x) $y$ *c* [d](e) @f `g` ~ 1."
    pdf, _ = paper.PaperExporter().from_notebook_node(notebook(typed))
    pages = " ".join(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages).split())
    assert pages.count(typed) >= 8, pages


@pytest.mark.parametrize("kind", ["text/html", "text/markdown"])
def test_raw_markup_of_an_output_runs_and_loads_nothing(kind, tmp_path):
    secret = tmp_path / "secret.html"
    secret.write_text("<p>a secret</p>")
    raw = (
        f"<table onclick='x()'><tr onclick='x()'><td onclick='x()'>kept <a href='javascript:x()' onclick='x()'>it</a>"
        f"</td></tr></table><iframe src='{secret}'></iframe><img src='http://127.0.0.1:9/x.png' onerror='x()'>"
        f"<script>x()</script>\n\n![](http://127.0.0.1:9/x.png) ![]({secret}) [it](javascript:x)\n\n"
        f'```{{=html}}\n<script>x()</script>\n```\n\n`#panic("raw")`{{=typst}} `<script>x()</script>`{{=html}}'
    )
    output = nbformat.v4.new_output("display_data", data={kind: raw})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page, _ = paper.PaperHTMLExporter().from_notebook_node(nb)
    assert "a secret" not in page and "kept" in inert(page).said
    paper.PaperExporter().from_notebook_node(nb)


def test_what_a_cell_prints_may_hold_any_sign():
    outputs = [nbformat.v4.new_output("stream", text=f"{name}\n") for name in HOSTILE]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    page, _ = paper.PaperHTMLExporter().from_notebook_node(nb)
    assert HOSTILE[0] in inert(page).said
    paper.PaperExporter().from_notebook_node(nb)


STUDENT = "x__y__.-z_"  # names of folders are letters, digits, ., _ and -; these may mean something in Markdown


def rewrite(folder: Path, **changes) -> None:
    """Change a record, and its checksum with it; a dict is merged into the one that is there."""
    path = folder / "record.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    text = json.dumps(content, indent=1).removesuffix("\n}")
    path.write_text(f'{text}{records._CHECKSUM}{records._hash(text)}"\n}}\n')


@pytest.fixture
def hostile(copied) -> Path:
    """The finished study under hostile names: its title, a student, its classes, devices, versions and weights."""
    results = copied / "results" / "small"
    versions = {"torch": "2 #panic() @bar $y$"}
    for folder in (results / "students").glob("test_byobnet-*"):
        made = {"device_name": "<script>alert(1)</script> `x`{=typst}", "versions": versions}
        renamed = folder.name.replace("test_byobnet", STUDENT)
        rewrite(folder, id=renamed, student=STUDENT, provenance=made)
        folder.rename(folder.with_name(renamed))
    for folder in (results / "teachers").iterdir():
        rewrite(folder, provenance={"weights_from": "| <iframe src=/etc/passwd> [a](javascript:b)"})
    data = results / "data.json"
    content = json.loads(data.read_text())
    content["classes"] = HOSTILE[: len(content["classes"])]
    data_notes.write_about(data, content)
    study = {**SMALL, "title": "<iframe src=/etc/passwd> @foo #panic() $x$"}
    study["students"] = [{"model": "test_byobnet", "name": STUDENT}, SMALL["students"][1]]
    write_study(copied, study)
    return copied


def test_a_study_under_hostile_names_has_its_report(hostile, request):
    from kd_utils.study import load

    made = pipeline.make_report(load("small"), lambda event: None)
    page = made.with_name("report.html").read_text()
    said = inert(page).said
    assert "<iframe src=/etc/passwd> @foo #panic() $x$" in said
    assert said.count(STUDENT) > 10
    assert "<script>alert(1)</script> `x`{=typst}" in said and "2 #panic() @bar $y$" in said
    assert "| <iframe src=/etc/passwd> [a](javascript:b)" in said and "root:" not in page
    for label in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{label}"' in page
    quiet_in(request.getfixturevalue("browser"), made.with_name("report.html"))


def quiet_in(browser, page: Path) -> None:
    """The browser finds no script, handler or foreign address, asks for nothing and says nothing."""
    tab, asked, said = browser.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.goto(page.as_uri(), wait_until="load")
    found = tab.evaluate(
        """() => [...document.querySelectorAll('*')].flatMap(e => [
            ...(e.matches('script, iframe, object, embed, base, form') ? [e.tagName] : []),
            ...[...e.attributes].filter(a => a.name.startsWith('on')
                || (['src', 'href', 'action', 'srcset', 'xlink:href'].includes(a.name)
                    && !/^(#|data:image|https:..arxiv.org.abs.)/.test(a.value))).map(a => a.name + '=' + a.value)])"""
    )
    broken = tab.evaluate("() => [...document.images].filter(i => !i.naturalWidth).length")
    tab.close()
    assert found == [] and said == [] and broken == 0
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
