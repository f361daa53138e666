import numpy as np
import pytest
import torch
from helpers import SMALL, write_study

from kd_utils import records
from kd_utils.learning import data, losses, models, training
from kd_utils.learning import run as runs
from kd_utils.learning.soft_targets import SoftTargets
from kd_utils.schema import Model
from kd_utils.shelf import Shelf
from kd_utils.study import load

# a network without batch normalisation under plain gradient descent: with batch normalisation or Adam, over few images
# the smallest difference of rounding becomes a large one
STEADY = {"model": "convnext_atto", "train": {"optimizer": "sgd", "lr": 0.01, "epochs": 3, "batch_size": 16}}


def sharp_weights(path):
    """Weights whose logits differ from image to image and from view to view on any machine: random, a large head."""
    torch.manual_seed(0)
    model = models.create(Model(model="convnext_atto"), 10, 32)
    with torch.no_grad():
        model.backbone.head.fc.weight.mul_(100)
    models.save(model, path)
    return str(path)


@pytest.mark.numeric
def test_stored_targets_train_as_the_live_teacher_does(root):
    """Several epochs with augmentation: the losses differ by what float16 rounds, and by nothing else."""
    hardly = {"optimizer": "sgd", "lr": 1e-9, "epochs": 1}
    teacher = {"model": "convnext_atto", "pretrained": sharp_weights(root / "sharp.safetensors"), "train": hardly}
    content = {**SMALL, "data": {**SMALL["data"], "image_size": 32}, "students": [STEADY]}
    write_study(root, {**content, "teacher": {"candidates": [teacher]}})
    study = load("small")
    data.prepare(study)
    teacher = runs.teacher(study)
    teacher.go()
    run = runs.student(study, T=4, alpha=0.5)
    stored = run.fit().curve
    teacher = runs.teacher(study).model.eval()
    images = torch.as_tensor(run.dataset.images("train"))
    view = {}

    def live_view(epoch):
        view["now"] = run.view(epoch)
        return view["now"]

    def live_loss(out, labels, index):
        with torch.no_grad():
            soft = teacher(view["now"](images, index))  # the teacher sees the batch that the student sees
        return losses.kd_loss(out, labels, soft, T=4, alpha=0.5)

    live = training.Trainer(
        runs.student(study, T=20, alpha=0.5).model,
        images,
        torch.as_tensor(run.dataset.labels("train")),
        train=run.plan.train,
        loss=live_loss,
        view=live_view,
        seed=0,
        extra=lambda epoch: torch.arange(len(images)),
    ).fit(lambda model, epoch: {"score": 0.0})
    for name in ("loss", "ce", "kl"):
        np.testing.assert_allclose(stored[name], [row[name] for row in live.history], rtol=2e-3, err_msg=name)
    # it could have failed: soft targets weigh something, and those of another view are others by far
    a, b = (np.asarray(run.soft_targets[k], np.float32) for k in (0, 1))
    assert stored["kl"].iloc[0] > 0.1 and np.abs(a - b).mean() > 0.1 * np.abs(a).mean()


@pytest.fixture
def taught(copied):
    """The study, its teacher trained."""
    return load("small")


def test_one_store_serves_every_cell_and_student(taught, monkeypatch):
    first = runs.student(taught, student="efficient", T=4, alpha=0.5).soft_targets
    with monkeypatch.context() as m:
        m.setattr(training, "predict_logits", lambda *a, **k: pytest.fail("computed again"))
        for student in ("efficient", "test_byobnet"):
            for T, alpha in ((4, 0.5), (20, 0.0), (100, 0.9)):
                assert runs.student(taught, student=student, T=T, alpha=alpha).soft_targets.folder == first.folder
    assert runs.student(taught, student="efficient", seed=1).soft_targets.folder != first.folder


def test_another_augmentation_teacher_or_data_is_another_store(taught):
    study, dataset = taught, data.load(taught)
    teacher = Shelf(study).teacher
    folder = SoftTargets.of(study, 0, teacher, dataset).folder
    other = study.model_copy(update={"augment": study.augment.model_copy(update={"shift": 2})})
    assert SoftTargets.of(other, 0, teacher, dataset).folder != folder
    changed = teacher.model_copy(update={"weights_sha256": "0"})
    assert SoftTargets.of(study, 0, changed, dataset).folder != folder


def test_weights_of_a_teacher_are_those_of_its_record(taught):
    record = Shelf(taught).teacher
    other = models.create(taught.candidate(record.teacher), 10, 16)
    models.save(other, record.folder / "weights.safetensors")
    with pytest.raises(runs.RunError, match="not the file that the record"):
        runs.teacher(taught, candidate=record.teacher).model  # noqa: B018


@pytest.mark.numeric
def test_a_teacher_with_a_normalisation_of_its_own_teaches_with_it(root, monkeypatch):
    """Pretrained weights may expect another mean and std: soft targets are those of the model as it was trained."""
    content = {
        **SMALL,
        "teacher": {"candidates": [{"model": "test_byobnet", "pretrained": True}], "train": {"epochs": 3}},
    }
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
    np.testing.assert_allclose(again.view_logits(0, 1), live, rtol=1e-4, atol=1e-4 * np.abs(live).max())
    assert runs.compute_soft_targets(study, 0, [1]) == 1
    stored = SoftTargets.of(study, 0, again.record, again.dataset)[1]
    np.testing.assert_allclose(stored.astype(np.float32), live, rtol=1e-3, atol=1e-3 * np.abs(live).max())
    run = runs.student(study, T=4, alpha=0.5)
    cell = run.go()
    right = (run.soft_targets[0].argmax(axis=1) == run.dataset.labels("train")).mean()
    assert cell.provenance.soft_targets_top1 == pytest.approx(right)


def test_weights_that_do_not_say_what_the_record_says_are_refused(taught):
    """The last guard, against whatever no hash sees: the record's example logits."""
    record = Shelf(taught).teacher
    told = {**record.predictions, "example_logits": -record.predictions["example_logits"]}
    values = record.model_dump(exclude={"version", "predictions_sha256"}, exclude_none=True)
    records.write(record.folder, values, told)
    with pytest.raises(runs.RunError, match="off those of its record"):
        runs.teacher(taught, candidate=record.teacher).model  # noqa: B018
