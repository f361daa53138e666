import threading

import numpy as np
import pytest
import torch
from helpers import SMALL, write_study

from kd_utils import records
from kd_utils.learning import data, losses, models, training
from kd_utils.learning import run as runs
from kd_utils.learning.soft_targets import SoftTargets, SoftTargetsError
from kd_utils.study import load

BINDING = {"teacher": "a", "seed": 0}


def logits(value=1.0):
    return np.full((5, 3), value, np.float32)


@pytest.fixture
def taught(root):
    return teach(load("small"))


def teach(study):
    """The study, its teacher trained without notebooks."""
    data.prepare(study)
    for candidate in study.teacher.candidates:
        runs.teacher(study, candidate=candidate.label).go()
    return study


def test_stored_targets_train_as_the_live_teacher_does(root):
    """Several epochs with augmentation: the losses differ by what float16 rounds, and by nothing else.

    The student has no batch normalisation and the optimiser is no Adam: over few images both make of the smallest
    difference a large one.
    """
    steady = {"model": "convnext_atto", "train": {"optimizer": "sgd", "lr": 0.01, "epochs": 4}}
    write_study(root, {**SMALL, "data": {**SMALL["data"], "image_size": 32}, "students": [steady]})
    taught = teach(load("small"))
    run = runs.student(taught, T=4, alpha=0.5)
    stored = run.fit()
    record = records.best_teacher(taught, run.dataset.fingerprint)
    teacher = runs.teacher(taught, candidate=record["teacher"]).model.eval()
    images = torch.as_tensor(run.dataset.images("train"))
    view = {}

    def live_view(epoch):
        view["now"] = run.view(epoch)
        return view["now"]

    def live_loss(out, labels, index):
        with torch.no_grad():
            soft = teacher(view["now"](images, index))  # the teacher sees the batch that the student sees
        return losses.kd_loss(out, labels, soft, T=4, alpha=0.5)

    fresh = runs.student(taught, T=20, alpha=0.5).model
    live = training.fit(
        fresh,
        images,
        torch.as_tensor(run.dataset.labels("train")),
        train=run.train,
        loss=live_loss,
        view=live_view,
        seed=0,
        score=lambda model, epoch: {"score": 0.0},
        extra=lambda epoch: torch.arange(len(images)),
    )
    for name in ("loss", "ce", "kl"):
        np.testing.assert_allclose(stored[name], [row[name] for row in live.history], rtol=2e-3, err_msg=name)
    assert stored["kl"].iloc[0] > 0.01


def test_targets_of_another_view_would_be_noticed(taught):
    """The test above can fail: the stored logits of two views of the same images differ by more than it allows."""
    store = runs.student(taught, student="shuffle", T=4, alpha=0.5).soft_targets
    a, b = np.asarray(store[0], np.float32), np.asarray(store[1], np.float32)
    assert np.abs(a - b).mean() > 0.02 * np.abs(a).mean()


def test_one_store_serves_every_cell_and_student(taught, monkeypatch):
    first = runs.student(taught, student="shuffle", T=4, alpha=0.5).soft_targets
    with monkeypatch.context() as m:
        m.setattr(training, "predict_logits", lambda *a, **k: pytest.fail("computed again"))
        for student in ("shuffle", "lcnet_050"):
            for T, alpha in ((4, 0.5), (20, 0.0), (100, 0.9)):
                assert runs.student(taught, student=student, T=T, alpha=alpha).soft_targets.folder == first.folder
    assert runs.student(taught, student="shuffle", seed=1).soft_targets.folder != first.folder


def test_another_augmentation_teacher_or_data_is_another_store(taught):
    study, dataset = taught, data.load(taught)
    teacher = records.best_teacher(study, dataset.fingerprint)
    folder = SoftTargets.of(study, 0, teacher, dataset).folder
    other = study.model_copy(update={"augment": study.augment.model_copy(update={"shift": 1})})
    assert SoftTargets.of(other, 0, teacher, dataset).folder != folder
    changed = records.Record(teacher.folder, {**teacher.values, "weights_sha256": "0"})
    assert SoftTargets.of(study, 0, changed, dataset).folder != folder


def test_a_store_that_says_something_else_is_refused(root):
    store = SoftTargets(BINDING, 5, 3)
    (store.folder / "binding.json").write_text('{"teacher": "b", "seed": 0}')
    with pytest.raises(SoftTargetsError, match="delete the folder"):
        SoftTargets(BINDING, 5, 3)


def test_what_is_stored_is_not_computed_again(root):
    store, asked = SoftTargets(BINDING, 5, 3), []

    def compute(view):
        asked.append(view)
        return logits(view)

    assert store.ensure(range(3), compute) == 3
    assert SoftTargets(BINDING, 5, 3).ensure(range(4), compute) == 1
    assert asked == [0, 1, 2, 3]
    assert store[2].dtype == np.float16 and (store[2] == 2).all()


def test_two_at_once_compute_a_view_once(root):
    asked, gate = [], threading.Barrier(2, timeout=30)

    def work():
        store = SoftTargets(BINDING, 5, 3)
        gate.wait()
        store.ensure(range(5), lambda v: asked.append(v) or logits(v))

    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(asked) == list(range(5))


def test_a_missing_or_truncated_view_is_named(root):
    store = SoftTargets(BINDING, 5, 3)
    with pytest.raises(SoftTargetsError, match="no soft targets yet"):
        store[0]
    store.ensure([0], logits)
    path = store.folder / "view_0000.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SoftTargetsError, match="view_0000.npy: damaged.*delete it"):
        store[0]
    np.save(path, logits())
    with pytest.raises(SoftTargetsError, match="float32.*expected float16"):
        store[0]


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_logits_that_float16_cannot_hold_are_refused(root, value):
    store = SoftTargets(BINDING, 5, 3)
    with pytest.raises(SoftTargetsError, match="not finite in float16"):
        store.ensure([0], lambda v: logits(value))
    assert not store.has(0)


def test_an_interrupted_view_leaves_nothing(root):
    store = SoftTargets(BINDING, 5, 3)
    with pytest.raises(KeyboardInterrupt):
        store.ensure([0], lambda v: (_ for _ in ()).throw(KeyboardInterrupt))
    assert [p.name for p in store.folder.iterdir() if p.suffix != ".lock"] == ["binding.json"]


def test_weights_of_a_teacher_are_those_of_its_record(taught):
    record = records.best_teacher(taught, data.load(taught).fingerprint)
    other = models.create(taught.candidate(record["teacher"]), 10, 16)
    models.save(other, record.folder / "weights.safetensors")
    with pytest.raises(runs.RunError, match="not the file that the record"):
        runs.teacher(taught, candidate=record["teacher"]).model  # noqa: B018


def test_a_teacher_with_a_normalisation_of_its_own_teaches_with_it(root, monkeypatch):
    """Pretrained weights may expect another mean and std: soft targets are those of the model as it was trained."""
    content = {**SMALL, "teacher": {"candidates": [{"model": "lcnet_050", "pretrained": True}], "train": {"epochs": 3}}}
    write_study(root, content)
    norm = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)
    monkeypatch.setattr(models.weights, "pretrained", lambda library, name, build: (build(), *norm, "a test"))
    study = load("small")
    data.prepare(study)
    trained = runs.teacher(study)
    trained.go()
    again = runs.teacher(study)
    assert again.done and again.model.mean == norm[0]
    live = trained.view_logits(0, 1)
    np.testing.assert_allclose(again.view_logits(0, 1), live, atol=1e-5)
    assert runs.compute_soft_targets(study, 0, [1]) == 1
    stored = SoftTargets.of(study, 0, again.record, again.dataset)[1]
    np.testing.assert_allclose(stored.astype(np.float32), live, atol=2e-2)
    cell = runs.student(study, T=4, alpha=0.5).go()
    right = (trained.view_logits(0, 0).argmax(axis=1) == trained.dataset.labels("train")).mean()
    assert cell["provenance"]["soft_targets_top1"] == pytest.approx(right, abs=0.03)


def test_weights_that_do_not_say_what_the_record_says_are_refused(taught):
    """The last guard, against whatever no hash sees: the record's example logits."""
    record = records.best_teacher(taught, data.load(taught).fingerprint)
    told = dict(np.load(record.folder / "predictions.npz"))
    told["example_logits"] = -told["example_logits"]
    np.savez(record.folder / "predictions.npz", **told)
    with pytest.raises(runs.RunError, match="off those of its record"):
        runs.teacher(taught, candidate=record["teacher"]).model  # noqa: B018


def test_studies_differ_only_where_they_do(root):
    """A second study on the same data, teacher, views and seed takes the same store."""
    write_study(root, {**SMALL, "grid": {"T": [1], "alpha": [0.9]}}, "other")
    for name in ("small", "other"):
        data.prepare(load(name))
    assert data.load(load("small")).folder == data.load(load("other")).folder
