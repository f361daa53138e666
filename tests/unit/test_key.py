"""A run's key holds what changes its metrics, as it is used, and nothing else."""

import pytest
from helpers import SMALL, write_study

from kd_utils import data_notes, shelf
from kd_utils.cells import Cell
from kd_utils.keys import key, student_settings, teacher_settings
from kd_utils.study import load
from kd_utils.validation import StudyError

META = {"fingerprint": "f", "classes": ["a", "b"], "counts": {"train": 1, "val": 1, "holdout": 0}, "image_size": 16}
CELL = Cell("test_byobnet", 4.0, 0.5, 0)


def keys(root, **changes):
    """The keys of a candidate and a cell of the small study, changed so."""
    write_study(root, {**SMALL, **changes})
    study = load("small")
    return (
        key(teacher_settings(study, study.teacher.candidates[0], "f")),
        key(student_settings(study, CELL, "f", "teacher")),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"data_parallel": 4},
        {"threads": 2},
        {"views": 2},
        {"augment": {"flip": False}},
        {"augment": {**SMALL["augment"], "rotate": 20}},
        {"train": {**SMALL["train"], "schedule": "step", "milestones": [2]}},
        {"train": {**SMALL["train"], "nesterov": False}},
        {"train": {**SMALL["train"], "lr": 0.002}},
        {"data": {**SMALL["data"], "train_per_class": 7}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_metrics_changes_the_key(root, changes):
    before = keys(root)
    if "data" in changes:  # by the data's fingerprint, which is not of these settings
        assert keys(root, **changes) == before
    else:
        assert all(a != b for a, b in zip(keys(root, **changes), before, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32"},
        {"data_parallel": 1},
        {"augment": {**SMALL["augment"], "rotate": 0}},
        {"train": {**SMALL["train"], "milestones": [], "gamma": 0.1, "nesterov": True}},
        {"students": [{"model": "test_byobnet", "stem": "default"}]},
        {"title": "Another"},
        {"seeds": [0, 1]},
        {"grid": {"T": [4], "alpha": [0.5]}},
        {"methods": [{"method": "self"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_change_metrics_leaves_the_key(root, changes):
    assert keys(root, **changes) == keys(root)


@pytest.mark.parametrize(("name", "value"), [("precision", "auto"), ("data_parallel", True), ("data_parallel", 0)])
def test_what_would_depend_on_the_machine_cannot_be_asked_for(root, name, value):
    with pytest.raises(StudyError, match=name):
        keys(root, **{name: value})


def test_weights_from_a_file_are_known_by_their_content(root):
    weights = root / "studies" / "start.safetensors"  # relative to the study file
    weights.write_bytes(b"one")
    students = {"students": [{"model": "test_byobnet", "pretrained": "start.safetensors"}]}
    plain, (_, one) = keys(root), keys(root, **students)
    assert one != plain[1]
    weights.write_bytes(b"another one")
    assert keys(root, **students)[1] != one
    weights.write_bytes(b"one")
    assert keys(root, **students)[1] == one
    elsewhere = root / "elsewhere" / "start.safetensors"
    elsewhere.parent.mkdir()
    weights.rename(elsewhere)
    moved = {"students": [{"model": "test_byobnet", "pretrained": str(elsewhere)}]}
    assert keys(root, **moved)[1] == one


def test_results_belong_to_one_study_file(root, tmp_path_factory, monkeypatch):
    """Another file of that name is refused, and both are named; a root that was moved goes on, and so does a file."""
    first = load("small")
    data_notes.note(first, META)
    (root / "more").mkdir()
    other = (root / "studies" / "small.yaml").rename(root / "more" / "small.yaml")
    shelf.Shelf(load(other))  # the study was moved
    write_study(root, SMALL)
    second = load(other)
    for use in (shelf.Shelf, data_notes.claim, lambda study: data_notes.note(study, META)):
        with pytest.raises(StudyError, match="studies/small.yaml, and .*more/small.yaml would.*rename one"):
            use(second)
    moved = tmp_path_factory.mktemp("elsewhere") / "root"
    root.rename(moved)
    monkeypatch.setenv("KD_ROOT", str(moved))
    assert shelf.Shelf(load("small")).dataset["fingerprint"] == "f"
    with pytest.raises(StudyError, match="rename one"):
        shelf.Shelf(load(moved / "more" / "small.yaml"))
    moved.rename(root)


def test_a_clone_without_that_file_still_knows_its_records(root):
    """What the data step notes beside the results stands for the file where it is not at hand."""
    weights = root / "studies" / "start.safetensors"
    weights.write_bytes(b"one")
    students = {"students": [{"model": "test_byobnet", "pretrained": "start.safetensors"}]}
    with_file = keys(root, **students)
    data_notes.note(load("small"), META)
    weights.unlink()
    assert keys(root, **students) == with_file
    data_notes.note(load("small"), META)  # as `kd data` does in the clone
    assert keys(root, **students) == with_file


def test_a_file_that_is_neither_here_nor_noted_is_an_error(root):
    with pytest.raises(StudyError, match=r"pretrained of test_byobnet: there is no file .*/studies/gone\.safetensors"):
        keys(root, students=[{"model": "test_byobnet", "pretrained": "gone.safetensors"}])


def test_the_committed_records_answer_their_study(monkeypatch, checkout):
    """Settings that came later leave the keys of old records as they were."""
    monkeypatch.delenv("KD_ROOT", raising=False)
    kept = shelf.Shelf(load(checkout / "studies" / "tiny-imagenet-20.yaml"))
    records = list((checkout / "results" / "tiny-imagenet-20").glob("*/*/record.json"))
    assert len(records) >= 105
    assert len(kept.students) + len(kept.teachers) == len(records)


HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    "changes", [HALF | {"std": [0.2, 0.2, 0.2]}, HALF | {"mean": [0.4, 0.4, 0.4]}, {"stem": "small"}], ids=str
)
def test_what_a_model_is_changes_its_key(root, changes):
    like = HALF if "mean" in changes else {}
    plain, changed = ({"students": [{"model": "test_byobnet", **more}]} for more in (like, changes))
    assert keys(root, **plain)[1] != keys(root, **changed)[1]


def test_a_model_of_one_s_own_is_known_by_its_code(root):
    code = root / "studies" / "nets.py"
    students = {"students": [{"model": "nets.py:Net", "name": "test_byobnet"}]}
    found = []
    for text in ("one", "another", "one"):
        code.write_text(text)
        found.append(keys(root, **students)[1])
    assert found[0] == found[2] != found[1]
    code.rename(root / "studies" / "moved.py")
    assert keys(root, students=[{"model": "moved.py:Net", "name": "test_byobnet"}])[1] == found[0]
    assert keys(root, students=[{"model": "moved.py:Other", "name": "test_byobnet"}])[1] != found[0]
    with pytest.raises(StudyError, match=r"model of test_byobnet: there is no file .*/studies/nets\.py"):
        keys(root, **students)


def test_a_schedule_of_its_own_takes_no_milestones_along(root):
    train = {**SMALL["train"], "schedule": "step", "milestones": [2], "gamma": 0.5}
    teacher = {**SMALL["teacher"], "train": {"schedule": "cosine"}}
    write_study(root, {**SMALL, "train": train, "teacher": teacher})
    study = load("small")
    taught, teaches = study.training(study.students[0], teacher=False), study.training(study.students[0], teacher=True)
    assert (taught.milestones, taught.gamma) == ([2], 0.5)
    assert (teaches.schedule, teaches.milestones, teaches.gamma) == ("cosine", [], 0.1)
