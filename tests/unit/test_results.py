"""What the committed records say, and what is said with a part of them: no training, and no notebook."""

import dataclasses
import hashlib
import io
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from kd_utils import study as study_of
from kd_utils.records import RecordError
from kd_utils.reporting import claims, figures, names, results, sentences, shown, stats, tables, widgets
from kd_utils.reporting.results import Point
from kd_utils.shelf import Shelf

STUDENTS = ("resnet18", "shufflenet_v2_x1_0")


def part(kept, wanted):
    """The same study with those of its runs that are wanted."""
    return dataclasses.replace(kept, students=[record for record in kept.students if wanted(record)])


@pytest.fixture(scope="module")
def one_seed(kept):
    return part(kept, lambda record: record.seed == 0)


@pytest.fixture(scope="module")
def told(kept):
    """All that the report shows of the kept records."""
    return every_part(kept)


@pytest.fixture(scope="module")
def library(kept):
    """statsmodels' fit of cell + seed, of each student."""
    cells = ["_".join(map(str, cell)) for cell in kept.runs[["method", "T", "alpha"]].itertuples(index=False)]
    runs = kept.runs.assign(cell=cells)
    return {s: smf.ols("top1_best ~ 0 + C(cell) + C(seed)", runs[runs["student"] == s]).fit() for s in STUDENTS}


@pytest.mark.parametrize("student", STUDENTS)
def test_gains_are_those_of_least_squares(kept, library, student):
    model, fit = kept.models[student], library[student]
    assert model.variance == pytest.approx(fit.scale) and model.freedom == fit.df_resid
    for point, cell in kept.distilled_of(student).iterrows():
        gain = fit.t_test(f"C(cell)[kd_{point.T}_{point.alpha}] - C(cell)[kd_nan_1.0]")
        assert cell["gain"] == pytest.approx(gain.effect[0])
        # images are in the residual already: they widen an interval by a little at most
        reach = (cell["gain_high"] - cell["gain_low"]) / 2
        low, high = gain.conf_int()[0]
        assert 0.97 < reach / ((high - low) / 2) < 1.1


@pytest.mark.parametrize("student", STUDENTS)
def test_a_row_s_gain_is_made_of_the_numbers_beside_it(kept, student):
    """Whatever seeds they have, two cells of a table can be subtracted from each other."""
    baseline = kept.row(Point.baseline(student))
    for _, cell in kept.cells_of(student).iterrows():
        assert cell["gain"] == pytest.approx(cell["top1"] - baseline["top1"], abs=1e-12)
        if cell["n"] == 3:
            assert cell["top1"] == pytest.approx(cell["top1_best"])
    for contrast in kept.contrasts(student):
        assert contrast.effect.value == pytest.approx(contrast.top1 - contrast.top1_against)


def test_verdicts_are_holm_s_over_a_student_s_cells(kept):
    for student in STUDENTS:
        cells = kept.distilled_of(student)
        assert cells["p_holm"].to_numpy() == pytest.approx(stats.holm(cells["p"]))
        different = cells["p_holm"] < stats.LEVEL
        assert set(cells.loc[different, "verdict"]) == {"better"} and (cells.loc[different, "gain"] > 0).all()
        assert set(cells.loc[~different, "verdict"]) <= {"same", "undecided"}
        assert cells.iloc[0]["among_best"] and not kept.further_of(student)["among_best"].any()


def test_the_contrasts_are_the_study_s(kept):
    """By default the plateau and the customary cell; else those of the file, against what it says."""
    plateau, customary = kept.contrasts("resnet18")
    assert len(plateau.cells) == plateau.asked == 12 and customary.cells == [Point("resnet18", 4.0, 0.5)]
    assert plateau.against == customary.against == [Point.baseline("resnet18")]
    assert customary.effect.value == kept.row(customary.cells[0])["gain"]
    asked = type(kept.study.asked_first()[0])(name="labels", cells=[[20, 0.5], [50, 0.5]], against=[[20, 0]])
    other = dataclasses.replace(kept, study=kept.study.model_copy(update={"contrasts": [asked]}))
    (labels,) = other.contrasts("resnet18")
    assert labels.asked == 2 and labels.cells == [Point("resnet18", 20.0, 0.5)]
    assert labels.against == [Point("resnet18", 20.0, 0.0)]
    assert labels.effect.value == pytest.approx(kept.row(labels.cells[0])["top1"] - kept.row(labels.against[0])["top1"])
    shown = tables.contrasts(other).formatted()
    assert shown["Cells"].iloc[0] == "1 of 2" and "in the study file" in tables.contrasts(other).caption
    twice = asked.model_copy(update={"cells": [(20, 0.5), (20, 0.5)], "against": [(4, 1), (20, 1)]})
    study = kept.study.model_copy(update={"contrasts": [twice]})
    (gain,) = dataclasses.replace(kept, study=study).contrasts("resnet18")
    assert gain.asked == 1 and gain.against == [Point.baseline("resnet18")]
    assert gain.effect.value == pytest.approx(kept.row(Point("resnet18", 20.0, 0.5))["gain"])
    assert "the software's defaults" in sentences.asked(kept).markdown
    assert "Labels, compared with $T$ = 20, $\\alpha$ = 0: " in sentences.asked(other).markdown


def test_a_margin_is_the_study_s(kept):
    wide = dataclasses.replace(kept, study=kept.study.model_copy(update={"margin": 4.0}))
    assert list(wide.distilled_of("resnet18")["verdict"]).count("same") > 0
    assert "within 4 points" in sentences.varies(wide).markdown and "a point" in sentences.varies(kept).markdown


def test_what_choosing_costs_stands_beside_winners(kept):
    table = tables.choice(kept).frame.set_index("student")
    for student in STUDENTS:
        chosen = kept.leave_a_seed_out(student)
        assert chosen.rounds == 3 and chosen.before > chosen.after  # luck does not come twice
        assert table.loc[student, "cost"] == pytest.approx(chosen.before - chosen.after)
        shown = f"{100 * (chosen.after - chosen.before):.2f}".replace("-", "−")
        assert f"a winner's gain changes by {shown}" in sentences.grid(kept).markdown
        assert f"came to {100 * chosen.after:+.2f} on the seed left out" in sentences.choice(kept).markdown


def test_the_winner_on_held_out_images_is_the_best_on_them(kept):
    cells = kept.cells_of("resnet18")
    assert kept.chosen("resnet18")["top1_holdout"] == cells["top1_holdout"].max()


def every_part(given):
    """All that the report shows of some results, as one text."""
    told = [
        sentences.front(given).abstract,
        *(
            made(given).markdown
            for made in (
                sentences.setting,
                sentences.teacher,
                sentences.varies,
                sentences.asked,
                sentences.grid,
                sentences.follows,
                sentences.choice,
                sentences.claimed,
                sentences.mix,
                sentences.learning,
                sentences.agreement,
                sentences.calibration,
                sentences.classes,
                sentences.further,
                sentences.cost,
                sentences.discussion,
                sentences.limits,
                sentences.conclusion,
                sentences.references,
                sentences.provenance,
            )
        ),
    ]
    made = [tables.contrasts, tables.choice, tables.verdicts, tables.beside_published, tables.further, tables.cost]
    drawn = [
        figures.accuracy,
        figures.gain,
        figures.temperature,
        figures.agreement,
        figures.per_class,
        figures.learning,
    ]
    told += [table.markdown() for table in (make(given) for make in made) if table is not None]
    told += [tables.grid(given, student).markdown() for student in given.labels]
    told += [tables.summary(given, student).markdown() for student in given.labels]
    with pytest.MonkeyPatch.context() as patch:  # their captions; drawing takes seconds
        patch.setattr(figures, "plots", mock.MagicMock())
        patch.setattr(figures, "Figure", lambda drawn, caption, label, says: SimpleNamespace(caption=caption))
        told += [figure.caption for figure in (draw(given) for draw in drawn) if figure is not None]
    return "\n".join(told)


def test_with_one_seed_there_is_no_verdict_and_the_report_says_why(one_seed):
    assert not one_seed.varied
    cells = one_seed.cells
    assert set(cells["verdict"]) == {"undecided", ""} and not cells["among_best"].any() and cells["p"].isna().all()
    assert {verdict.answer for verdict in claims.rows(one_seed) if verdict.claim != "7"} == {"undecided"}
    shown = every_part(one_seed)
    assert "of these trained models" in shown and "nothing is known of" in shown
    assert "*" not in notes_of_gains(one_seed)
    assert one_seed.leave_a_seed_out("resnet18") is None and "cannot be told" in shown


def notes_of_gains(given):
    """What is written into the cells of the heatmap of gains."""
    handed = mock.MagicMock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "plots", handed)
        patch.setattr(figures, "Figure", mock.MagicMock())
        figures.gain(given)
    return "".join(
        note for grid in handed.heatmaps.call_args.kwargs["notes"].values() for note in grid.to_numpy().ravel()
    )


def test_stars_are_verdicts(kept):
    verdicts = list(pd.concat([kept.distilled_of(student) for student in STUDENTS])["verdict"])
    assert notes_of_gains(kept).count("*") == verdicts.count("better") > 20 and "nan" not in notes_of_gains(kept)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda r: r.T is None and r.seed == 0,
        lambda r: (r.T, r.alpha, r.seed, r.method) == (4.0, 0.5, 0, "kd"),
        lambda r: r.T is None or (r.T, r.alpha, r.method) == (4.0, 0.5, "kd"),
        lambda r: r.T is not None and r.seed < 2,
        lambda r: (r.T is None and r.seed == 0) or (r.T is not None and r.seed == 1),
    ],
    ids=["baselines", "one cell", "one cell and baselines", "no baselines", "no common seed"],
)
def test_a_report_of_a_part_of_the_records(kept, wanted):
    shown = every_part(part(kept, wanted))
    assert not re.search(r"\bnan\b", shown.lower()), re.findall(r".{40}\bnan\b.{40}", shown)


def test_without_held_out_images_the_report_says_what_is_chosen_on(kept):
    dataset = {**kept.dataset, "counts": {**kept.dataset["counts"], "holdout": 0}}
    records = [
        r.model_copy(update={"metrics": r.metrics.model_copy(update={"top1_holdout": None})}) for r in kept.students
    ]
    without = dataclasses.replace(kept, dataset=dataset, students=records)
    assert without.chosen("resnet18") is None and "Best on held-out" not in tables.choice(without).formatted()
    assert "the very images that it is reported on" in sentences.choice(without).markdown


def test_two_runs_of_one_cell_side_by_side_are_of_the_same_seed(kept):
    pairs = kept.pairs_of(Point("resnet18", 100.0, 0.1), Point.baseline("resnet18"))
    assert [(a.seed, b.seed) for a, b in pairs] == [(0, 0)]


def test_of_two_cells_it_is_said_which_is_ahead_in_new_runs(kept, one_seed):
    good, bad = Point("resnet18", 100.0, 0.0), Point("resnet18", 1.0, 0.9)
    assert widgets._ahead(kept, good, bad).endswith("probability >0.99")
    assert widgets._ahead(kept, bad, good).endswith("probability <0.01")
    assert widgets._ahead(one_seed, good, bad) == widgets._ahead(kept, good, good) == ""


# --- claims


def published_rows(rows):
    frame = pd.DataFrame(rows, columns=["T", "alpha", "val_acc_pct"])
    return results._by_point(frame.assign(student="resnet18", role="", note="", method="kd")).drop(columns="method")


NONE = float("nan")


@pytest.mark.parametrize(
    ("claim", "rows", "says"),
    [
        ("1a", [(1, 0.5, 50), (4, 0.5, 55), (20, 0.5, 60), (NONE, 1, 40)], ["supported"]),
        ("1a", [(1, 0.5, 60), (4, 0.5, 55), (20, 0.5, 50), (NONE, 1, 40)], ["contradicted"]),
        ("1a", [(1, 0.5, 50.1), (4, 0.5, 50.0), (20, 0.5, 50.2), (NONE, 1, 40)], ["undecided"]),
        ("1a", [(1, 0.5, 50), (4, 0.1, 55), (NONE, 1, 40)], []),  # no two cells of one alpha
        ("1b", [(4, 0.5, 50), (20, 0.5, 55), (100, 0.5, 60), (1, 0.5, 90), (NONE, 1, 40)], ["supported"]),
        ("1b", [(4, 0.5, 60), (20, 0.5, 55), (100, 0.5, 50), (1, 0.5, 10), (NONE, 1, 40)], ["contradicted"]),
        ("1c", [(4, 0, 60), (4, 0.5, 60), (4, 0.9, 50), (NONE, 1, 40)], ["supported"]),
        ("1d", [(4, 0, 60), (4, 0.5, 50), (4, 0.9, 90), (NONE, 1, 40)], ["supported"]),
        ("1d", [(4, 0, 50), (4, 0.5, 60), (NONE, 1, 40)], ["contradicted"]),
        ("2", [(1, 0.9, 50), (2, 0.5, 51), (20, 0.5, 70), (NONE, 1, 60)], ["supported"]),
        ("2", [(1, 0.9, 50), (2, 0.5, 70), (NONE, 1, 60)], ["supported", "contradicted"]),  # cell by cell
        ("2", [(1, 0.1, 65), (NONE, 1, 60)], []),
        ("3", [(4, 0.5, 70), (NONE, 1, 60)], ["supported"]),
        ("3", [(4, 0.5, 60.5), (NONE, 1, 60)], ["undecided"]),
        ("3", [(4, 0.5, 50), (NONE, 1, 60)], ["contradicted"]),
        ("5", [(20, 0.5, 50), (100, 0.5, 60), (NONE, 1, 40)], ["contradicted"]),
    ],
)
def test_answers_follow_the_accuracies(kept, monkeypatch, claim, rows, says):
    monkeypatch.setattr(claims, "published", lambda: published_rows(rows))
    told = [v for v in claims.rows(kept) if v.claim == claim and v.origin == "published"]
    assert [verdict.answer for verdict in told] == says
    assert all(verdict.where for verdict in told) == (len(told) > 1 or not told)


def test_the_published_rows_answer_as_they_are_printed(kept, one_seed):
    """Alpha 0 at T = 20 and 100 are its worst cells of ShuffleNetV2, alpha 0.5 there the best."""
    there = {(v.claim, v.student): v for v in claims.rows(kept) if v.origin == "published"}
    assert there["1d", "shufflenet_v2_x1_0"].answer == "contradicted"
    assert there["3", "resnet18"].answer == there["3", "shufflenet_v2_x1_0"].answer == "supported"
    assert there["3", "resnet18"].value == pytest.approx(0.0807)
    assert there["4", "shufflenet_v2_x1_0"].value == pytest.approx(claims.printed_gap()) == pytest.approx(0.0353)
    assert dict(claims.published_teacher_gaps()) == pytest.approx({"resnet18": 15.0, "shufflenet_v2_x1_0": 7.85})


def test_the_published_rows_are_beside_the_same_model_whatever_it_is_called(kept):
    own, other = kept.study.students[1], kept.study.students[0]
    called = own.model_copy(update={"name": "mine"}), other.model_copy(update={"name": "resnet18"})
    renamed = {"resnet18": "mine", "shufflenet_v2_x1_0": "resnet18"}
    given = dataclasses.replace(
        kept,
        study=kept.study.model_copy(update={"students": list(called[::-1])}),
        students=[record.model_copy(update={"student": renamed[record.student]}) for record in kept.students],
    )
    before, after = (tables.beside_published(one).frame for one in (kept, given))
    pd.testing.assert_frame_equal(before, after)
    told, as_before = ([str(v) for v in claims.rows(one) if v.origin == "published"] for one in (given, kept))
    assert told == as_before
    assert set(tables.verdicts(given).formatted()["Student"]) == {"mine", "resnet18", "ResNet-18", "ShuffleNetV2 x1.0"}
    resnets = [student.model_copy(update={"model": "resnet34"}) for student in called]
    none = dataclasses.replace(given, study=given.study.model_copy(update={"students": resnets}))
    assert tables.beside_published(none).frame["here"].isna().all()


def test_every_accuracy_of_a_cell_is_of_the_same_seeds(kept):
    """Each is what least squares gives; the others are means over the cell's own runs."""
    runs = kept.runs[kept.runs["student"] == "resnet18"]
    for metric in ("top1_last", "top5", "top1_holdout"):
        values = {
            (Point.of(r.cell), r.seed): getattr(r.metrics, metric) for r in kept.students if r.student == "resnet18"
        }
        want = stats.adjusted(values)
        for point, cell in kept.cells_of("resnet18").iterrows():
            assert cell[metric] == pytest.approx(want[point])
    alone = runs[(runs["T"] == 100) & (runs["alpha"] == 0.1)]
    assert kept.cell("resnet18", 100, 0.1)["nll"] == pytest.approx(alone["nll"].mean())
    assert "with every seed" in tables.grid(kept, "resnet18").caption


def test_a_threshold_is_a_mean_difference_and_a_trend_a_slope(kept):
    """Over the whole grid both have formulas of their own."""
    here = {(v.claim, v.student): v for v in claims.rows(kept) if v.origin == "here" and not v.where}
    for student in STUDENTS:
        top1 = kept.grid(student, "top1")[[0.0, 0.1, 0.5, 0.9]]
        low, high = top1[[0.0, 0.1, 0.5]], top1.loc[[4, 10, 20, 100]]
        softened = low.loc[[4, 10, 20, 100]].to_numpy().mean() - low.loc[1].mean()
        assert here["1a", student].value == pytest.approx(softened)
        less_hard = high[[0.0, 0.1, 0.5]].to_numpy().mean() - high[0.9].mean()
        assert here["1c", student].value == pytest.approx(less_hard)
        plateau = low.loc[[4, 10, 20, 100]]
        slope = np.polyfit(np.log(plateau.index), plateau.mean(axis=1), 1)[0]
        assert here["1b", student].value == pytest.approx(slope * np.log(25))
        slope = np.polyfit(plateau.columns, plateau.mean(), 1)[0]
        assert here["1d", student].value == pytest.approx(-0.5 * slope)
        assert here["5", student].value == pytest.approx(top1.loc[100].mean() - top1.loc[20].mean())


def test_controls_answer_the_claims_that_ask_for_them(kept):
    """With cells of the controls in the records, taken here from others, nothing is left unanswered but they decide."""
    assert [claim.name for claim in claims.unanswered(kept)] == ["6", "9", "10", "11", "12"]
    as_method = {
        (20.0, 0.5): "permuted",
        (20.0, 0.1): "early_teacher",
        (10.0, 0.5): "random_teacher",
        (10.0, 0.1): "mse",
    }
    method = type(kept.study.methods[0])
    rows = [method(method=name, T=[1.0 if name == "mse" else T], alpha=[a]) for (T, a), name in as_method.items()]
    study = kept.study.model_copy(update={"methods": [*kept.study.methods, *rows]})
    moved = []
    for record in kept.students:
        name = as_method.get((record.T, record.alpha)) if record.method == "kd" else None
        if name and record.student == "shufflenet_v2_x1_0":
            T = {"permuted": 4.0, "early_teacher": 4.0, "random_teacher": 4.0, "mse": 1.0}[name]
            alpha = 0.1 if name == "mse" else 0.5
            moved.append(record.model_copy(update={"method": name, "T": T, "alpha": alpha}))
        elif record.student == "shufflenet_v2_x1_0":
            moved.append(record)
    given = dataclasses.replace(kept, study=study, students=moved)
    answered = {v.claim: v for v in claims.rows(given) if v.origin == "here"}
    assert {"6", "9", "10", "11", "12"} <= set(answered) and not claims.unanswered(given)
    model, student = given.models["shufflenet_v2_x1_0"], "shufflenet_v2_x1_0"
    early, plain = Point(student, 4.0, 0.5, "early_teacher"), Point(student, 4.0, 0.5)
    assert answered["9"].value == model.effect({early: 1.0, Point.baseline(student): -1.0}).value
    assert answered["12"].value == model.effect({plain: 1.0, early: -1.0}).value
    mse = {Point(student, 1.0, 0.1, "mse"): 1.0, Point(student, 100.0, 0.1): -1.0}
    assert answered["6"].value == model.effect(mse).value


def test_every_claim_is_told_with_who_makes_it_and_cited(kept):
    text, listed = shown.plain(sentences.claimed(kept).markdown), shown.plain(sentences.references(kept).markdown)
    for claim in claims.CLAIMS.values():
        assert claim.by in text and claim.says.rstrip(".").lower() in text.lower()
        assert not claim.reference or claim.reference.partition(" arXiv")[0] in listed
    assert "Cichor (2025)" in text and "support that softening helps" in sentences.front(kept).abstract


def test_claims_are_told_where_a_study_asks_for_them(kept, told):
    without = dataclasses.replace(kept, study=kept.study.model_copy(update={"claims": False}))
    assert sentences.claimed(without).markdown == "" and tables.verdicts(without) is None
    assert tables.beside_published(without) is None and not set(tables.sources(without)) & {
        "tbl-claims",
        "tbl-published",
    }
    assert "Cichor" not in every_part(without) and "Cichor" in told


# --- words


IDENTIFIER = re.compile(r"\b(?!x86_64)[a-z0-9]+_[a-z0-9_]+\b|\bresnet\d|\balpha\b|tiny-imagenet\b|\bdkd\b")


def test_prose_and_captions_have_names_and_no_identifiers(told):
    prose = re.sub(r"\$\$.*?\$\$|\$.*?\$|@[\w.-]+|`.*?`|\{#.*?\}|studies/\S+", "", told, flags=re.S)
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("|"))
    assert not IDENTIFIER.findall(prose)
    for name in (
        "ShuffleNetV2 x1.0",
        "ResNet-18",
        "EfficientNet-Lite0",
        "TinyImageNet",
        "DKD",
        "label smoothing",
        "$\\alpha$",
    ):
        assert name in told


def test_a_study_s_own_names_come_first(kept):
    students = [student.model_copy(update={"name": f"mine-{k}"}) for k, student in enumerate(kept.study.students)]
    assert names.of_students(kept.study.model_copy(update={"students": students})) == {
        x: x for x in ("mine-0", "mine-1")
    }
    twice = [kept.study.students[0].model_copy(update={"model": m}) for m in ("timm/resnet18", "torchvision/resnet18")]
    twice[0] = twice[0].model_copy(update={"model": "resnet18.a1_in1k"})
    called = names.of_students(kept.study.model_copy(update={"students": twice}))
    assert called == {"resnet18.a1_in1k": "resnet18.a1_in1k", "resnet18": "ResNet-18"}
    row = type(kept.study.methods[0])(method="dkd", name="ours")
    assert names.of_method(kept.study.model_copy(update={"methods": [row]}), "ours") == "ours"
    assert names.of_method(kept.study, "dkd") == "DKD" and names.of_model("resnet9000x") == "resnet9000x"


def test_a_model_of_one_s_own_is_called_as_its_code_calls_it(kept):
    own = {"model": "/somewhere/mine.py:TinyNet"}
    student = kept.study.students[0].model_copy(update=own)
    candidate = kept.study.teacher.candidates[0].model_copy(update=own)
    teacher = kept.study.teacher.model_copy(update={"candidates": [candidate]})
    study = kept.study.model_copy(update={"students": [student], "teacher": teacher})
    assert names.of_students(study) == {"TinyNet": "TinyNet"} and names.of_candidate(study, "TinyNet") == "TinyNet"


def test_views_are_told_as_they_are(kept):
    study = kept.study.model_copy(update={"views": 1})
    assert "teacher's logits for one view a seed" in sentences._views(study)
    only_flipped = study.model_copy(update={"augment": study_of.Augment(crop="none")})
    assert "image is a left-right flip with probability one half, a pure" in sentences._views(only_flipped)
    stored = study.model_copy(update={"augment": study_of.Augment(flip=False, crop="none")})
    assert sentences._views(stored).startswith("Every epoch shows the images as they are stored.")


def test_logits_from_elsewhere_have_no_parameters(kept):
    best, *others = kept.teachers
    none = best.model_copy(update={"provenance": best.provenance.model_copy(update={"parameters": 0})})
    shown = tables.leaderboard(dataclasses.replace(kept, teachers=[none, *others])).formatted()["Parameters, M"]
    assert shown.iloc[0] == "–" and "–" not in set(shown.iloc[1:])


def test_a_method_without_a_temperature_is_told_without_one(kept):
    assert "label smoothing ($\\alpha$ = 0.9)" in sentences.further(kept).markdown
    row = tables.further(kept).formatted().set_index("Method").loc["label smoothing"]
    assert set(row["T"]) == {"–"}


def test_it_is_said_of_the_methods_that_were_run_which_have_no_teacher(kept):
    both = "Self-distillation learns from the student's own baseline and label smoothing from nobody: what these two"
    assert both in sentences.further(kept).markdown
    smoothed = sentences.further(part(kept, lambda r: r.method in ("kd", "label_smoothing"))).markdown
    assert "Label smoothing learns from nobody: what it gains is not" in smoothed and "elf-dist" not in smoothed
    row = type(kept.study.methods[0])(method="mse", T=[1.0], alpha=[0.5])
    matched = part(kept, lambda r: r.method in ("kd", "self"))
    moved = [r if r.method == "kd" else r.model_copy(update={"method": "mse", "T": 1.0}) for r in matched.students]
    study = kept.study.model_copy(update={"methods": [row]})
    said = sentences.further(dataclasses.replace(kept, study=study, students=moved)).markdown
    assert "logit matching" in said and "learns from" not in said and "doing" not in said


def test_the_abstract_answers_in_words(kept, one_seed):
    abstract = sentences.front(kept).abstract
    assert len(abstract.split()) < 260 and not re.search(r"\b1[a-d]\b", abstract)
    assert "raises the accuracy of ShuffleNetV2 x1.0 by" in abstract and "helps both students" in abstract
    assert "has no clear effect on either student" in sentences.front(one_seed).abstract
    worse = dataclasses.replace(kept, study=kept.study.model_copy(update={"margin": 9.0}))
    assert "within 9 points of the baseline" in sentences.front(worse).abstract or "raises" in abstract


def test_records_are_listed_beside_the_report(kept):
    listed = tables.records(kept)
    rows = pd.read_csv(io.StringIO(listed.text), dtype=str, keep_default_na=False)
    every = [*kept.teachers, *kept.students]
    assert list(rows["record"]) == [record.id for record in every]
    assert [float(x) for x in rows["top1_best"]] == pytest.approx([r.metrics.top1_best for r in every], rel=1e-5)
    assert hashlib.sha256(listed.text.encode()).hexdigest() in sentences.provenance(kept).markdown


def outcome(study, name):
    """The table that a run's notebook ends in, by what each row is, and its sentence."""
    record = next(r for r in Shelf(study).students if r.cell.name == name)
    table = tables.outcome(study, record)
    return table.frame.set_index("role"), table.caption


def test_a_run_ends_in_its_gain_over_the_baseline(kept):
    rows, said = outcome(kept.study, "resnet18-T4-a0.5-s1")
    cell = kept.cell("resnet18", 4, 0.5)
    assert list(rows.index) == ["teacher", "baseline", "student"] and list(rows["seeds"]) == [1, 3, 3]
    assert rows.loc["student", "gain"] == pytest.approx(cell["gain"])
    assert rows.loc["student", "top1"] - rows.loc["baseline", "top1"] == pytest.approx(cell["gain"])
    assert rows.loc["student", "low"] < cell["gain"] < rows.loc["student", "high"]
    assert "With seed 1 the student has " in said and "It gains 5.38 points over the baseline." in said


def test_a_run_with_one_seed_is_compared_on_that_seed(kept):
    rows, said = outcome(kept.study.model_copy(update={"seeds": [0, 1]}), "resnet18-T2-a0.1-s0")  # it has no other
    top1 = {r.cell.name: r.metrics.top1_best for r in kept.students}
    paired = top1["resnet18-T2-a0.1-s0"] - top1["resnet18-baseline-s0"]
    assert rows.loc["student", "gain"] == pytest.approx(paired)
    assert "over images alone" in said and "brought to the same seeds" in said


def test_a_run_without_a_baseline_says_so_and_so_does_one_beside_damaged_records(kept, monkeypatch):
    baseline, said = outcome(kept.study, "resnet18-baseline-s0")
    assert list(baseline.index) == ["teacher", "baseline"] and said.startswith("With seed 0 the baseline has ")
    read = tables.read
    monkeypatch.setattr(tables, "read", lambda folder: None if "baseline" in folder.name else read(folder))
    rows, said = outcome(kept.study, "resnet18-T4-a0.5-s0")
    assert list(rows.index) == ["teacher", "student"] and said.endswith("to train it, set alpha = 1.")
    monkeypatch.setattr(tables, "read", mock.Mock(side_effect=RecordError("x/record.json: changed")))
    rows, said = outcome(kept.study, "resnet18-T4-a0.5-s0")
    assert list(rows.index) == ["teacher", "student"] and said.endswith("x/record.json\\: changed.")


def test_a_candidate_ends_among_those_that_are_trained(kept, monkeypatch):
    table = tables.outcome(kept.study, kept.teachers[1])
    assert list(table.frame["candidate"]) == [
        names.of_candidate(kept.study, record.teacher) for record in kept.teachers
    ]
    assert table.caption.endswith("All candidates are trained. The teacher is EfficientNet-Lite0.")
    monkeypatch.setattr(Shelf, "candidates", {**dict.fromkeys("ab"), "c": kept.teachers[1]})
    assert "1 of 3 candidates are trained" in tables.outcome(kept.study, kept.teachers[1]).caption
