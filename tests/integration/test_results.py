import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, write_study

from kd_utils.learning import run as runs
from kd_utils.reporting import claims, figures, results, sentences, stats, tables
from kd_utils.reporting.results import Point


def keep(root, *patterns):
    """Only the students' runs of these patterns."""
    folder = root / "results" / "small" / "students"
    wanted = {p for pattern in patterns for p in folder.glob(pattern)}
    for path in folder.iterdir():
        if path not in wanted:
            shutil.rmtree(path)


def test_each_cell_has_its_interval_and_its_test_against_the_baseline(study_results):
    for student in study_results.labels:
        cells, distilled = study_results.cells_of(student), study_results.distilled_of(student)
        base = study_results.records_of(Point.baseline(student))[0].predictions
        assert len(distilled) == 4 and (cells["n"] == 1).all()
        p = {}
        for point, cell in distilled.iterrows():
            predictions = study_results.records_of(point)[0].predictions
            right, base_right = predictions["predicted"] == predictions["label"], base["predicted"] == base["label"]
            assert cell["gain"] == pytest.approx(right.mean() - base_right.mean())
            assert cell["low"] <= cell["top1_best"] <= cell["high"]
            assert cell["gain_low"] <= cell["gain"] <= cell["gain_high"]
            p[point] = stats.mcnemar(right, base_right)
        assert distilled["p"].to_dict() == pytest.approx(p)
        assert distilled["p_holm"].tolist() == pytest.approx(stats.holm(distilled["p"].to_numpy()).tolist())
        assert cells.iloc[0]["tied"] and np.isnan(cells.loc[Point.baseline(student), "p"])


def test_a_cell_has_one_identity(study_results):
    """The point of a record, of a row of the cells and of the bootstrap are equal; the baseline's T is None."""
    of_records = {Point.of(record.cell) for record in study_results.students}
    assert of_records == set(study_results.cells.index) == set(study_results.bootstrap.hits)
    assert study_results.cells.index.is_unique and len(of_records) == 10
    for point, T in study_results.cells["T"].items():
        assert np.isnan(T) if point == Point.baseline(point.student) else T == point.T
        assert study_results.row(point).point == point == Point(point.student, point.T, point.alpha)
    assert study_results.cell("efficient", 4, 0.5).point == Point("efficient", 4.0, 0.5)
    assert study_results.cell("efficient", 5.0, 0.5) is None
    assert Point("efficient", 4.0, 0.5).words == "T = 4, alpha = 0.5" and Point.baseline("x").words == "the baseline"


def test_tables_keep_numbers_and_show_them_formatted(study_results):
    table = tables.grid(study_results, "efficient")
    pd.testing.assert_frame_equal(table.frame, study_results.cells_of("efficient"))
    for (_, cell), formatted in zip(table.frame.iterrows(), table.formatted().to_dict("records"), strict=True):
        half, tie = 50 * (cell["high"] - cell["low"]), " =" if cell["tied"] else ""
        assert formatted["Top-1, %"] == f"{100 * cell['top1_best']:.2f} ± {half:.2f}{tie}"
        assert formatted["T"] == ("–" if np.isnan(cell["T"]) else f"{cell['T']:g}")
        assert formatted["NLL"] == f"{cell['nll']:.3f}" and formatted["n"] == "1"
    head, rule, *rows = table.markdown().split("\n\n")[0].splitlines()
    assert head.startswith("| T | alpha | Top-1, % |") and set(rule) == set("|-:") and len(rows) == 5
    verdicts = tables.verdicts(study_results)
    assert verdicts.frame["value"].tolist() == pytest.approx(
        [verdict.value for verdict in claims.verdicts(study_results)], nan_ok=True
    )


def test_the_report_says_where_students_see_the_views_that_the_teacher_was_trained_on(study_results):
    named = [r.provenance.soft_targets_top1 for r in study_results.students if r.T is not None]
    text = sentences.setting(study_results).markdown
    assert f"right class of {100 * named[0]:.2f} % of the images" in text and "was trained on" not in text
    teacher = study_results.study.teacher.model_copy(update={"seed": 0})
    same = dataclasses.replace(study_results, study=study_results.study.model_copy(update={"teacher": teacher}))
    epochs = min(8, study_results.study.view_count())
    assert f"trained on the first {epochs} views of seed 0" in sentences.setting(same).markdown


def test_several_seeds_are_averaged_and_counted(copied):
    """A second seed for one cell and the baseline; the other cells keep one."""
    for T, alpha in ((4, 0.5), (4, 1)):
        runs.student("small", student="efficient", T=T, alpha=alpha, seed=1).go()
    write_study(copied, {**SMALL, "seeds": [0, 1]})
    study_results = results.load("small")
    cell = study_results.cell("efficient", 4.0, 0.5)
    tops = [r.metrics.top1_best for r in study_results.records_of(cell.point)]
    assert cell["n"] == 2 and cell["top1_best"] == pytest.approx(np.mean(tops))
    assert cell["sd"] == pytest.approx(np.std(tops, ddof=1))
    base = [r.metrics.top1_best for r in study_results.records_of(Point.baseline("efficient"))]
    assert cell["gain"] == pytest.approx(np.mean(tops) - np.mean(base))
    other = study_results.cell("efficient", 20.0, 0.5)  # has seed 0 only, so it is compared to the baseline's seed 0
    assert other["n"] == 1 and other["gain"] == pytest.approx(other["top1_best"] - base[0])
    verdicts = {(v.claim, v.source, v.student): v for v in claims.verdicts(study_results)}
    pooled = np.sqrt((np.var(tops, ddof=1) + np.var(base, ddof=1)) / 2)
    assert verdicts["4", "here", "efficient"].value == pytest.approx(1.96 * np.sqrt(2) * pooled)
    best = tables.summary(study_results, "efficient").frame.iloc[0]
    assert best["role"] == "best" and best["low"] < best["top1_best"] < best["high"]
    assert "1 to 2 seeds a cell (in brackets)" in figures.accuracy(study_results).caption
    assert "1 to 2 seeds a cell;" in figures.temperature(study_results).caption
    cells = study_results.cells_of("efficient")
    one_seed = cells.index[cells["n"] == 1][0]
    study_results.cells.loc[one_seed, "top1_best"] = 1.0  # now the best cell has fewer seeds than others
    assert "(1 of up to 2 seeds, which flatters it)" in sentences.grid(study_results).markdown


def test_T_and_alpha_are_chosen_on_holdout_where_there_is_one(copied):
    study_results = results.load("small")
    assert study_results.chosen("efficient") is None and tables.choice(study_results) is None
    assert "flattered" in sentences.choice(study_results).markdown
    cells = study_results.cells
    cells["top1_holdout"] = 1 - cells["top1_best"]  # the worst on val is the best on holdout
    worst = study_results.cells_of("efficient").iloc[-1]
    assert study_results.chosen("efficient")["top1_best"] == worst["top1_best"]
    row = tables.choice(study_results).frame.set_index("student").loc["efficient"]
    assert row["price"] == worst["top1_best"] - study_results.best("efficient")["top1_best"]
    if row["chosen"] == row["best"]:  # the cells may all be equally accurate
        assert np.isnan(row["price_low"]) and np.isnan(row["price_high"])
    else:
        assert row["price_low"] <= row["price"] <= row["price_high"]


def published_rows(rows):
    return pd.DataFrame(rows, columns=["T", "alpha", "val_acc_pct"]).assign(student="resnet18", role="", note="")


def answer(monkeypatch, study_results, claim, rows):
    monkeypatch.setattr(claims, "published", lambda: published_rows(rows))
    return [v for v in claims.verdicts(study_results) if v.claim == claim and v.source == "published"][0]


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
def test_verdicts_follow_the_accuracies(study_results, monkeypatch, claim, rows, says):
    assert answer(monkeypatch, study_results, claim, rows).answer == says


def test_the_published_rows_contradict_lower_alpha_for_shufflenet(study_results):
    """STUDY: alpha 0 at T = 20 and 100 are its two worst cells, alpha 0.5 there its two best."""
    verdicts = claims.verdicts(study_results)
    there = {(v.claim, v.student): v for v in verdicts if v.source == "published"}
    assert there["1b", "shufflenet_v2_x1_0"].answer == "contradicted"
    assert there["3", "resnet18"].answer == there["3", "shufflenet_v2_x1_0"].answer == "supported"
    assert there["3", "resnet18"].value == pytest.approx(0.0807)
    assert there["4", "shufflenet_v2_x1_0"].value == pytest.approx(0.0353)


def test_every_figure_and_table_names_its_records(at_finished, study_results):
    """The labels that the analysis shows are those that the provenance knows, and each has records."""
    import nbformat

    nb = nbformat.read(at_finished / "results" / "small" / "analysis.ipynb", as_version=4)
    shown = set()
    for output in (o for c in nb.cells for o in c.get("outputs", []) if "data" in o):
        if "kd_utils" in output.get("metadata", {}):
            shown.add(output["metadata"]["kd_utils"]["label"])
        elif "{#tbl-" in output["data"].get("text/markdown", ""):
            shown.add(output["data"]["text/markdown"].split("{#")[1].split("}")[0])
    sources = tables.sources(study_results)
    assert shown - {"tbl-provenance", "tbl-records"} == set(sources)
    assert all(sources.values())


def test_numbers_of_records_are_joined_to_ranges():
    assert tables._ranges(["R3", "T1", "R1", "R2", "R7"]) == "T1, R1–R3, R7"


@pytest.mark.parametrize(
    "there", [["efficient-baseline-*"], ["efficient-T4-a0-*"], ["efficient-baseline-*", "test_byobnet-T4-a0-*"]]
)
def test_an_unfinished_study_has_a_report_too(copied, there):
    from pypdf import PdfReader

    from kd_utils.running import pipeline
    from kd_utils.study import load

    keep(copied, *there)
    pdf = pipeline.make_report(load("small"), lambda event: None)
    shown = " ".join(" ".join(p.extract_text() for p in PdfReader(pdf).pages).split())
    assert f"{len(there)} of 10 runs are done" in shown
    assert not re.search(r"\bnan\b", shown.lower()), re.findall(r".{30}\bnan\b.{30}", shown)
