"""A folder of images -> a study file that fits them, and how long it will take."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kd_utils import cli, machine
from kd_utils.learning import data, new
from kd_utils.learning.data import DataError
from kd_utils.running import pipeline, search
from kd_utils.study import load
from kd_utils.validation import StudyError


def images(folder, counts, size=(40, 50)):
    for key, count in counts.items():
        (folder / key).mkdir(parents=True)
        for k in range(count):
            pixels = np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / key / f"{k}.png")
    return folder


@pytest.fixture
def no_gpu_no_hub(monkeypatch):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(new, "pretrained_can_be_had", lambda: False)
    monkeypatch.setattr(new, "MEASURE_SECONDS", 0.05)


def test_a_folder_of_classes_alone_becomes_a_study(root, no_gpu_no_hub):
    folder = images(root / "pets", {"cat": 30, "dog": 20})
    (folder / "cat" / "broken.jpg").write_bytes(b"\xff\xd8 not whole")
    found = new.look(folder)
    assert found.classes == {"cat": 31, "dog": 20} and found.val == 0 and found.sides == (40, 40, 40)
    assert list(found.damaged) == ["cat/broken.jpg"]
    told = "\n".join(found.lines())
    assert "2 classes, 51 training images (20 to 31 a class), none of its own for validation" in told
    assert "51 of 51 files read, 1 damaged; replace or delete" in told and "cat/broken.jpg: no image" in told
    study = new.write("pets", found)
    assert study == load("pets")
    asked = (study.data.image_size, study.data.val_from_train_per_class, study.data.holdout_per_class)
    assert asked == (48, 4, 2)
    with pytest.raises(StudyError, match=r"pets\.yaml is there already; choose another name"):
        new.write("pets", found)
    with pytest.raises(StudyError, match="cannot be a name"):
        new.write("a b", found)
    assert not (root / "studies" / "a b.yaml").exists()
    (folder / "cat" / "broken.jpg").unlink()
    assert data.prepare(study).meta["counts"] == {"train": 38, "val": 8, "holdout": 4}
    budget = search.least_budget(study, search.BUDGET)  # of a grid of 7 cells
    assert budget > search.BUDGET and search._plan(study, study.students[0], budget)[0] == 2
    assert search._plan(study, study.students[0], budget - 0.01)[0] == 0


def test_a_folder_with_its_own_val_keeps_it(root, no_gpu_no_hub):
    images(root / "pets" / "train", {"cat": 4, "dog": 3}, (12, 12))
    images(root / "pets" / "val", {"cat": 2, "dog": 2}, (12, 12))
    images(root / "pets" / "validation", {"cat": 2}, (12, 12))
    found, said = new.look(root / "pets"), []
    ignored = "validation/, beside train/, not read: the folder of validation images is called val/"
    assert ignored in list(found.lines())
    study = new.write("pets", found)
    assert (found.train, found.val, study.data.val_from_train_per_class, study.data.image_size) == (7, 4, 0, 16)
    assert data.prepare(study, say=said.append).meta["counts"] == {"train": 5, "val": 4, "holdout": 2}
    assert said == [ignored]


def test_what_no_study_can_be_made_of_is_said(root, no_gpu_no_hub):
    with pytest.raises(DataError, match="there is no folder .*nothing"):
        new.look(root / "nothing")
    with pytest.raises(DataError, match="no images in train/<class>/, nor in <class>/"):
        new.look(root / "studies")
    one = images(root / "one", {"cat": 3, "dog": 1})
    with pytest.raises(DataError, match="the class dog has 1 image; with no val/, at least 2 are needed"):
        new.look(one)
    Image.new("RGB", (8, 8)).save(one / "dog" / "1.png")
    alone = images(root / "alone", {"cat": 3})
    images(root / "half" / "train", {"cat": 3, "dog": 3})
    images(root / "half" / "val", {"cat": 1})
    for folder, says in ((alone, "the data have one class, cat"), (root / "half", "class dog has no validation image")):
        with pytest.raises(DataError, match=says):
            new.look(folder)
    for path in one.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 5 images can be decoded; .*: no image"):
        new.look(one)


def test_the_time_is_that_of_all_runs_at_the_pace_of_this_machine(root, no_gpu_no_hub, monkeypatch):
    study = load("small")  # teachers of 6 and 2 epochs, 2 x 5 cells of 3, evaluated after each
    monkeypatch.setattr(machine, "slots", lambda *_: [{}, {}])
    monkeypatch.setattr(new, "_pace", lambda *_: (200.0, 100.0))
    took = new.estimate(study, train=80, val=50, classes=10)
    teacher, cell = 6 * (80 / 100 + 50 / 200), 3 * (80 / 100 + 50 / 200)
    assert took.teachers == pytest.approx(teacher)
    assert took.seconds == pytest.approx(teacher + (3 * 80 / 200 + 10 * cell) / 2)
    started = new.estimate(study, 80, 50, 10, lambda side_by_side: 3.0 * side_by_side)
    assert started.teachers - took.teachers == pytest.approx(6)  # of two at once
    assert started.seconds - took.seconds == pytest.approx(6 + 10 * 6 / 2)
    monkeypatch.undo()
    monkeypatch.setattr(new, "MEASURE_SECONDS", 0.05)
    assert 0 < new.estimate(study, 80, 50, 10).seconds < 600


def test_the_command_says_what_comes_next(root, no_gpu_no_hub, monkeypatch):
    """A run's start is measured by runs of their own, of which nothing is left."""
    images(root / "pets", {"cat": 12, "dog": 12}, (16, 16))
    seconds, measure = [], pipeline.seconds_of_a_start
    monkeypatch.setattr(pipeline, "seconds_of_a_start", lambda n: seconds.append(measure(n)) or seconds[-1])
    told = CliRunner().invoke(cli.app, ["new", "pets", "--data", str(root / "pets")])
    assert told.exit_code == 0, told.output
    assert "next: kd run pets\nabout " in told.output
    assert len(seconds) == 1 and 0.1 < seconds[0] < 120
    assert sorted(path.name for path in root.iterdir()) == ["pets", "studies"]


@pytest.mark.parametrize(
    ("side", "most", "size"), [(8, 64, 16), (16, 64, 16), (24, 64, 24), (28, 64, 32), (90, 64, 64), (90, 224, 96)]
)
def test_images_are_stored_in_the_least_size_that_loses_nothing_of_them(side, most, size):
    assert new.fitting(side, most) == size
