"""What the figures are drawn from, against the records."""

import numpy as np
import pytest

from kd_utils.learning import data
from kd_utils.reporting import figures, plots
from kd_utils.reporting.results import Point


def drawn(monkeypatch, name: str) -> dict:
    """What the next figure hands to plots.NAME: its positional arguments by place, its keywords by name."""
    handed, draw = {}, getattr(plots, name)

    def spy(*args, **kwargs):
        handed.update(dict(enumerate(args)) | kwargs)
        return draw(*args, **kwargs)

    monkeypatch.setattr(plots, name, spy)
    return handed


def one(study_results, student, T, alpha):
    return study_results.records_of(Point(student, T, alpha))[0]


def test_heatmaps_say_the_accuracies(study_results, monkeypatch):
    handed = drawn(monkeypatch, "heatmaps")
    figures.accuracy(study_results)
    cell = study_results.cell("efficient", 20.0, 0.5)
    assert handed[0]["efficient"].loc[20, 0.5] == pytest.approx(
        100 * one(study_results, "efficient", 20.0, 0.5).metrics.top1_best
    )
    assert handed["notes"]["efficient"].loc[20, 0.5] == f"{100 * cell['top1']:.1f}"
    baseline = 100 * one(study_results, "efficient", None, 1.0).metrics.top1_best
    assert handed["centres"]["efficient"] == pytest.approx(baseline)
    assert (handed[0]["efficient"][1.0] == handed["centres"]["efficient"]).all()


def test_gains_have_their_intervals(study_results, monkeypatch):
    handed, lines = drawn(monkeypatch, "heatmaps"), drawn(monkeypatch, "against_temperature")
    figures.gain(study_results)
    figures.temperature(study_results)
    cell = study_results.cell("efficient", 20.0, 0.5)
    value = f"{100 * cell['gain']:+.1f}".replace("-", "−")
    half = 50 * (cell["gain_high"] - cell["gain_low"])
    assert handed["notes"]["efficient"].loc[20, 0.5] == f"{value}\n±{half:.1f}"
    line = lines[0]["efficient"].loc[cell.point]
    assert line[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx(
        [100 * cell["gain"], 100 * cell["gain_low"], 100 * cell["gain_high"]]
    )


def test_the_mix_is_that_of_the_gradients(study_results, monkeypatch):
    handed = drawn(monkeypatch, "heatmaps")
    figures.mix(study_results)
    grid = handed[0]["efficient"]
    assert grid[0.0].tolist() == [100.0, 100.0] and 1.0 not in grid
    history = one(study_results, "efficient", 4.0, 0.5).history
    ce, kl = (np.mean([row[k] for row in history]) for k in ("ce_grad", "kl_grad"))
    assert grid.loc[4, 0.5] == pytest.approx(100 * kl / (ce + kl)) and 0 < grid.loc[4, 0.5] < 100


def test_gains_of_classes_add_up_to_the_gain(study_results, monkeypatch):
    handed = drawn(monkeypatch, "per_class")
    figures.per_class(study_results)
    best = study_results.roles("efficient")["best"]
    gains = handed[0]["efficient"].iloc[:, 0]
    assert list(gains.index) == study_results.dataset["classes"]
    assert gains.mean() == pytest.approx(100 * best["gain"])  # 5 val images of each class


def test_the_softened_images_are_those_of_the_logits(study_results, monkeypatch):
    handed = drawn(monkeypatch, "softened_beside")
    pictures = data.pictures(study_results.study)
    figures.softened(study_results, pictures)
    best = study_results.records_of(study_results.roles(study_results.labels[0])["best"].point)[0]
    every = study_results.teacher.val_logits
    labels = data.load(study_results.study).labels("val")
    assert len(handed[0]) == figures.IMAGES_SHOWN
    for example in handed[0]:
        assert any(
            example.label == labels[i]
            and (pictures[i] == example.picture).all()
            and (every[i] == example.teacher).all()
            and (best.val_logits[i] == example.student).all()
            for i in range(len(every))
        )


def test_reliability_is_of_the_stored_confidences(study_results, monkeypatch):
    handed = drawn(monkeypatch, "reliability")
    figures.calibration(study_results)
    for student, diagrams in handed[0].items():
        for name, diagram in diagrams.items():
            count, confidence, accuracy = np.nan_to_num(diagram).T
            gap = (count * np.abs(confidence - accuracy)).sum() / count.sum()
            assert name.endswith(f"ECE {gap:.3f}"), student


def test_images_of_a_data_set_for_research_only_are_not_in_a_report(study_results):
    study = study_results.study
    licensed = study.model_copy(update={"data": study.data.model_copy(update={"name": "tiny-imagenet"})})
    assert data.pictures(licensed) is None and data.pictures(study) is not None
    figures.softened(study_results, None)


def test_softening_shows_on_an_axis_that_stays_and_no_legend_hides_a_bar():
    """As explore.ipynb draws it, at any temperature."""
    rng = np.random.default_rng(0)
    says = {"teacher": rng.normal(0, 4, 10), "student": rng.normal(0, 4, 10)}
    picture, longest = np.zeros((8, 8, 3), np.uint8), {}
    for T in (1, 4, 100):
        figure = plots.softened_at(picture, 3, says, T, [f"class {c}" for c in range(10)])
        figure.draw_without_rendering()
        _, panel = figure.axes
        assert panel.get_xlim() == (0, 1)
        assert not panel.get_legend().get_window_extent().overlaps(panel.get_window_extent().padded(-1))
        longest[T] = max(bar.get_width() for bar in panel.patches)
    assert longest[1] > longest[4] > longest[100]
