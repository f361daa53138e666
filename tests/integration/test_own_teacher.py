"""Teachers that were trained elsewhere: weights from plain PyTorch, ensembles, and logits in a file."""

import numpy as np
import pytest
import torch
import torchvision
from helpers import SMALL, write_study
from sklearn.datasets import load_digits
from torch import nn

from kd_utils.learning import data
from kd_utils.learning import run as runs
from kd_utils.learning.models import ModelError
from kd_utils.learning.run import RunError
from kd_utils.reporting import results, tables
from kd_utils.running import pipeline
from kd_utils.shelf import Shelf
from kd_utils.study import load
from kd_utils.validation import StudyError

AS_STORED = {"flip": False, "crop": "none"}
STUDENT = {"model": "test_byobnet", "train": {"epochs": 1, "batch_size": 16}}
NOT_TRAINED = {"epochs": 0}


def study_of(root, *candidates, **changes):
    write_study(root, {**SMALL, "teacher": {"candidates": list(candidates)}, "students": [STUDENT], **changes})
    study = load("small")
    data.prepare(study)
    return study


def prepared(dataset, split):
    """As plain PyTorch code would: pixels between -1 and 1, channels first."""
    return torch.from_numpy(dataset.images(split) / np.float32(127.5) - 1).permute(0, 3, 1, 2)


@pytest.fixture
def by_plain_pytorch(root):
    """A teacher that plain PyTorch has trained on the study's images, as torch.save writes it; and its own words."""
    dataset = data.prepare(load("small"))
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    steps = torch.optim.Adam(model.parameters(), lr=0.003)
    images, labels = prepared(dataset, "train"), torch.as_tensor(dataset.labels("train"))
    for _ in range(12):
        steps.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        steps.step()
    model.eval()
    torch.save(model.state_dict(), root / "studies" / "mine.pth")
    with torch.no_grad():
        return {split: model(prepared(dataset, split)).numpy() for split in ("train", "val")}


MINE = {
    "model": "shufflenet_v2_x0_5",
    "name": "mine",
    "pretrained": "mine.pth",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "train": NOT_TRAINED,
}


@pytest.mark.numeric
def test_a_teacher_of_one_s_own_is_judged_and_teaches(root, by_plain_pytorch):
    study = study_of(root, MINE, augment=AS_STORED, students=[{**STUDENT, "threads": 2}])
    judged = runs.teacher(study)
    record = judged.go()
    labels = judged.dataset.labels("val")
    assert record.metrics.top1_best == record.metrics.top1_last
    assert record.metrics.top1_best == pytest.approx((by_plain_pytorch["val"].argmax(1) == labels).mean())
    assert (record.metrics.epochs, record.history, record.cost.train_seconds) == (0, [], 0)
    assert record.provenance.weights_from == "mine.pth"
    student = runs.student(study)
    assert student.go().provenance.threads == 2  # though its teacher, who is asked within, has a thread
    taught = student.soft_targets[0].astype(np.float32)
    np.testing.assert_allclose(taught, by_plain_pytorch["train"], atol=0.01 * np.abs(taught).max())
    assert [view.name for view in student.soft_targets.folder.glob("*.npy")] == ["view_0000.npy"]  # all are the same
    again = runs.teacher(study)  # from the weights that were kept with the record
    np.testing.assert_allclose(again.view_logits(0, 0), by_plain_pytorch["train"], atol=1e-3 * np.abs(taught).max())
    assert tables.leaderboard(results.load("small")).frame["epochs"].tolist() == [0]


def test_a_head_of_other_classes_is_refused_and_both_are_said(root, by_plain_pytorch):
    study = study_of(root, MINE, data={**SMALL["data"], "classes": 4})
    with pytest.raises(ModelError, match=r"mine\.pth: its head tells 10 classes apart, and the data have 4"):
        runs.teacher(study).go()
    study = study_of(root, {**MINE, "train": {"epochs": 1}}, data={**SMALL["data"], "classes": 4})
    runs.teacher(study).model  # noqa: B018 - to be trained, it gets a new head


@pytest.mark.numeric
def test_an_ensemble_is_the_mean_of_its_members_logits(root, by_plain_pytorch):
    other = {"model": "test_byobnet", "name": "other", "train": {"epochs": 2}}
    study = study_of(root, {"ensemble": ["mine", "other"], "name": "both"}, MINE, other)
    with pytest.raises(RunError, match="ensemble both is of candidates that are not done yet: mine, other"):
        runs.teacher(study, candidate="both").go()
    tasks = pipeline.teacher_tasks(Shelf(study))
    assert [(task.name, *sorted(task.after)) for task in tasks] == [("mine",), ("other",), ("both", "mine", "other")]
    members = [runs.teacher(study, candidate=label) for label in ("mine", "other")]
    for member in members:
        member.go()
    both = runs.teacher(study, candidate="both")
    both.go()
    mean = np.mean([member.record.val_logits.astype(np.float32) for member in members], axis=0)
    close = {"rtol": 2e-3, "atol": 2e-3 * np.abs(mean).max()}
    np.testing.assert_allclose(both.record.val_logits.astype(np.float32), mean, **close)
    assert both.record.provenance.parameters == sum(member.record.provenance.parameters for member in members)
    for member in members:  # what was kept with its record is all that it needs
        (member.folder / "weights.safetensors").unlink()
    again = runs.teacher(study, candidate="both")
    mean = np.mean([member.view_logits(0, 1) for member in members], axis=0)
    np.testing.assert_allclose(again.view_logits(0, 1), mean, rtol=1e-4, atol=1e-4 * np.abs(mean).max())
    assert again.model.backbone[0].scale[0, 0].item() == pytest.approx(1 / 127.5)  # the normalisation came along


def test_logits_from_elsewhere_teach_in_the_order_that_is_listed(root):
    study = study_of(root, {"logits": "far.npy"}, augment=AS_STORED, data={**SMALL["data"], "holdout_per_class": 3})
    far = root / "studies" / "far.npy"
    target, rows = load_digits().target, list(data.listed(study))
    assert len(rows) == len({name for *_, name in rows}) == sum(data.load(study).meta["counts"].values())
    named = np.array([target[int(name.split()[1])] for *_, name in rows])
    assert [key for _, _, key, _ in rows] == [str(digit) for digit in named]
    np.save(far, np.eye(10)[named] * 5)
    teacher = runs.teacher(study)
    record = teacher.go()
    assert (record.metrics.top1_best, record.score, record.provenance.parameters) == (1, 1, 0)
    student = runs.student(study)
    student.go()
    assert student.record.provenance.soft_targets_top1 == 1
    assert "Teacher live" not in tables.cost(results.load("small")).columns
    data.prepare(study)  # notes the file
    far.unlink()
    assert runs.teacher(study).view_logits(0, 0).shape == (120, 10)  # kept with the record


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (
            np.zeros((220, 9)),
            r"float64 of shape \(220, 9\), and the data have 220 images \(120 of train, 100 of val\) and",
        ),
        (np.zeros((220, 10), int), "write floating point numbers"),
        (np.full((220, 10), np.nan), "not finite, the first in row 0"),
        (np.array([{}]), "cannot be read as .npy"),
        ("npz", r"far\.npy is no \.npy, of one array"),
    ],
)
def test_logits_that_do_not_fit_are_refused(root, array, says):
    """Before anything is computed, and where a run reads them."""
    study = study_of(root, {"logits": "far.npy"}, augment=AS_STORED)
    with open(root / "studies" / "far.npy", "wb") as f:
        np.savez(f, a=np.zeros(2)) if isinstance(array, str) else np.save(f, array)
    for refuses in (lambda: pipeline.make_models(study, study.teacher.candidates), runs.teacher(study).go):
        with pytest.raises(ModelError, match=says):
            refuses()


def test_weights_that_are_not_finite_are_named(root):
    study = study_of(root, MINE)
    weights = torchvision.models.shufflenet_v2_x0_5(num_classes=10).state_dict()
    weights["fc.bias"][3] = torch.nan
    torch.save(weights, root / "studies" / "mine.pth")
    for refuses in (lambda: pipeline.make_models(study, study.teacher.candidates), runs.teacher(study).go):
        with pytest.raises(ModelError, match=r"model 'mine': its logits are not finite .*; look at .*mine\.pth"):
            refuses()


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        ([{"logits": "far.npy"}], r"students must see them so: set augment: \{flip: false, crop: none\}"),
        ([{"model": "a", "train": NOT_TRAINED}], r"candidate a is not trained \(epochs: 0\) and has no weights"),
        (["a", {"ensemble": ["a", "b"]}], "ensemble: 'b' is no candidate with a model of its own; there are: a"),
        (["a", {"ensemble": ["a", "a"]}], "at least two candidates, each named once"),
        (["a", {"ensemble": ["a"]}], "at least two candidates"),
        (["a", "b", {"ensemble": ["a", "b"], "input_size": 32}], "ensemble goes without 'input_size'"),
        ([{"logits": "far.npy", "train": {"epochs": 2}}], "logits goes without 'train'"),
        ([{"logits": "far.npy", "model": "a"}], "one of model, ensemble and logits, not model and logits"),
        ([{"name": "a"}], "one of model, ensemble and logits, not none"),
        ([{"model": "a", "std": [0.5, 0, 0.5]}], "std: a standard deviation is above 0"),
        ([{"model": "a", "mean": [0.5]}], "mean: .*at least 3"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(root, candidates, says):
    with pytest.raises(StudyError, match=says):
        study_of(root, *candidates)


def test_a_student_is_trained(root):
    with pytest.raises(StudyError, match="train.epochs of test_byobnet is 0: only a teacher can do without"):
        study_of(root, "test_byobnet", students=[{"model": "test_byobnet", "train": NOT_TRAINED}])
