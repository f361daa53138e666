import json
import os
import re
import shutil
import time

import pandas as pd
from helpers import SMALL, kd, same, typed, write_study

import kd_utils
from kd_utils import files
from kd_utils.learning import run as runs
from kd_utils.running import events, pace, pipeline
from kd_utils.shelf import RunProgress, Shelf
from kd_utils.study import load


def test_what_is_done_is_not_done_again(finished, copied):
    """The report is made anew from the records, and is the same to the byte; so is the table."""
    before = {p: p.stat().st_mtime_ns for p in (copied / "results").rglob("record.json")}
    (copied / "results" / "small" / "results.csv").unlink()
    shutil.rmtree(copied / "report")
    done = kd(copied, "run", "small")
    assert done.returncode == 0 and "done:" not in done.stdout and len(before) == 12
    assert {p: p.stat().st_mtime_ns for p in (copied / "results").rglob("record.json")} == before
    assert done.stdout.strip().splitlines()[-1] == f"report: {copied}/report/small/report.pdf"
    for path in ("report/small/report.pdf", "report/small/report.html", "results/small/results.csv"):
        assert (copied / path).read_bytes() == (finished / path).read_bytes(), path


def test_python_runs_a_study_and_is_told_what_happens(finished, copied):
    """One cell is missing; run_study trains it and nothing else, by the events that a terminal would show."""
    missing = next((copied / "results" / "small" / "students").glob("efficient-T20-a0-*"))
    shutil.rmtree(missing)
    told = []
    assert kd_utils.run_study("small", on_event=told.append) is True
    done = [event for event in told if isinstance(event, events.Done)]
    assert [event.name for event in done] == ["efficient-T20-a0-s0"]
    assert done[0].top1 == json.loads((missing / "record.json").read_text())["metrics"]["top1_best"]
    steps = [event.done for event in told if isinstance(event, events.StageProgress) and event.stage == "cells"]
    assert steps[0] == 0 and steps == sorted(steps)
    said = [str(event) for event in told if isinstance(event, events.Said)]
    assert [line.split(":")[0] for line in said] == ["data", "teacher", "cells", "report"]
    assert said[2] == "cells: 10 of 10 done" and (copied / "report" / "small" / "report.pdf").is_file()
    same(finished, copied)


def test_further_methods_are_added_to_a_finished_study(copied):
    """Only they are run, each learning from whom it says: the teacher, its own baseline, or a control's teacher.

    The baseline is missing, and self-distillation waits for it.
    """
    names = ["self", "dkd", "standardised", "dist", "label_smoothing", "permuted", "early_teacher", "random_teacher"]
    rows = [{"method": m} for m in names]
    write_study(copied, {**SMALL, "students": ["test_byobnet"], "methods": rows})
    shutil.rmtree(next((copied / "results" / "small" / "students").glob("test_byobnet-baseline-*")))
    stores = {p.name for p in (copied / "cache" / "soft_targets").iterdir()}
    done = kd(copied, "grid", "small")
    assert done.returncode == 0 and "cells: 13 of 13 done" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("done: ") == 10
    assert done.stdout.index("done: early teacher") < done.stdout.index("done: test_byobnet-early_teacher-T4-a0.5-s0")
    assert done.stdout.index("done: test_byobnet-baseline-s0") < done.stdout.index("done: test_byobnet-self-T4-a0.5-s0")
    table = pd.read_csv(copied / "results" / "small" / "results.csv")
    assert list(table["method"].iloc[-8:]) == names and set(table["method"].iloc[:-8]) == {"kd"}
    assert table["train_loss"].iloc[-8:].nunique() == 8
    added = [p for p in (copied / "cache" / "soft_targets").iterdir() if p.name not in stores]
    bound = [json.loads((store / "binding.json").read_text())["teacher_sha256"] for store in added]
    baseline = next((copied / "results" / "small" / "students").glob("test_byobnet-baseline-*"))
    teachers = [json.loads(p.read_text()) for p in (copied / "results" / "small" / "teachers").glob("*/record.json")]
    (early,) = (record for record in teachers if record["settings"]["train"]["epochs"] == 1)
    chosen = max((record for record in teachers if record is not early), key=lambda record: record["score"])
    assert early["teacher"] == chosen["teacher"] and early["metrics"]["epochs"] == 1
    known = {json.loads((baseline / "record.json").read_text())["weights_sha256"], early["weights_sha256"]}
    assert known < set(bound) and len(bound) == 3  # the third is of random weights, which have no record
    shown = kd(copied, "status", "small").stdout
    assert "13 done, 0 failed, 0 running, 0 waiting" in shown
    assert f"  early teacher  {early['metrics']['top1_best']:.2%}\n" in shown
    best = 100 * table.loc[table["method"] == "dist", "top1_best"].iloc[0]
    assert re.search(rf"dist, T 4, alpha 0.5: {best:.2f}", shown)
    assert re.search(r"^  label_smoothing, alpha ", shown, re.M)  # it has no temperature
    report = kd(copied, "report", "small")
    assert report.returncode == 0, report.stderr
    notebook = (copied / "results" / "small" / "analysis.ipynb").read_text()
    assert "Is it the teacher?" in notebook and "Szegedy" in notebook
    assert "tbl-further" in notebook


def test_every_run_keeps_its_notebook_beside_its_record(finished):
    for folder in (finished / "results" / "small" / "students").iterdir():
        names = {p.name for p in folder.iterdir()}
        assert names == {"record.json", "predictions.npz", "weights.safetensors", "val_logits.npy", "distill.ipynb"}
        nb = json.loads((folder / "distill.ipynb").read_text())
        assert not nb["metadata"]["papermill"]["exception"]


def test_a_failed_cell_is_reported_and_stops_no_other(copied):
    """The cells of a student whose loss is not finite fail, with the reason.

    They come first; the other's cells are done nevertheless, there is a report, and the exit code is 1.
    """
    grows = {"optimizer": "sgd", "lr": 1000, "weight_decay": 1000}  # weights, a million times a step
    broken = {"model": "test_byobnet", "name": "broken", "train": grows}
    write_study(copied, {**SMALL, "students": [broken, "test_byobnet"], "grid": {"T": [4], "alpha": [0.5]}})
    students = copied / "results" / "small" / "students"
    for folder in [*students.glob("test_byobnet-T4-a0.5-*"), *students.glob("test_byobnet-baseline-*")]:
        shutil.rmtree(folder)
    shutil.rmtree(copied / "report")
    done = kd(copied, "run", "small")
    shown = " ".join(done.stdout.split())  # the terminal wraps
    assert (
        done.returncode == 1
        and "cells: 2 of 4 done, 2 failed; see why with: kd logs small" in shown
        and "tried again" not in shown
    )
    assert shown.count("failed: broken") == 2 and "lower train.lr" in shown
    assert (copied / "report" / "small" / "report.pdf").is_file()
    assert "note: the report has what is done, 2 failed" in shown
    status = kd(copied, "status", "small").stdout
    assert "2 done, 2 failed, 0 running, 0 waiting" in status and "lower train.lr" in status
    folder = next(students.glob("broken-T4*"))
    assert {"failure.json", "distill.ipynb"} <= {p.name for p in folder.iterdir()}


def test_soft_targets_that_failed_are_told_as_long_as_a_cell_waits_for_them(copied):
    folder = copied / "results" / "small" / "soft-targets-seed0-view0001"
    files.write_json(folder / "failure.json", {"kind": "ValueError", "error": "broken"})
    assert "failed" not in kd(copied, "list").stdout
    shutil.rmtree(next((copied / "results" / "small" / "students").glob("efficient-T4-a0.5*")))
    assert "1 failed" in kd(copied, "list").stdout
    assert "failed: soft targets, seed 0, view 1: broken" in kd(copied, "status", "small").stdout
    told = kd(copied, "logs", "small").stdout
    assert told.startswith(f"soft targets, seed 0, view 1: {folder}") and '"error": "broken"' in told


def test_status_shows_how_far_it_is(finished, root):
    assert "2 of 2 trained" in (shown := kd(finished, "status", "small").stdout) and "10 done" in shown
    assert "data: not prepared; run: kd data small" in kd(root, "status", "small").stdout


def test_a_teacher_whose_weights_are_elsewhere_is_asked_for_once(copied):
    """As after a clone: records, but no weights and no soft targets."""
    shutil.rmtree(copied / "cache" / "soft_targets")
    for path in (copied / "results").rglob("*.safetensors"):
        path.unlink()
    assert kd(copied, "grid", "small").returncode == 0  # nothing is asked of them
    shutil.rmtree(next((copied / "results" / "small" / "students").glob("efficient-T4-a0.5*")))
    done = kd(copied, "grid", "small")
    assert done.returncode == 2 and "the teacher's weights are not here" in done.stderr


def test_what_a_killed_command_left_is_not_running(copied):
    study = load("small")
    folder = next((copied / "results" / "small" / "students").glob("efficient-T4-a0.5-*"))
    (folder / "record.json").unlink()
    progress = folder / "progress.json"
    progress.write_text('{"epoch": 2, "epochs": 3, "epoch_seconds": 1.5, "images_per_second": 80.0}')
    assert Shelf(study).running() == {}
    with pipeline.held(study):
        later = time.time() + 5
        os.utime(progress, (later - 60, later - 60))
        assert Shelf(study).running() == {}
        os.utime(progress, (later, later))
        running = Shelf(study).running()
        assert running == {"efficient-T4-a0.5-s0": RunProgress(2, 3, 1.5, 80.0)}
        assert pace.left(Shelf(study), running, 1).seconds > 0


def test_status_shows_a_teacher_in_training(copied):
    folder = next((copied / "results" / "small" / "teachers").glob("shuffle-*"))
    (folder / "record.json").unlink()
    assert re.search(r"shuffle +waiting$", kd(copied, "status", "small").stdout, re.M)
    with pipeline.held(load("small")):
        progress = folder / "progress.json"
        progress.write_text('{"epoch": 0.25, "epochs": 2, "epoch_seconds": 4800.0, "images_per_second": 20.0}')
        os.utime(progress, (time.time() + 5,) * 2)
        said = kd(copied, "status", "small").stdout
    assert re.search(r"shuffle +0\.25 of 2 epochs, 80\.0 min an epoch, 20 images/s$", said, re.M), said


def test_a_long_epoch_says_how_far_it_is(copied, monkeypatch):
    """As other commands see it: in the middle of an epoch, and at its end."""
    study, seen = load("small"), []
    shutil.rmtree(next((copied / "results" / "small" / "students").glob("efficient-T4-a0.5-*")))
    monkeypatch.setattr(runs, "NOTE_SECONDS", 0)  # at each batch but the first

    class Show:
        def begin(self, epochs): ...
        def end(self): ...
        def batch(self, done):
            seen.append((done, Shelf(study).running()))

        def epoch(self, row): ...

    with pipeline.held(study):
        time.sleep(0.01)  # what is noted is younger than who holds the study
        runs.student(study, student="efficient", T=4, alpha=0.5).fit(Show())
        (last,) = Shelf(study).running().values()
    assert str(last).startswith("3 of 3 epochs, ")
    within = [(done, next(iter(at.values()))) for done, at in seen if at]
    assert len(within) > 3 and any(at.epoch % 1 for _, at in within)
    for done, at in within:
        assert at.epochs == 3 and done - 1 < at.epoch <= done and at.epoch_seconds > 0 and at.images_per_second > 0


def test_seeds_are_run_one_after_the_other(copied):
    """The first seed's figures are there before the second one's soft targets are computed."""
    content = {**SMALL, "students": ["test_byobnet"], "grid": {"T": [4], "alpha": [0.5]}, "seeds": [0, 1]}
    write_study(copied, content)
    shutil.rmtree(next((copied / "results" / "small" / "students").glob("test_byobnet-T4-a0.5-*")))
    done = kd(copied, "grid", "small", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    said = ["T4-a0.5-s0", "baseline-s1", "T4-a0.5-s1"]
    said = [f"done: test_byobnet-{cell}" for cell in said]
    said.insert(2, "done: soft targets, seed 1, ")  # which the baseline does not need
    assert sorted(said, key=done.stdout.index) == said


def test_logs_show_what_a_run_has_printed(finished):
    shown = kd(finished, "logs", "small", "efficient-T4-a0.5-s0")
    assert shown.returncode == 0 and "3 epochs in " in shown.stdout and "distill.ipynb" in shown.stdout
    wrong = kd(finished, "logs", "small", "nothing")
    assert wrong.returncode == 2 and "has no run 'nothing'; did you mean " in wrong.stderr


def test_the_package_s_errors_are_one_line(root):
    for command, words, says in (
        (typed, ("run", "nothing"), "no study file"),
        (typed, ("teacher", "small"), "run: kd data small"),
        (kd, ("grid", "small"), "run: kd data small"),
        (kd, ("report", "small"), "run: kd run small"),
        (kd, ("data", "small", "--source", "x.zip"), "a source is for tiny-imagenet"),
    ):
        done = command(root, *words)
        assert done.returncode == 2 and done.stderr.startswith("kd: ") and says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_study_is_held_by_one_command(root):
    with pipeline.held(load("small")):
        done = typed(root, "data", "small")
    assert done.returncode == 2 and "another kd command is working on study 'small'" in done.stderr
    assert kd(root, "data", "small").returncode == 0
