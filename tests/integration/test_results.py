import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, write_study

from kd_utils.learning import run as runs
from kd_utils.reporting import claims, figures, results, sentences, shown, stats, tables


def keep(root, *patterns):
    """Only the students' runs of these patterns."""
    folder = root / "results" / "small" / "students"
    wanted = {p for pattern in patterns for p in folder.glob(pattern)}
    for path in folder.iterdir():
        if path not in wanted:
            shutil.rmtree(path)


def test_each_cell_has_its_interval_and_its_test_against_the_baseline(at_finished, loaded):
    found = loaded
    for student in found.labels:
        cells = found.of(student)
        base = found.records_of(found.cell(student, None, 1.0))[0].predictions
        distilled = cells.dropna(subset="T")
        assert len(distilled) == 4 and (cells["n"] == 1).all()
        p = {}
        for i, cell in distilled.iterrows():
            own = found.records_of(cell)[0].predictions
            right, base_right = own["predicted"] == own["label"], base["predicted"] == base["label"]
            assert cell["gain"] == pytest.approx(right.mean() - base_right.mean())
            assert cell["low"] <= cell["top1_best"] <= cell["high"]
            assert cell["gain_low"] <= cell["gain"] <= cell["gain_high"]
            p[i] = stats.mcnemar(right, base_right)
        assert distilled["p"].to_dict() == pytest.approx(p)
        assert distilled["p_holm"].tolist() == pytest.approx(stats.holm(distilled["p"].to_numpy()).tolist())
        assert cells.iloc[0]["tied"] and np.isnan(cells.loc[cells["T"].isna(), "p"]).all()


def test_the_report_says_where_students_see_the_views_that_the_teacher_was_trained_on(at_finished, loaded):
    found = loaded
    named = [r["provenance"]["soft_targets_top1"] for r in found.students if r["T"] is not None]
    text = sentences.setting(found).markdown
    assert f"right class of {100 * named[0]:.2f} % of the images" in text and "was trained on" not in text
    teacher = found.study.teacher.model_copy(update={"seed": 0})
    same = dataclasses.replace(found, study=found.study.model_copy(update={"teacher": teacher}))
    epochs = min(8, found.study.view_count())
    assert f"trained on the first {epochs} views of seed 0" in sentences.setting(same).markdown


def test_several_seeds_are_averaged_and_counted(own):
    """A second seed for one cell and the baseline; the other cells keep one."""
    for T, alpha in ((4, 0.5), (4, 1)):
        runs.student("small", student="shuffle", T=T, alpha=alpha, seed=1).go()
    write_study(own, {**SMALL, "seeds": [0, 1]})
    found = results.load("small")
    cell = found.cell("shuffle", 4.0, 0.5)
    tops = [r.metrics["top1_best"] for r in found.records_of(cell)]
    assert cell["n"] == 2 and cell["top1_best"] == pytest.approx(np.mean(tops))
    assert cell["sd"] == pytest.approx(np.std(tops, ddof=1))
    base = [r.metrics["top1_best"] for r in found.records_of(found.cell("shuffle", None, 1.0))]
    assert cell["gain"] == pytest.approx(np.mean(tops) - np.mean(base))
    other = found.cell("shuffle", 20.0, 0.5)  # has seed 0 only, so it is compared to the baseline's seed 0
    assert other["n"] == 1 and other["gain"] == pytest.approx(other["top1_best"] - base[0])
    verdict = [v for v in claims.verdicts(found) if v.claim == "4" and v.source == "here" and v.student == "shuffle"]
    pooled = np.sqrt((np.var(tops, ddof=1) + np.var(base, ddof=1)) / 2)
    assert verdict[0].value == pytest.approx(1.96 * np.sqrt(2) * pooled)
    assert "±" in tables.summary(found, "shuffle").frame["Top-1, %"].iloc[0]
    assert "1 to 2 seeds a cell (in brackets)" in figures.accuracy(found).caption
    assert "1 to 2 seeds a cell;" in figures.temperature(found).caption
    one = next(c for _, c in found.of("shuffle").iterrows() if c["n"] == 1)
    found.cells.loc[one.name, "top1_best"] = 1.0  # now the best cell has fewer seeds than others
    assert "(1 of up to 2 seeds, which flatters it)" in sentences.grid(found).markdown


def test_T_and_alpha_are_chosen_on_holdout_where_there_is_one(own):
    found = results.load("small")
    assert found.chosen("shuffle") is None and tables.choice(found) is None
    assert "flattered" in sentences.choice(found).markdown
    cells = found.cells
    cells["top1_holdout"] = 1 - cells["top1_best"]  # the worst on val is the best on holdout
    worst = found.of("shuffle").iloc[-1]
    assert found.chosen("shuffle")["top1_best"] == worst["top1_best"]
    row = tables.choice(found).frame.iloc[found.labels.index("shuffle")]
    assert row["Price"].split(" ")[0] == shown.points(worst["top1_best"] - found.of("shuffle").iloc[0]["top1_best"])


def published_rows(rows):
    return pd.DataFrame(rows, columns=["T", "alpha", "val_acc_pct"]).assign(student="resnet18", role="", note="")


def answer(monkeypatch, found, claim, rows):
    monkeypatch.setattr(claims, "published", lambda: published_rows(rows))
    return [v for v in claims.verdicts(found) if v.claim == claim and v.source == "published"][0]


NONE = float("nan")


@pytest.mark.parametrize(
    ("claim", "rows", "says"),
    [
        ("1a", [(1, 0.5, 50), (4, 0.5, 55), (20, 0.5, 60), (NONE, 1, 40)], "supported"),
        ("1a", [(1, 0.5, 60), (4, 0.5, 55), (20, 0.5, 50), (NONE, 1, 40)], "contradicted"),
        ("1a", [(1, 0.5, 50.1), (4, 0.5, 50.0), (20, 0.5, 50.2), (NONE, 1, 40)], "undecided"),
        ("1a", [(1, 0.5, 50), (4, 0.9, 55), (NONE, 1, 40)], "no data"),  # no two cells of one alpha
        ("1b", [(4, 0, 60), (4, 0.5, 55), (4, 0.9, 50), (NONE, 1, 40)], "supported"),
        ("1b", [(4, 0, 50), (4, 0.5, 55), (4, 0.9, 60), (NONE, 1, 40)], "contradicted"),
        ("2", [(1, 0.9, 50), (2, 0.5, 51), (20, 0.5, 70), (NONE, 1, 60)], "supported"),
        ("2", [(1, 0.9, 65), (NONE, 1, 60)], "contradicted"),
        ("2", [(1, 0.1, 65), (NONE, 1, 60)], "no data"),
        ("3", [(4, 0.5, 65), (NONE, 1, 60)], "supported"),
        ("3", [(4, 0.5, 60.5), (NONE, 1, 60)], "undecided"),
        ("3", [(4, 0.5, 55), (NONE, 1, 60)], "contradicted"),
    ],
)
def test_verdicts_follow_the_figures(at_finished, loaded, monkeypatch, claim, rows, says):
    assert answer(monkeypatch, loaded, claim, rows).answer == says


def test_the_published_rows_contradict_lower_alpha_for_shufflenet(at_finished, loaded):
    """STUDY: alpha 0 at T = 20 and 100 are its two worst cells, alpha 0.5 there its two best."""
    found = claims.verdicts(loaded)
    there = {(v.claim, v.student): v for v in found if v.source == "published"}
    assert there["1b", "shufflenet_v2_x1_0"].answer == "contradicted"
    assert there["3", "resnet18"].answer == there["3", "shufflenet_v2_x1_0"].answer == "supported"
    assert there["3", "resnet18"].value == pytest.approx(0.0807)
    assert there["4", "shufflenet_v2_x1_0"].value == pytest.approx(0.0353)


def test_every_figure_and_table_names_its_records(at_finished, loaded):
    """The labels that the analysis shows are those that the provenance knows, and each has records."""
    import nbformat

    nb = nbformat.read(at_finished / "results" / "small" / "analysis.ipynb", as_version=4)
    shown = set()
    for output in (o for c in nb.cells for o in c.get("outputs", []) if "data" in o):
        if "kd_utils" in output.get("metadata", {}):
            shown.add(output["metadata"]["kd_utils"]["label"])
        elif "{#tbl-" in output["data"].get("text/markdown", ""):
            shown.add(output["data"]["text/markdown"].split("{#")[1].split("}")[0])
    sources = tables.sources(loaded)
    assert shown - {"tbl-provenance", "tbl-records"} == set(sources)
    assert all(sources.values())


def test_numbers_of_records_are_joined_to_ranges():
    assert tables._runs_of(["R3", "T1", "R1", "R2", "R7"]) == "T1, R1–R3, R7"


@pytest.mark.parametrize(
    "there", [["shuffle-baseline-*"], ["shuffle-T4-a0-*"], ["shuffle-baseline-*", "lcnet_050-T4-a0-*"]]
)
def test_an_unfinished_study_has_a_report_too(own, there):
    from pypdf import PdfReader

    from kd_utils.reporting import paper
    from kd_utils.study import load

    keep(own, *there)
    pdf = paper.make(load("small"))
    shown = " ".join(" ".join(p.extract_text() for p in PdfReader(pdf).pages).split())
    assert f"{len(there)} of 10 runs are done" in shown
    assert not re.search(r"\bnan\b", shown.lower()), re.findall(r".{30}\bnan\b.{30}", shown)
