import json
import shutil

import pandas as pd
import pytest

from kd_utils import records
from kd_utils.cells import Cell
from kd_utils.learning import data, metrics, training
from kd_utils.learning import run as runs
from kd_utils.reporting import results, sentences
from kd_utils.shelf import Shelf
from kd_utils.study import load


def folders(root):
    return sorted(p.parent for p in (root / "results" / "small" / "students").glob("*/record.json"))


def test_results_csv_is_sorted_complete_and_described(at_finished):
    frame = pd.read_csv(at_finished / "results" / "small" / "results.csv")
    assert list(frame.columns) == list(records.COLUMNS) and all(records.COLUMNS.values())
    assert len(frame) == 2 * 5
    assert frame["student"].is_monotonic_increasing
    assert frame["T"].isna().tolist() == (frame["alpha"] == 1).tolist()
    for column in ("top1_best", "top1_last", "top5", "ece", "agreement"):
        assert frame[column].between(0, 1).all()
    assert (frame["top5"] >= frame["top1_best"]).all()
    assert (frame["nll"] > 0).all() and (frame["train_seconds"] > 0).all()


def test_metrics_are_those_of_the_predictions(at_finished):
    study = load("small")
    found = results.load(study)
    for r in found.students:
        p = r.predictions
        assert (p["predicted"] == p["label"]).mean() == pytest.approx(r.metrics.top1_best)
        assert (p["predicted"] == found.teacher.predictions["predicted"]).mean() == r.metrics.agreement
        assert p["label"].tolist() == data.load(study).labels("val").tolist()
        top5 = metrics.top_k(r.val_logits, p["label"], 5)  # of logits that are kept as float16
        assert r.metrics.top5 == pytest.approx(top5, abs=0.1)
        assert r.metrics.top1_best == max(row["val_top1"] for row in r.history)
        assert r.metrics.top1_last == r.history[-1]["val_top1"]


def test_a_record_names_what_made_it(at_finished):
    r = results.load("small").students[0]
    assert {"finished", "git", "device", "threads", "precision", "versions"} <= r.provenance.model_fields_set
    assert r.provenance.threads == 1 and r.provenance.versions["torch"]
    assert {"loss", "ce", "kl", "seconds"} <= set(r.history[0])


def test_the_stored_weights_give_the_stored_metrics(at_finished):
    run = runs.student("small", student="efficient", T=4, alpha=0.5, device="cpu")
    assert run.done
    logits = training.predict_logits(run.model, run.dataset.images("val"))
    assert (logits.argmax(1) == run.record.predictions["predicted"]).all()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[: len(text) // 2], "not a record"),
        (lambda text: text.replace('"schema": 2', '"schema": 99'), r"another version \(schema 99, this reads 1 to 2\)"),
        (lambda text: text.replace('"lr": 0.005', '"lr": 0.002'), "changed after it was written"),
        (
            lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "metrics"}),
            "metrics: Field required",
        ),
    ],
)
def test_a_record_that_cannot_be_trusted_is_named(copied, spoil, says):
    path = folders(copied)[0] / "record.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(records.RecordError, match=says) as e:
        Shelf(load("small")).check()
    assert str(path) in str(e.value)
    found = results.load("small")
    assert (len(found.students), found.damaged) == (9, 1) and "damaged: 1 record." in sentences.front(found).abstract


def test_missing_predictions_are_named(copied):
    (folders(copied)[0] / "predictions.npz").write_bytes(b"")
    with pytest.raises(records.RecordError, match="predictions.npz"):
        [r.predictions for r in results.load("small").students]


def test_runs_of_another_setting_are_kept_and_not_mixed_in(copied):
    path = copied / "studies" / "small.yaml"
    path.write_text(path.read_text().replace("epochs: 3", "epochs: 4"))
    study = load("small")
    shelf = Shelf(study)
    assert shelf.teacher and shelf.students == [] and shelf.others == 10
    assert len(folders(copied)) == 10


def test_a_record_does_not_need_the_images(copied):
    shutil.rmtree(copied / "cache")
    assert len(results.load("small").students) == 10


def test_logits_of_another_run_are_not_taken(copied):
    mine, other = results.load("small").students[:2]
    shutil.copy(other.folder / "val_logits.npy", mine.folder)
    with pytest.raises(records.RecordError, match="val_logits.npy .*another run's"):
        mine.val_logits  # noqa: B018
    assert len(other.val_logits) == other.metrics.val_images


def test_off_grid_runs_are_rows_but_no_cells(copied):
    runs.student("small", student="efficient", T=3, alpha=0.25).go()
    study = load("small")
    assert len(Shelf(study).students) == 11 and len(results.load(study).students) == 10
    assert Cell("efficient", 3.0, 0.25, 0) not in study.cells()


def test_the_published_numbers_are_the_study_s():
    frame = results.published()
    assert len(frame) == 16 and set(frame["student"]) == {"resnet18", "shufflenet_v2_x1_0"}
    best = frame[frame["student"] == "shufflenet_v2_x1_0"].nlargest(1, "val_acc_pct").iloc[0]
    assert (best["T"], best["alpha"], best["val_acc_pct"]) == (100, 0.5, 65.24)
