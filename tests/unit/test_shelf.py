"""The shelf over the records that are in git: which answer which study, each read once."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from helpers import write_study
from rich.console import Console

from kd_utils import console, paths, records, shelf
from kd_utils.cells import Cell
from kd_utils.keys import key, student_settings
from kd_utils.records import RecordError
from kd_utils.shelf import Shelf
from kd_utils.study import load

STUDY = "tiny-imagenet-20"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.delenv("KD_ROOT", raising=False)
    return load(STUDY)


@pytest.fixture
def reads(monkeypatch):
    """The folders whose records were read."""
    folders, read = [], records.read
    monkeypatch.setattr(records, "read", lambda folder: folders.append(folder.name) or read(folder))
    return folders


def test_every_record_in_git_answers_its_study(study):
    full = Shelf(study)
    folder = paths.results(STUDY)
    assert len(full.teachers) == len(list((folder / "teachers").glob("*/record.json")))
    assert len(full.students) == len(list((folder / "students").glob("*/record.json"))) >= 94
    assert full.others == 0 and full.teacher.teacher == "tf_efficientnet_lite0"
    for record in [*full.teachers, *full.students]:
        assert key(record.settings) == record.key and record.id == record.folder.name


def test_each_record_is_read_once_whatever_is_asked(study, reads):
    full = Shelf(study)
    for _ in range(3):
        assert len(full.cells) == len(study.cells()) and full.students and full.teacher and full.others == 0
    assert len(reads) == len(set(reads)) == len(full.teachers) + len(full.students)


def test_a_run_that_ends_costs_one_read(study, reads):
    full = Shelf(study)
    before = full.cells
    cell, record = next((c, r) for c, r in before.items() if r)
    reads.clear()
    assert full.take(record.folder) == record
    assert full.cells == before and len(full.students) == sum(r is not None for r in before.values())
    assert reads == [record.folder.name]


def test_without_its_teacher_no_cell_is_done(study, reads):
    """A candidate more, which is not trained: there is no teacher, and so no student answers."""
    more = study.teacher.candidates[0].model_copy(update={"name": "new"})
    teacher = study.teacher.model_copy(update={"candidates": [*study.teacher.candidates, more]})
    waiting = Shelf(study.model_copy(update={"teacher": teacher}))
    assert waiting.teacher is None and not any(waiting.cells.values()) and waiting.students == []
    assert waiting.others == len(Shelf(study).students)
    with pytest.raises(shelf.ShelfError, match=rf"11 of 12 candidates trained\); run: kd teacher {STUDY}"):
        waiting.student_folder(Cell("resnet18", 4.0, 0.5, 0))


def test_a_teacher_that_is_trained_at_last_brings_its_students(study):
    full = Shelf(study)
    winner = full.teacher
    full.candidates[winner.teacher] = None
    full.__dict__.pop("teacher", None)
    full.__dict__.pop("_answering", None)
    assert full.teacher is None and full.students == []
    full.take(winner.folder)
    assert full.teacher == winner and len(full.students) == len(Shelf(study).students)


def test_records_of_other_data_do_not_answer(study):
    other = Shelf(study.model_copy(update={"data": study.data.model_copy(update={"train_per_class": 7})}))
    assert other.dataset is None and other.teacher is None and not any(other.cells.values())
    with pytest.raises(shelf.ShelfError, match=f"not prepared; run: kd data {STUDY}"):
        other.teacher_folder("convnext_atto")


@pytest.fixture
def record(study, tmp_path):
    """A folder with one record of the study, to be spoilt."""
    source = next((paths.results(STUDY) / "students").glob("resnet18-baseline-s0-*"))
    return shutil.copytree(source, tmp_path / source.name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("score"), r"record\.json: score: Field required"),
        (lambda r: r["metrics"].pop("nll"), r"record\.json: metrics\.nll: Field required"),
        (lambda r: r.update(extra=1), r"record\.json: extra: Extra inputs are not permitted"),
        (lambda r: r["provenance"].update(host="x"), r"record\.json: provenance\.host: Extra inputs"),
        (lambda r: r["metrics"].update(top1_best=7.0), r"record\.json: metrics\.top1_best: .*less than or equal to 1"),
        (lambda r: r["metrics"].update(ece=-0.1), r"record\.json: metrics\.ece: .*greater than or equal to 0"),
        (lambda r: r["metrics"].update(nll=float("inf")), r"record\.json: metrics\.nll: .*finite"),
        (lambda r: r.update(history=[]), r"record\.json: .*history is empty"),
        (lambda r: r["history"][-1].pop("loss"), r"record\.json: .*an epoch has not all of .*loss"),
        (lambda r: r["metrics"].update(top1_best="0.4"), r"record\.json: metrics\.top1_best: Input should be a valid"),
    ],
)
def test_a_record_of_other_keys_is_named_with_its_key(record, change, says):
    values = json.loads((record / "record.json").read_text())
    del values["checksum"]
    change(values)
    (record / "record.json").write_text(json.dumps({**values, "checksum": records.digest(values)}))
    with pytest.raises(RecordError, match=says):
        records.read(record)


def test_a_record_written_today_is_read_back(record):
    old = records.read(record)
    values = old.model_dump(exclude={"version", "predictions_sha256"}, exclude_none=True)
    new = records.write(record, {**values, "T": None}, old.predictions)
    assert new.version == records.SCHEMA and new.metrics == old.metrics and new.cell == old.cell
    assert (new.predictions["predicted"] == old.predictions["predicted"]).all()
    text = (record / "record.json").read_text()
    (record / "record.json").write_bytes(text.replace("\n", "\r\n").encode())  # as a checkout on Windows may have it
    assert records.read(record) == new
    (record / "record.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RecordError, match="changed after it was written"):
        records.read(record)
    (record / "record.json").write_text(text.replace('"seed": 0', '"seed": 0, "note": 1'))
    with pytest.raises(RecordError, match=r"record\.json: note: Extra inputs are not permitted"):
        records.read(record)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"T": 4.0}, "alpha 1.0 does not go with T 4.0"),
        ({"score": "0.4"}, "score: Input should be a valid number"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ],
)
def test_a_record_that_could_not_be_read_is_not_written(record, change, says):
    old, before = records.read(record), (record / "record.json").read_text()
    values = old.model_dump(exclude={"version", "predictions_sha256"}, exclude_none=True)
    with pytest.raises(RecordError, match=says):
        records.write(record, {**values, "T": None, **change}, old.predictions)
    assert (record / "record.json").read_text() == before


def test_a_record_shows_itself_in_a_line_and_in_a_notebook_as_a_table(record):
    read = records.read(record)
    shown = f"<{record.name}: {read.metrics.top1_best:.2%} top-1 on val, done {read.provenance.finished}>"
    assert repr(read) == str(read) == shown
    assert f"| run | {record.name} |" in read._repr_markdown_().splitlines()


def test_another_run_s_predictions_are_refused(record):
    """From schema 2 on a record holds the hash of its predictions."""
    old = records.read(record)
    values = old.model_dump(exclude={"version", "predictions_sha256"}, exclude_none=True)
    records.write(record, {**values, "T": None}, old.predictions)
    other = next((paths.results(STUDY) / "students").glob("resnet18-T4-a0-*"))
    shutil.copy(other / "predictions.npz", record / "predictions.npz")
    with pytest.raises(RecordError, match=r"predictions\.npz: not the file that the record speaks of"):
        records.read(record).predictions  # noqa: B018


def test_predictions_that_unpack_to_more_than_they_can_be_are_not_read(record, monkeypatch):
    monkeypatch.setattr(records, "MOST_PREDICTIONS", 1000)
    with pytest.raises(RecordError, match=r"predictions\.npz: more than 1,000 bytes, unpacked"):
        records.read(record).predictions  # noqa: B018


def test_predictions_of_another_run_are_refused_where_no_hash_binds_them(record):
    """As in the records of schema 1: what the predictions come to must be what the record says."""
    other = next((paths.results(STUDY) / "students").glob("resnet18-T4-a0.5-s0-*"))
    assert records.read(record).predictions_sha256 is None and len(records.read(record).predictions["label"])
    shutil.copy(other / "predictions.npz", record)
    with pytest.raises(RecordError, match=r"predictions\.npz: they do not have the accuracy that the record speaks of"):
        _ = records.read(record).predictions


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a: a | {"label": a["label"].astype(float)}, "they are not a label, a class and a confidence"),
        (lambda a: a | {"confidence": a["confidence"][:3]}, "they are not a label, a class and a confidence"),
        (lambda a: a | {k: a[k] + 60_000 for k in ("label", "predicted")}, "classes or images that are not there"),
        (lambda a: a | {"example": a["example"] + 4_000_000}, "classes or images that are not there"),
        (lambda a: a | {"confidence": a["confidence"] * np.nan}, "is no number that it can be"),
        (lambda a: a | {"example_logits": a["example_logits"] * np.nan}, "is no number that it can be"),
    ],
)
def test_predictions_of_another_form_are_refused(record, spoil, says):
    """In a record that says nothing of their hash; with it, whoever writes a record may write them too."""
    arrays = records.read(record).predictions
    np.savez(
        record / "predictions.npz", **spoil({k: v.astype("uint32") if k == "example" else v for k, v in arrays.items()})
    )
    with pytest.raises(RecordError, match=rf"predictions\.npz: .*{says}"):
        _ = records.read(record).predictions


def test_the_time_of_a_record_is_a_time_which_a_terminal_can_be_shown(record):
    values = records.read(record).model_dump(exclude={"version", "predictions_sha256"}, exclude_none=True)
    values["provenance"]["finished"] = "yesterday\x1b[31m"
    with pytest.raises(RecordError, match=r"provenance\.finished: .*isoformat"):
        records.write(record, {**values, "T": None}, records.read(record).predictions)


def finished_study(root, template, seeds):
    """A study of two cells a seed, all of them done: the records are the template's, but for what their keys say."""
    content = yaml.safe_load((paths.CHECKOUT / "studies" / f"{STUDY}.yaml").read_text())
    grid = {"T": [4], "alpha": [0.5]}
    write_study(root, {**content, "students": [template.student], "grid": grid, "methods": [], "seeds": seeds}, STUDY)
    study = load(STUDY)
    shelf = Shelf(study)
    for cell in study.cells():
        folder = shelf.student_folder(cell)
        settings = student_settings(study, cell, shelf.fingerprint, shelf.teacher.weights_sha256)
        of_cell = {"T": cell.T, "alpha": cell.alpha, "seed": cell.seed, "settings": settings}
        values = template.model_dump(exclude={"version", "predictions_sha256"}, by_alias=True)
        records.write(folder, {**values, **of_cell, "id": folder.name, "key": key(settings)}, {})
    return study


@pytest.fixture
def opened():
    """The files and folders that were opened, or looked for in vain."""
    names, listening = [], True

    def note(event, arguments):
        by_opener = event == "open" and arguments[1] is None  # of an open() that is noted itself
        if listening and event in ("open", "os.scandir", "os.listdir") and not by_opener:
            names.append(str(arguments[0]))

    sys.addaudithook(note)  # which cannot be taken away again
    yield names
    listening = False


def test_status_opens_and_reads_one_file_a_record(study, tmp_path, monkeypatch, opened, reads):
    template, committed = Shelf(study).record(Cell("resnet18", 4.0, 0.5, 0)), paths.results(STUDY)
    monkeypatch.setenv("KD_ROOT", str(tmp_path))
    shutil.copytree(committed / "teachers", paths.results(STUDY) / "teachers")
    shutil.copy(committed / paths.DATA, paths.results(STUDY))
    costs = {}
    for seeds in (3, 10):
        larger, out = finished_study(tmp_path, template, list(range(seeds))), io.StringIO()
        opened.clear(), reads.clear()
        console.status(larger, Console(file=out))
        costs[seeds] = len([name for name in opened if name.startswith(str(tmp_path))])
        assert f"cells: {2 * seeds} done, 0 failed, 0 running, 0 waiting" in out.getvalue()
        assert len(reads) == len(set(reads)) == 2 * seeds + len(study.teacher.candidates)
    assert costs[10] - costs[3] == 2 * (10 - 3)
