"""The widgets, moved by hand in Python; test_browser.py moves them in a browser."""

import re
import shutil

import numpy as np
import pytest

from kd_utils.learning import metrics
from kd_utils.learning import run as runs
from kd_utils.reporting import results, shown, stats, widgets


@pytest.fixture(autouse=True)
def forgotten():
    widgets._run.cache_clear()


def parts(panel, kind):
    return [w for w in panel.children if type(w).__name__ == kind]


def entropies(panel):
    return [float(x) for x in re.findall(r": ([\d.]+) nats", parts(panel, "HTML")[-1].value)]


def test_temperature_shows_val_images_and_stored_soft_targets(study_results):
    panel = widgets.temperature(study_results)
    student, source = parts(panel, "Dropdown")
    (image,), (T,) = parts(panel, "IntSlider"), parts(panel, "SelectionSlider")
    (picture,) = parts(panel, "Image")
    record = student.value
    assert source.index == 0 and source.label == "val", "a Dropdown without a value looks empty"
    image.value, T.value = 7, 10
    want = [metrics.entropy(r.val_logits[7:8], 10)[0] for r in (study_results.teacher, record)]
    assert entropies(panel) == pytest.approx(want, abs=1e-3)
    before = picture.value
    source.value = 2
    run = runs.student("small", student=record.student, T=record.T or 1, alpha=record.alpha)
    assert entropies(panel)[0] == pytest.approx(metrics.entropy(run.soft_targets[2][7:8], 10)[0], abs=1e-3)
    assert picture.value != before and image.max == 119


def test_the_grid_opens_a_cell_on_a_click(study_results):
    panel = widgets.grid(study_results)
    (student,), (board,), (picture,) = parts(panel, "Dropdown"), parts(panel, "VBox"), parts(panel, "Image")
    student.value = "efficient"
    buttons = [w for row in board.children for w in row.children if type(w).__name__ == "Button"]
    assert sorted(float(b.description) for b in buttons) == sorted(
        round(100 * r.metrics.top1_best, 2) for r in study_results.students if r.student == "efficient"
    )
    seen, signs, (sign, said) = set(), [], parts(panel, "HTML")
    sign.observe(lambda change: signs.append(change["new"]), names="value")
    for button in buttons:
        button.click()
        seen.add((said.value, picture.value))
    assert len(seen) == 5 and signs == ["computing …", ""] * 5
    assert ", T = 4, α = 0.5</b>" in "".join(told for told, _ in seen)


def test_a_cell_that_is_not_finished_leaves_its_place_empty(copied):
    """The others stay under their alpha."""
    for gone in ("T4-a0-", "baseline-"):
        shutil.rmtree(next((copied / "results" / "small" / "students").glob(f"efficient-{gone}*")))
    left = results.load("small")
    panel = widgets.grid(left)
    parts(panel, "Dropdown")[0].value = "efficient"
    shown = [[w.description or w.value for w in row.children] for row in parts(panel, "VBox")[0].children]
    top1 = {T: f"{100 * left.cell('efficient', T, 0.5)['top1_best']:.2f}" for T in (4, 20)}
    assert shown[0] == ["baseline", "–"] and shown[1] == ["", "α = 0", "α = 0.5"]
    assert shown[2] == ["T = 4", "–", top1[4]] and shown[3][2] == top1[20]


def test_two_cells_are_compared_image_by_image(study_results):
    panel = widgets.compare(study_results)
    first, second, kind = parts(panel, "Dropdown")
    a, b = (w.value.predictions for w in (first, second))
    only = np.flatnonzero((a["predicted"] == a["label"]) & (b["predicted"] != b["label"]))
    rights = [x["predicted"] == x["label"] for x in (a, b)]
    said = parts(panel, "HTML")[-1].value
    assert f"only the first is right: {len(only)};" in said
    assert f"these two trained models: p = {shown.p_value(stats.mcnemar(*rights))}" in said
    (number,), (picture,) = parts(panel, "IntSlider"), parts(panel, "Image")
    assert number.max == max(len(only) - 1, 0)
    kind.value = "both are wrong"
    before = picture.value
    number.value = number.max
    assert picture.value != before


def test_what_is_missing_is_said_in_the_panel(copied):
    for path in (copied / "results").rglob("val_logits.npy"):
        path.unlink()
    panel = widgets.temperature(results.load("small"))
    assert "logits are not kept in git" in parts(panel, "HTML")[0].value
