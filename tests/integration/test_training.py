import numpy as np
import pytest
import torch
from torch import nn

from kd_utils import machine
from kd_utils.learning import losses, models, training
from kd_utils.learning.views import View
from kd_utils.learning.weights import fingerprint
from kd_utils.schema import Augment, Model, Train

pytestmark = pytest.mark.numeric
RNG = np.random.default_rng(0)
LABELS = torch.from_numpy(RNG.integers(0, 4, 50))
IMAGES = torch.from_numpy(
    (RNG.integers(0, 60, (50, 16, 16, 3)) + 45 * LABELS.numpy()[:, None, None, None]).astype(np.uint8)
)
AUGMENT = Augment(shift=2)


LARGER = IMAGES.repeat_interleave(2, 1).repeat_interleave(2, 2)


def make(name="test_byobnet", size=16):
    torch.manual_seed(0)
    return models.create(Model(model=name), 4, size)


def fit(model, train, images=IMAGES, labels=LABELS, score=None, on_epoch=None, **kwargs):
    torch.set_num_threads(1)
    given = {
        "loss": lambda logits, labels, _: losses.ce_loss(logits, labels),
        "view": lambda epoch: View(AUGMENT, 0, epoch, 50),
        "seed": 0,
    }
    trainer = training.Trainer(model, images, labels, train=train, **{**given, **kwargs})
    return trainer.fit(score or (lambda model, epoch: {"score": accuracy(model, images)}), on_epoch=on_epoch)


def accuracy(model, images=IMAGES):
    return float((training.predict_logits(model, images).argmax(1) == LABELS.numpy()).mean())


def coloured(count=50):
    """Images whose class is the colour that is bright, whatever flips and shifts do: linearly separable by far."""
    images = RNG.integers(0, 60, (count, 16, 16, 3))
    labels = np.arange(count) % 4
    for colour in range(3):  # the fourth class is dark
        images[labels == colour, :, :, colour] += 150
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 1e-3), ("adam", 1e-3), ("adamw", 1e-3)])
def test_it_learns(optimizer, lr):
    """Softmax regression, convex, on classes that no rounding can confuse."""
    images, labels = coloured()
    torch.manual_seed(0)
    model = models.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), 16)

    def score(model, epoch):
        top1 = float((training.predict_logits(model, images).argmax(1) == labels.numpy()).mean())
        return {"score": top1, "val_top1": top1}

    done = fit(model, Train(epochs=8, batch_size=16, lr=lr, optimizer=optimizer), images, labels, score=score)
    assert done.history[-1]["loss"] < 0.5 * done.history[0]["loss"] and done.best_score == 1
    assert [row["epoch"] for row in done.history] == list(range(1, 9))
    assert done.best_score == max(row["val_top1"] for row in done.history)
    assert done.history[done.best_epoch - 1]["val_top1"] == done.best_score


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, schedule, optimizer):
    """Interrupted after each epoch by an exception, started anew from the checkpoint: every bit is the same."""
    train = Train(epochs=3, batch_size=16, lr=0.003, schedule=schedule, optimizer=optimizer)
    whole = fit(make("mobilenetv3_small_050"), train)  # a model with dropout: torch's generator matters
    pieces = None
    for _ in range(3):

        class Killed(Exception):
            pass

        def stop(row):
            raise Killed

        with pytest.raises(Killed):
            fit(make("mobilenetv3_small_050"), train, checkpoint=tmp_path / "c.pt", on_epoch=stop)
    pieces = fit(make("mobilenetv3_small_050"), train, checkpoint=tmp_path / "c.pt")
    for a, b in zip(whole.history, pieces.history, strict=True):
        assert {k: v for k, v in a.items() if "second" not in k} == {k: v for k, v in b.items() if "second" not in k}
    assert fingerprint(whole.last) == fingerprint(pieces.last)
    assert fingerprint(whole.best) == fingerprint(pieces.best)
    assert whole.best_epoch == pieces.best_epoch


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_training_killed_within_an_epoch_goes_on_to_the_bit(tmp_path, monkeypatch, batches):
    """Killed again and again after some batches, each time with a checkpoint within the epoch: the same bits."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))
    train = Train(epochs=2, batch_size=16, lr=0.003)  # four batches an epoch
    whole = fit(make("mobilenetv3_small_050"), train)  # a model with dropout: torch's generator matters

    class Killed(Exception):
        pass

    def attempt():
        left = batches

        def loss(*given):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return losses.ce_loss(*given)

        torch.manual_seed(0)  # what a new process begins with is not what the training needs
        return fit(make("mobilenetv3_small_050"), train, loss=loss, checkpoint=tmp_path / "c.pt")

    pieces, kills = None, 0
    while pieces is None:
        try:
            pieces = attempt()
        except Killed:
            kills += 1
            assert kills < 10
    assert kills == (2 * 4 - 1) // batches
    for a, b in zip(whole.history, pieces.history, strict=True):
        assert {k: v for k, v in a.items() if "second" not in k} == {k: v for k, v in b.items() if "second" not in k}
    assert fingerprint(whole.last) == fingerprint(pieces.last)


def test_a_model_whose_weights_carry_a_version_goes_through(tmp_path):
    train = Train(epochs=2, batch_size=25)
    done = fit(make("mnasnet0_5"), train, checkpoint=tmp_path / "c.pt")
    again = fit(make("mnasnet0_5"), train, checkpoint=tmp_path / "c.pt")
    assert fingerprint(done.last) == fingerprint(again.last)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(training.TrainingError, match=r"checkpoint\.pt.*delete it"):
        fit(make(), Train(epochs=1), checkpoint=path)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    first, other = tmp_path / "T4-a0.1" / "c.pt", tmp_path / "T4-a0.9" / "c.pt"
    fit(make(), Train(epochs=1), checkpoint=first)
    first.parent.rename(other.parent)
    with pytest.raises(training.TrainingError, match=r"c\.pt.*of the run 'T4-a0.1', and this is 'T4-a0.9'.*delete it"):
        fit(make(), Train(epochs=1), checkpoint=other)


def test_a_loss_that_is_not_finite_stops_with_its_epoch():
    with pytest.raises(training.TrainingError, match=r"epoch 1; lower train\.lr"):
        fit(make(), Train(epochs=3), loss=lambda x, y, _: losses.Loss(*[x.sum() * float("nan")] * 5))


def test_patience_stops_and_eval_every_spares():
    scores = iter([0.5, 0.6, 0.6, 0.1, 0.9])
    done = fit(
        make(),
        Train(epochs=20, batch_size=25, patience=2, eval_every=2),
        score=lambda model, epoch: {"score": next(scores)},
    )
    assert len(done.history) == 8 and done.best_epoch == 4


def test_every_epoch_sees_every_image_once_and_rows_of_extra_stay_with_their_images():
    seen = []

    def loss(logits, labels, extra):
        assert torch.equal(extra[:, 0], labels)
        seen.append(extra[:, 1])
        return losses.ce_loss(logits, labels)

    extra = torch.stack([LABELS, torch.arange(50)], 1)
    fit(make(), Train(epochs=2, batch_size=16), loss=loss, extra=lambda epoch: extra)
    seen = torch.cat(seen)
    assert sorted(seen[:50].tolist()) == sorted(seen[50:].tolist()) == list(range(50))
    assert not torch.equal(seen[:50], seen[50:])


def test_a_last_batch_of_one_image_is_left_out():
    seen = []

    def loss(logits, labels, _):
        seen.append(len(labels))
        return losses.ce_loss(logits, labels)

    fit(make(), Train(epochs=1, batch_size=49), loss=loss)
    assert seen == [49]


def test_training_is_in_train_mode_after_an_evaluation_and_predicting_is_in_eval_mode():
    model, modes = make(), []

    def loss(logits, labels, _):
        modes.append(model.training)
        return losses.ce_loss(logits, labels)

    fit(model, Train(epochs=3, batch_size=25), loss=loss)
    assert modes == [True] * 6
    before = fingerprint(model.backbone.state_dict())
    model.train()
    one = training.predict_logits(model, IMAGES, batch_size=50)
    assert model.training and fingerprint(model.backbone.state_dict()) == before
    other = training.predict_logits(model, IMAGES, batch_size=7)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max())


def small() -> models.Classifier:
    """Without batch normalisation, and compiled in seconds."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, stride=4, padding=1), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(512, 4)
    return models.Classifier(torch.nn.Sequential(*layers), 32)


@pytest.mark.skipif(not machine.compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(machine.compiles() is False, reason="torch.compile makes no code for x86 without AVX2")
def test_a_compiled_model_trains_as_the_plain_one(tmp_path, monkeypatch):
    """Batches of full size go through the compiled model, the last one through the plain one, on the same weights."""
    monkeypatch.setenv("KD_ROOT", str(tmp_path))
    train = Train(epochs=2, batch_size=16, optimizer="sgd", lr=0.01)
    plain = fit(small(), train, images=LARGER)
    model, seen = small(), []
    forward = models.compiled(model)
    forward.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    compiled = fit(model, train, images=LARGER, forward=forward)
    assert seen == [16] * 6
    for a, b in zip(plain.history, compiled.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_bf16_on_a_cpu_trains_nearly_as_fp32():
    train = Train(epochs=2, batch_size=16, optimizer="sgd", lr=0.01)
    full, half = (fit(make("convnext_atto", 32), train, images=LARGER, precision=p) for p in ("fp32", "bf16"))
    for a, b in zip(full.history, half.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.03) and a["loss"] != b["loss"]
    assert all(v.dtype != torch.bfloat16 for v in half.last.values())


def test_data_parallel_without_gpus_is_the_plain_model():
    plain, wrapped = make(), torch.nn.DataParallel(make())
    train = Train(epochs=2, batch_size=16)
    a, b = fit(plain, train), fit(wrapped, train)
    assert fingerprint(a.last) == fingerprint(b.last)
    assert not any(k.startswith("module.") for k in b.last)


def test_adam_is_the_published_default():
    train = Train()
    assert (train.optimizer, train.lr, train.batch_size) == ("adam", 1e-3, 128)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bf16_on_a_gpu_learns():
    images, labels = coloured()
    trainer = training.Trainer(
        models.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), 16).cuda(),
        images.cuda(),
        labels.cuda(),
        train=Train(epochs=8, batch_size=16, optimizer="sgd"),
        loss=lambda logits, labels, _: losses.ce_loss(logits, labels),
        view=lambda epoch: View(AUGMENT, 0, epoch, 50, "cuda"),
        seed=0,
        precision="bf16",
    )
    done = trainer.fit(lambda model, epoch: {"score": 0.0})
    assert done.history[-1]["loss"] < 0.5 * done.history[0]["loss"]


def test_the_learning_rate_falls_at_the_milestones():
    done = fit(make(), Train(epochs=5, batch_size=25, lr=0.01, schedule="step", milestones=[1, 3], gamma=0.5))
    assert [row["lr"] for row in done.history] == pytest.approx([0.01, 0.005, 0.005, 0.0025, 0.0025])
