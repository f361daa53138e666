"""What a notebook shows of a training, without a notebook."""

import re

import pytest

from kd_utils.reporting import live


def row(epoch, loss, **more):
    return {"epoch": epoch, "loss": loss, "seconds": 2.0, **more}


@pytest.fixture
def training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    shown = live.Training()
    shown.epochs = 10
    shown.now = now
    return shown


def test_the_line_tells_epoch_accuracy_loss_and_the_time_left(training):
    assert training.text == "epoch 1 of 10"
    training.batch(0.5)  # the first batches compile, perhaps: the clock starts behind them
    training.now[0] = 3.0
    training.batch(1.5)
    assert training.text == "epoch 2 of 10, 26 s left"  # 3 s an epoch, 8.5 epochs
    training.epoch(row(1, 2.5))
    training.epoch(row(2, 1.5, holdout_top1=0.4125))
    training.batch(2.0)
    assert training.text.startswith("epoch 3 of 10, holdout top-1 41.2 %, loss 1.5, ")


def test_a_training_that_goes_on_counts_its_own_pace_alone(training):
    training.batch(6.1)
    training.now[0] = 10.0
    training.batch(7.1)
    assert training.text == "epoch 8 of 10, 29 s left"


def test_in_the_end_a_line_is_left(training):
    training.epoch(row(1, 2.5, val_top1=0.25))
    training.epoch(row(2, 1.25, val_top1=0.5))
    bundle, about = training._repr_mimebundle_()
    assert "<progress" in bundle["text/html"] and "<svg" in bundle["text/html"] and about["kd_utils"]["progress"]
    training.end()
    (bundle, _) = training._repr_mimebundle_()
    assert bundle["text/plain"] == "2 epochs in 4 s: val top-1 50.0 %, loss 1.25" and "<svg" not in bundle["text/html"]


def test_the_curves_have_a_point_an_epoch_within_the_picture():
    assert live.curves([row(1, 2.0)]) == ""
    svg = live.curves([row(3, 4.0), row(4, 3.0, val_top1=0.1), row(5, 2.0), row(6, 2.5, val_top1=0.3)])
    loss, accuracy = re.findall(r'points="([^"]+)"', svg)
    loss = [tuple(map(float, point.split(","))) for point in loss.split()]
    accuracy = [tuple(map(float, point.split(","))) for point in accuracy.split()]
    assert len(loss) == 4 and len(accuracy) == 2
    assert loss[0] == (live.LEFT, live.TOP) and loss[2][1] == live.TOP + live.HEIGHT  # the greatest and the least
    assert accuracy[1] == (live.LEFT + live.WIDTH, live.TOP) and accuracy[0][0] == loss[1][0]
    assert "val top-1, %" in svg and "epoch 3 to 6" in svg


def test_a_loss_that_stays_is_drawn():
    assert "polyline" in live.curves([row(1, 2.0), row(2, 2.0)])
