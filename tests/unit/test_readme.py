"""The README's figures of the real study are those of the records that lie beside it."""

import re

import pytest

from kd_utils import paths
from kd_utils.reporting import results, shown, tables


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KD_ROOT", raising=False)
        try:
            yield results.load("tiny-imagenet-20")
        except results.NoResults:
            yield None


@pytest.fixture(scope="module")
def section() -> str:
    return (paths.CHECKOUT / "README.md").read_text(encoding="utf-8").split("## What was found")[1].split("\n## ")[0]


def rows(section: str, head: str) -> list[list[str]]:
    """The cells of the table whose first column's head is this."""
    lines = section.split(f"| {head} |")[1].splitlines()[2:]
    end = next(k for k, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[:end]]


NAMES = {"ShuffleNetV2 x1.0": "shufflenet_v2_x1_0", "ResNet-18": "resnet18"}


def test_its_tables_are_the_report_s(found, section):
    heads = [name for name in NAMES if f"| {name} |" in section]
    assert bool(heads) == bool(found)
    for head in heads:
        shown = tables.grid(found, NAMES[head]).frame
        for row in rows(section, head):
            _, T, alpha, seeds, top1, gain, p, nll, ece, agree = row
            (own,) = shown[(shown["T"] == T) & (shown["alpha"] == alpha)].to_dict("records")
            assert top1 == own["Top-1, %"].removesuffix(" =")
            assert (seeds, nll, ece, agree) == (own["n"], own["NLL"], own["ECE"], own["Agree, %"])
            assert T == "–" or (gain, p) == (own["Gain"], own["p"])


def test_its_roles_are_the_records(found, section):
    for head in (name for name in NAMES if f"| {name} |" in section):
        roles = found.roles(NAMES[head])
        for role, T, alpha, *_ in rows(section, head):
            cell = roles[role.split(" ")[0]]
            assert (shown.temperature(cell["T"]), f"{cell['alpha']:g}") == (T, alpha)
            if "chosen on held-out" in role:
                assert results.key(found.chosen(NAMES[head])) == results.key(cell)


def test_its_verdicts_are_the_report_s(found, section):
    values = set(tables.verdicts(found).frame["Value [95 %]"]) if found else set()
    said = re.findall(r"([+−]?\d+\.\d+)(?: points)? (\[[^]]+\])", section)
    assert bool(said) == bool(found)
    for value, interval in said:
        assert f"{value} {interval}" in values


def test_what_its_sentences_count_is_in_the_records(found, section):
    """How many cells are better, how many cannot be told from the best, the gains where T >= 4 and alpha <= 0.5."""
    better, tied, gains = {}, [], []
    for head in NAMES if found else ():
        cells = found.of(NAMES[head])
        distilled = cells.dropna(subset="T")
        better[head] = ((distilled["p_holm"] < results.LEAST_P) & (distilled["gain"] > 0)).sum(), len(distilled)
        tied.append(cells["tied"].sum() - 1)
        strong = 100 * distilled.loc[(distilled["T"] >= 4) & (distilled["alpha"] <= 0.5), "gain"]
        gains.append((f"{strong.min():.1f}", f"{strong.max():.1f}"))
    text = section.replace("\n", " ")
    said = re.findall(r"(\d+) of (\d+)(?: cells)? of (ResNet-18|ShuffleNetV2 x1\.0)", text)
    assert {head: (int(some), int(of)) for some, of, head in said} == better
    ranges = re.findall(r"(\d\.\d) to (\d\.\d)", text)
    assert sorted(ranges) == sorted(gains)
    assert ("which of these is best cannot be told" in text) == bool(tied and min(tied) > 0)


def test_what_it_says_of_the_best_cells_of_one_seed_is_in_the_records(found, section):
    """Each was the best of seed 0, and gained so much there and over all seeds."""
    text = section.replace("\n", " ")
    named = re.findall(r"(ResNet-18|ShuffleNetV2)'s \((\d+), (0\.\d)\)", text)
    gained = re.search(r"gained (\d\.\d) and (\d\.\d) points there, and gain (\d\.\d) and (\d\.\d) over three", text)
    assert bool(named) == bool(gained) == bool(found)
    for k, (head, T, alpha) in enumerate(named):
        student = NAMES.get(head, "shufflenet_v2_x1_0")
        runs = found.runs[(found.runs["student"] == student) & (found.runs["method"] == "kd")]
        first = runs[runs["seed"] == 0].sort_values("top1_best")
        best, base = first.iloc[-1], first[first["T"].isna()].iloc[0]
        cell = found.cell(student, float(T), float(alpha))
        assert (best["T"], best["alpha"], cell["n"]) == (float(T), float(alpha), 3)
        there, over = best["top1_best"] - base["top1_best"], cell["gain"]
        assert (gained[1 + k], gained[3 + k]) == (f"{100 * there:.1f}", f"{100 * over:.1f}")


def test_the_gains_in_its_sentences_are_the_report_s(found, section):
    prose = " ".join(line for line in section.splitlines() if not line.startswith("|"))
    said = re.findall(r"[+−]\d+\.\d+ ± \d+\.\d+", prose)
    further = tables.further(found) if found else None
    assert set(said) <= (set(further.frame["Gain"]) if further else set())


def test_its_cost_is_the_records(found, section):
    said = re.findall(r"The (\d+) runs took (\d+\.\d) hours of training", section)
    hours = sum(r["cost"]["train_seconds"] for r in found.students) / 3600 if found else 0
    assert said == ([(str(len(found.students)), f"{hours:.1f}")] if found else [])


def test_the_tests_that_it_names_are_there(checkout):
    named = set(re.findall(r"tests/[\w/]+\.py", (checkout / "README.md").read_text(encoding="utf-8")))
    assert named and not {path for path in named if not (checkout / path).is_file()}
