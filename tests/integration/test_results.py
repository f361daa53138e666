import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from kd_utils.reporting import claims, sentences, tables
from kd_utils.reporting.results import Point
from kd_utils.reporting.shown import Figure


def keep(root, *patterns):
    """Only the students' runs of these patterns."""
    folder = root / "results" / "small" / "students"
    wanted = {p for pattern in patterns for p in folder.glob(pattern)}
    for path in folder.iterdir():
        if path not in wanted:
            shutil.rmtree(path)


def test_with_one_seed_each_cell_has_the_interval_of_its_trained_model(study_results):
    for student in study_results.labels:
        cells, distilled = study_results.cells_of(student), study_results.distilled_of(student)
        base = study_results.records_of(Point.baseline(student))[0].predictions
        assert len(distilled) == 4 and (cells["n"] == 1).all()
        for point, cell in distilled.iterrows():
            predictions = study_results.records_of(point)[0].predictions
            difference = (predictions["predicted"] == predictions["label"]).astype(float)
            difference -= base["predicted"] == base["label"]
            reach = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
            assert cell["gain"] == pytest.approx(difference.mean())
            assert cell["gain_high"] - cell["gain_low"] == pytest.approx(2 * reach, rel=1e-3)
            assert cell["top1"] == pytest.approx(cell["top1_best"]) and cell["verdict"] == "undecided"


def test_a_cell_has_one_identity(study_results):
    """The point of a record, of a row of the cells and of the models are equal; the baseline's T is None."""
    of_records = {Point.of(record.cell) for record in study_results.students}
    of_models = {point for model in study_results.models.values() for point in model.cells}
    assert of_records == set(study_results.cells.index) == of_models
    assert study_results.cells.index.is_unique and len(of_records) == 10
    for point, T in study_results.cells["T"].items():
        assert np.isnan(T) if point == Point.baseline(point.student) else T == point.T
        assert study_results.row(point).point == point == Point(point.student, point.T, point.alpha)
    assert study_results.cell("efficient", 4, 0.5).point == Point("efficient", 4.0, 0.5)
    assert study_results.cell("efficient", 5.0, 0.5) is None
    assert Point("efficient", 4.0, 0.5).words == "T = 4, α = 0.5" and Point.baseline("x").words == "the baseline"
    assert Point.at("x", 1.0, 1.0) == Point.baseline("x") and Point.at("x", 4.0, 0.5) == Point("x", 4.0, 0.5)


def test_tables_keep_numbers_and_show_them_formatted(study_results):
    table = tables.grid(study_results, "efficient")
    pd.testing.assert_frame_equal(table.frame, study_results.cells_of("efficient"))
    for (_, cell), formatted in zip(table.frame.iterrows(), table.formatted().to_dict("records"), strict=True):
        half = "" if np.isnan(cell["T"]) else f" ± {50 * (cell['gain_high'] - cell['gain_low']):.2f}"
        assert formatted["Top-1, %"] == f"{100 * cell['top1']:.2f}"
        assert formatted["Gain"] == f"{100 * cell['gain']:+.2f}{half}".replace("-", "−")
        assert formatted["T"] == ("–" if np.isnan(cell["T"]) else f"{cell['T']:g}")
        assert formatted["NLL"] == f"{cell['nll']:.3f}" and formatted["n"] == "1"
    head, rule, *rows = table.markdown().split("\n\n")[0].splitlines()
    assert head.startswith("| *T* | *α* | Top-1, % |") and set(rule) == set("|-:") and len(rows) == 5
    verdicts = tables.verdicts(study_results)
    assert verdicts.frame["value"].tolist() == pytest.approx(
        [verdict.value for verdict in claims.rows(study_results)], nan_ok=True
    )


def test_the_report_says_where_students_see_the_views_that_the_teacher_was_trained_on(study_results):
    named = [r.provenance.soft_targets_top1 for r in study_results.students if r.T is not None]
    text = sentences.setting(study_results).markdown
    assert f"right class of {100 * named[0]:.2f} % of the images" in text and "was trained on" not in text
    teacher = study_results.study.teacher.model_copy(update={"seed": 0})
    same = dataclasses.replace(study_results, study=study_results.study.model_copy(update={"teacher": teacher}))
    epochs = min(8, study_results.study.view_count())
    assert f"trained on the first {epochs} views of seed 0" in sentences.setting(same).markdown


def test_every_figure_and_table_names_its_records(at_finished, study_results):
    """The labels that the analysis shows are those that the provenance knows, and each has records."""
    import nbformat

    nb = nbformat.read(at_finished / "results" / "small" / "analysis.ipynb", as_version=4)
    shown = set()
    for output in (o for c in nb.cells for o in c.get("outputs", []) if "data" in o):
        if Figure.MIME in output["data"]:
            shown.add(output["data"][Figure.MIME]["label"])
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
