"""Where runs go side by side, and how long they will take, without running any."""

import pytest

from kd_utils import records
from kd_utils.running import pipeline
from kd_utils.study import Cell, load


def test_the_time_left_is_that_of_what_is_left(root):
    """One of two cells done in 100 s, the other at epoch 3 of 4: a quarter of 100 s."""
    a, b = Cell("x", 4.0, 0.5, 0), Cell("x", None, 1.0, 0)
    done = records.Record(root, {"cost": {"train_seconds": 100.0}})
    state = pipeline.State({}, {}, None, {a: done, b: None}, {}, {b.name: (3, 4, 25.0)}, 0, {})
    assert state.seconds_left() == (pytest.approx(25), [])
    other = Cell("y", None, 1.0, 0)  # a student of whom nothing is finished, an epoch of which took 7 s
    state = pipeline.State({}, {}, None, {a: done, other: None}, {}, {other.name: (3, 4, 7.0)}, 0, {})
    assert state.seconds_left() == (pytest.approx(7), [])
    state = pipeline.State({}, {}, None, {a: done, b: None, other: None}, {}, {b.name: (3, 4, 25.0)}, 0, {})
    assert state.seconds_left() == (pytest.approx(25), ["y"])  # nothing is known of it yet, and that is said


def test_slots_on_fake_devices(root, monkeypatch):
    study = load("small")
    monkeypatch.setattr(pipeline, "cores", lambda: 8)
    monkeypatch.setattr(pipeline, "_gpus", lambda: [])
    assert pipeline.slots(study, None, "auto") == [{}] * 8
    assert pipeline.slots(study.model_copy(update={"threads": 3}), None, "auto") == [{}] * 2
    assert pipeline.slots(study, 5, "cpu") == [{}] * 5
    monkeypatch.setattr(pipeline, "_gpus", lambda: ["0", "1", "2", "3"])
    assert pipeline.slots(study, None, "auto") == [{"CUDA_VISIBLE_DEVICES": g} for g in "0123"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in pipeline.slots(study, 6, "auto")] == list("012301")
    over_all = study.model_copy(update={"data_parallel": True})
    assert pipeline.slots(over_all, None, "auto") == [{"CUDA_VISIBLE_DEVICES": "0,1,2,3"}]


def test_visible_devices_are_respected(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert pipeline._gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pipeline._gpus() == []
