"""README.md and docs/ are up to date, short enough, and all their links lead somewhere."""

import re
from pathlib import Path

import generate
import pytest

PAGES = [*generate.pages(), generate.ROOT / "CONTRIBUTING.md", generate.ROOT / "CHANGELOG.md"]


def name(path: Path) -> str:
    return path.relative_to(generate.ROOT).as_posix()


@pytest.mark.parametrize("path", generate.pages(), ids=name)
def test_its_numbers_are_those_of_their_sources(path, monkeypatch):
    monkeypatch.delenv("KD_ROOT", raising=False)
    text = path.read_text(encoding="utf-8")
    assert text == generate.filled(text), "out of date; run: make docs"


def test_every_block_is_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in generate.pages())
    assert {block for block in generate.BLOCKS if f"<!-- begin: {block} -->" not in text} == set()


@pytest.mark.parametrize(
    "text", ["<!-- begin: gains -->\n", "<!-- begin: x -->\n<!-- end: x -->", "<!-- end: gains -->"]
)
def test_a_part_that_is_unknown_or_not_closed_is_refused(text):
    with pytest.raises(ValueError):
        generate.filled(text)


def test_every_key_of_a_study_has_a_meaning():
    rows = [line for line in generate.study_keys().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []


def test_the_readme_is_short(checkout):
    lines = (checkout / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 120] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_its_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []
