"""What the figures are drawn from, against the records."""

import numpy as np
import pytest

from kd_utils.learning import data
from kd_utils.reporting import figures, plots


@pytest.fixture
def found(at_finished, loaded):
    return loaded


def drawn(monkeypatch, name: str) -> dict:
    """What the next figure hands to plots.NAME: its positional arguments by place, its keywords by name."""
    handed, draw = {}, getattr(plots, name)

    def spy(*args, **kwargs):
        handed.update(dict(enumerate(args)) | kwargs)
        return draw(*args, **kwargs)

    monkeypatch.setattr(plots, name, spy)
    return handed


def one(found, student, T, alpha):
    return found.records_of(found.cell(student, T, alpha))[0]


def test_heatmaps_say_the_accuracies_and_their_intervals(found, monkeypatch):
    handed = drawn(monkeypatch, "heatmaps")
    figures.accuracy(found)
    cell = found.cell("shuffle", 20.0, 0.5)
    assert handed[0]["shuffle"].loc[20, 0.5] == pytest.approx(
        100 * one(found, "shuffle", 20.0, 0.5).metrics["top1_best"]
    )
    half = 50 * (cell["high"] - cell["low"])
    mark = "=" if cell["tied"] else ""
    assert handed["notes"]["shuffle"].loc[20, 0.5] == f"{100 * cell['top1_best']:.1f}{mark}\n±{half:.1f}"
    baseline = 100 * one(found, "shuffle", None, 1.0).metrics["top1_best"]
    assert handed["centres"]["shuffle"] == pytest.approx(baseline)
    assert (handed[0]["shuffle"][1.0] == handed["centres"]["shuffle"]).all()


def test_the_mix_is_that_of_the_gradients(found, monkeypatch):
    handed = drawn(monkeypatch, "heatmaps")
    figures.mix(found)
    grid = handed[0]["shuffle"]
    assert grid[0.0].tolist() == [100.0, 100.0] and 1.0 not in grid
    history = one(found, "shuffle", 4.0, 0.5)["history"]
    ce, kl = (np.mean([row[k] for row in history]) for k in ("ce_grad", "kl_grad"))
    assert grid.loc[4, 0.5] == pytest.approx(100 * kl / (ce + kl)) and 0 < grid.loc[4, 0.5] < 100


def test_gains_of_classes_add_up_to_the_gain(found, monkeypatch):
    handed = drawn(monkeypatch, "per_class")
    figures.per_class(found)
    best = found.roles("shuffle")["best"]
    own = handed[0]["shuffle"].iloc[:, 0]
    assert list(own.index) == found.dataset["classes"]
    assert own.mean() == pytest.approx(100 * best["gain"])  # 5 val images of each class


def test_the_softened_images_are_those_of_the_logits(found, monkeypatch):
    handed = drawn(monkeypatch, "softened_beside")
    pictures = data.pictures(found.study)
    figures.softened(found, pictures)
    best = found.records_of(found.roles(found.labels[0])["best"])[0]
    every = found.teacher.val_logits
    labels = data.load(found.study).labels("val")
    assert len(handed[0]) == figures.IMAGES_SHOWN
    for example, picture in zip(handed[0], handed[3], strict=True):
        assert any(
            example["label"] == labels[i]
            and (pictures[i] == picture).all()
            and (every[i] == example["teacher"]).all()
            and (best.val_logits[i] == example["student"]).all()
            for i in range(len(every))
        )


def test_reliability_is_of_the_stored_confidences(found, monkeypatch):
    handed = drawn(monkeypatch, "reliability")
    figures.calibration(found)
    for student, diagrams in handed[0].items():
        for name, diagram in diagrams.items():
            count, confidence, accuracy = np.nan_to_num(diagram).T
            gap = (count * np.abs(confidence - accuracy)).sum() / count.sum()
            assert name.endswith(f"ECE {gap:.3f}"), student


def test_images_of_a_data_set_for_research_only_are_not_in_a_report(found):
    study = found.study.model_copy(update={"data": found.study.data.model_copy(update={"name": "tiny-imagenet"})})
    assert data.pictures(study) is None and data.pictures(found.study) is not None
    figures.softened(found, None)
