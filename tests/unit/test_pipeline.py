"""A study's stages, without a run."""

import os
import re
import shutil
from collections import namedtuple

import pytest
from helpers import SMALL, kd, write_study
from papermill.exceptions import PapermillExecutionError

from kd_utils import files, paths, records
from kd_utils import study as study_module
from kd_utils.cells import Cell
from kd_utils.learning import data
from kd_utils.learning.weights import ModelError
from kd_utils.reporting.paper import ReportError
from kd_utils.running import kernels, pipeline
from kd_utils.running.pool import Failure
from kd_utils.schema import Method
from kd_utils.shelf import Shelf, ShelfError
from kd_utils.study import load


@pytest.mark.parametrize("left", ["", '{"fingerprint": "0', "{}", "[]"])
def test_a_damaged_note_of_the_data_is_named_and_written_again(root, left):
    data.prepare(load("small"))
    path = paths.results("small") / "data.json"
    whole = path.read_text()
    path.write_text(left)
    with pytest.raises(ShelfError, match=r"data\.json: damaged.*kd data small"):
        Shelf(load("small")).candidates  # noqa: B018 - raises
    data.prepare(load("small"))
    assert path.read_text() == whole


def test_a_root_that_cannot_be_written_to_is_named(root, monkeypatch):
    def read_only(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    for what in ("write_text", "mkdir"):
        with monkeypatch.context() as m:
            m.setattr(pipeline.Path, what, read_only)
            says = pytest.raises(pipeline.PipelineError, match=r"results/small cannot be written to \(Read-only")
            with says, pipeline.held(load("small")):
                pass
    with pipeline.held(load("small")):
        pass


def test_a_working_directory_that_is_gone_is_said_to_be(root, monkeypatch, tmp_path_factory):
    gone = tmp_path_factory.mktemp("gone")
    monkeypatch.chdir(gone)
    gone.rmdir()
    says = pytest.raises(pipeline.PipelineError, match="the folder that this was started in is gone")
    with says, pipeline.held(load("small")):
        pass


@pytest.fixture
def executed(root, monkeypatch):
    """The tasks of the study's teachers, and the study that each notebook found: nothing is trained."""
    data.prepare(load("small"))
    calls = []

    def run_notebook(notebook, output, parameters):
        calls.append(load(parameters["study"]))
        if "analysis" in notebook:
            raise PapermillExecutionError(0, 0, "", "", "an error", [])

    monkeypatch.setattr(kernels, "run_notebook", run_notebook)
    return pipeline.teacher_tasks(Shelf(load("small"))), calls


def edit(root):
    write_study(root, {**SMALL, "seeds": [0, 1], "title": "another"})


def remove(root):
    (root / "studies" / "small.yaml").unlink(missing_ok=True)


@pytest.mark.parametrize("do", [edit, remove])
def test_runs_and_report_are_of_the_study_as_it_was_read(root, executed, do):
    (task, _), calls = executed
    study = load("small")
    do(root)
    with pytest.raises(pipeline.PipelineError, match="has no record after its run"):  # since nothing was trained
        task.function(**task.arguments)
    with pytest.raises(ReportError):
        pipeline.print_report(study)
    assert calls == [study, study] and study_module.AS_READ not in os.environ


@pytest.mark.parametrize("do", [edit, remove])
def test_that_a_study_was_edited_meanwhile_is_said_once(root, monkeypatch, do):
    data.prepare(load("small"))
    shelf, said = Shelf(load("small")), []
    monkeypatch.setattr(pipeline, "run_tasks", lambda *a: do(root))
    for _ in range(2):
        pipeline.run_all("teachers", pipeline.teacher_tasks(shelf), shelf, pipeline.HERE, said.append)
    told = [str(event) for event in said if "was changed after" in str(event)]
    assert len(told) == 1 and "small.yaml" in told[0] and "goes on with the study as it was" in told[0]


def lose_results(root):
    shutil.rmtree(root / "results")


def exchange_results(root):
    (root / "results" / "small").rename(root / "away")
    (root / "results" / "small").mkdir()
    (root / "results" / "small" / "study.holder").write_text("process 1 on elsewhere, since now\n")


def lose_cache(root):
    shutil.rmtree(root / "cache")


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lose_results, r"results/small was removed, or another put in its place, .* run the same command again"),
        (exchange_results, r"results/small was removed, or another put in its place"),
        (lose_cache, r"cache/data/\S+ was removed while this command worked on study 'small'; .*: kd run small"),
    ],
)
@pytest.mark.parametrize("when", ["running", "ended", "raised"])
def test_what_is_removed_while_runs_work_on_it_ends_the_command_in_a_line(root, monkeypatch, do, says, when):
    """No run is blamed for it, and none is started that would fail by it."""
    data.prepare(load("small"))

    def run_tasks(tasks, slots, callbacks):
        do(root)
        if when == "raised" and do is not lose_cache:
            (root / "results" / "small" / "teachers" / "x").mkdir()  # raises
        callbacks.tick({}) if when == "running" else callbacks.done(tasks[0], 1.0, Failure(tasks[0], "E", "blamed"))

    monkeypatch.setattr(pipeline, "_check_models", lambda study, models: None)
    monkeypatch.setattr(pipeline, "run_tasks", run_tasks)
    done = kd(root, "teacher", "small")
    assert done.returncode == 1 and re.search(says, done.stderr) and len(done.stderr.strip().splitlines()) == 1
    assert "failed" not in done.stdout and (root / "results" / "small" / "study.holder").exists() == (
        do is exchange_results  # which is another command's
    )


def test_a_run_that_leaves_no_record_where_it_should_has_failed(root, executed):
    (task, _), calls = executed
    with pytest.raises(pipeline.PipelineError, match="has no record after its run"):
        task.function(**task.arguments)
    assert len(calls) == 1


def test_soft_targets_are_computed_for_the_study_as_it_was_read(root, monkeypatch):
    from kd_utils.learning import run

    given, study = [], load("small")
    monkeypatch.setattr(run, "compute_soft_targets", lambda *a: given.append(a))
    edit(root)
    pipeline.compute_view(study, 0, 1, "cpu")
    assert given == [(study, 0, [1], "cpu")]


@pytest.mark.parametrize("prepared", [True, False])
def test_every_model_is_made_before_anything_is_computed_and_all_that_cannot_be_are_named(root, prepared):
    content = {**SMALL, "students": ["test_byobnet", "resnet81", {"model": "inception_v3", "pretrained": "none.pth"}]}
    write_study(root, content | {"teacher": {"candidates": ["vit_tiny_patch16_224"]}})
    study = load("small")
    if prepared:
        data.prepare(study)
    with pytest.raises(ModelError) as says:
        pipeline.make_models(study, [*study.teacher.candidates, *study.students])
    wanted = [
        "no model 'resnet81'.*did you mean resnet18",
        "there is no file .*none.pth",
        "vit_tiny.*set its input_size",
    ]
    assert all(re.search(w, str(says.value)) for w in wanted) and "lcnet" not in str(says.value)


Usage = namedtuple("Usage", "free")


def test_a_full_disk_and_batches_larger_than_the_data_are_told_before_anything_is_computed(root, monkeypatch):
    write_study(root, {**SMALL, "train": {"batch_size": 200}, "seeds": [0, 1]})
    data.prepare(load("small"))
    monkeypatch.setattr(pipeline, "_check_models", lambda study, models: None)
    said = []
    pipeline.advise(Shelf(load("small")), pipeline.HERE, said.append)
    assert [str(event) for event in said] == [
        "note: a batch is more than the 120 training images: test_byobnet, shuffle, efficient"
    ]
    need = 2 * 10 * 120 * 10 * 2  # seeds, views, images, classes, bytes
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: Usage(need))
    pipeline.advise(Shelf(load("small")), pipeline.HERE, said.append)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: Usage(need - 1))
    with pytest.raises(pipeline.PipelineError, match="soft targets of 20 views need .* are free"):
        pipeline.advise(Shelf(load("small")), pipeline.HERE, said.append)


def test_a_study_of_which_every_run_fails_ends_without_a_report_and_without_an_error(root, monkeypatch):
    monkeypatch.setattr(pipeline, "_check_models", lambda study, models: None)
    monkeypatch.setattr(pipeline, "warm_up", lambda *_: None)
    monkeypatch.setattr(
        pipeline,
        "run_tasks",
        lambda tasks, slots, callbacks: [callbacks.done(t, 1.0, Failure(t, "ValueError", "broken")) for t in tasks],
    )
    said = []
    assert not pipeline.run_study("small", on_event=said.append)
    assert str(said[-1]) == "no report: no cell is done; see why with: kd logs small"
    assert sum("broken" in str(event) for event in said) == 2
    shelf = Shelf(load("small"))
    for label in shelf.candidates:
        files.write_json(shelf.teacher_folder(label) / paths.FAILURE, {"kind": "ValueError", "error": "broken"})
    said.clear()
    assert not pipeline.train_teachers(shelf, pipeline.HERE, said.append)
    assert str(said[-1]) == "teachers: 0 of 2 trained, 2 failed; see why with: kd logs small"
    for command in ("grid", "report"):
        done = kd(root, command, "small")
        assert done.returncode == 2 and "2 failed; see why with: kd logs small" in done.stderr
        assert "run: kd" not in done.stderr


def test_models_are_made_before_data_are_fetched(root, monkeypatch):
    def refuse(study, models):
        raise pipeline.PipelineError(f"cannot be made: {', '.join(model.label for model in models)}")

    monkeypatch.setattr(pipeline, "warm_up", lambda: None)
    monkeypatch.setattr(pipeline, "_check_models", refuse)
    with pytest.raises(pipeline.PipelineError, match="cannot be made: test_byobnet, shuffle, test_byobnet, efficient"):
        pipeline.run_study("small", on_event=lambda event: None)
    assert not list((root / "cache").glob("data/*/meta.json"))


def test_the_teacher_of_one_epoch_is_a_task_where_a_method_asks_for_it(monkeypatch):
    monkeypatch.delenv("KD_ROOT", raising=False)
    study = load("tiny-imagenet-20")
    assert pipeline.early_teacher_tasks(Shelf(study)) == [] and Shelf(study).controls == {}
    method = Method(method="early_teacher", T=[4], alpha=[0.5])
    shelf = Shelf(study.model_copy(update={"methods": [method]}))
    (task,) = pipeline.early_teacher_tasks(shelf)
    assert (task.name, shelf.controls) == ("early teacher", {"early teacher": None})
    assert (task.name, task.folder) in list(shelf.folders())
    assert task.folder not in {shelf.teacher_folder(label) for label in shelf.candidates}
    cell = Cell("resnet18", 4.0, 0.5, 0, "early_teacher")
    teacher, chosen = shelf.teacher, shelf.teacher.folder
    monkeypatch.setattr(records, "read", lambda folder: teacher if folder == task.folder else None)
    shelf.take(task.folder)  # it is no candidate, though its record names one
    assert shelf.controls == {"early teacher": teacher} and shelf.teacher is teacher and chosen == teacher.folder
    assert not shelf.done(cell) and pipeline.early_teacher_tasks(shelf) == []
