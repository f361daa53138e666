"""One run = one record, written last and at once; all records of a study -> one tidy table.

A record is a JSON file in the run's folder. It alone says that the run is done: an executed notebook does not.
Loads no torch.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import files, paths
from .study import Cell, Data, Study, digest, student_settings, teacher_settings

SCHEMA = 1

# The columns of results.csv: one row a run, sorted by the method, then the first four. Shares are fractions, 0 to 1.
COLUMNS = {
    "student": "the student's name in the study file",
    "T": "temperature; empty at alpha = 1, where the loss does not depend on it",
    "alpha": "weight of the cross-entropy; 1 is training without distillation, the baseline",
    "seed": "seed of initial weights, order and views",
    "method": "kd, plain distillation, is the grid; else the name of a row under `methods` in the study file",
    "top1_best": "accuracy on val at the best epoch, which is chosen on holdout, or on val where there is none",
    "top1_last": "accuracy on val at the last epoch",
    "top5": "share of val images whose label is among the five largest logits, at the best epoch",
    "nll": "mean negative log-likelihood on val at the best epoch, in nats",
    "ece": "expected calibration error on val at the best epoch, 15 equal-width bins",
    "agreement": "share of val images on which student and teacher predict the same class, at the best epoch",
    "top1_holdout": "accuracy on holdout at the best epoch; empty where the study holds none out",
    "best_epoch": "the best epoch, from 1",
    "epochs": "epochs trained",
    "train_loss": "mean training loss of the last epoch, in nats",
    "val_images": "number of val images",
    "train_seconds": "seconds of training, evaluation not counted",
    "images_per_second": "training images per second, over all epochs",
    "device": "device that it was trained on",
    "teacher": "the teacher's name in the study file",
    "id": "the run: the name of its folder in results/STUDY/students",
}


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True)
class Record:
    """A finished run, as found on disk."""

    folder: Path
    values: dict

    def __getitem__(self, key: str):
        return self.values[key]

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def metrics(self) -> dict:
        return self.values["metrics"]

    @property
    def method(self) -> str:
        """Of a student: kd, or the label of a further method."""
        return self.values.get("method", "kd")

    @property
    def cell(self) -> Cell:
        """Of a student: its cell."""
        return Cell(self["student"], self["T"], self["alpha"], self["seed"], self.method)

    @cached_property
    def predictions(self) -> dict:
        """On val at the best epoch: arrays label, predicted (uint16), confidence (float32), each (N,).

        And of a few of these images: example, their indices (K,), and example_logits, (K, classes) float16.
        """
        import numpy as np

        path = self.folder / "predictions.npz"
        try:
            with np.load(path, allow_pickle=False) as found:
                return {k: found[k] for k in ("label", "predicted", "confidence", "example", "example_logits")}
        except (OSError, EOFError, ValueError, KeyError) as e:
            raise RecordError(f"{path}: {e}; delete the folder {self.folder} to run it again") from e

    @property
    def val_logits(self):
        """On val at the best epoch: (N, classes) float16, mapped from disk. Raises RecordError where they are not."""
        import numpy as np

        path = self.folder / "val_logits.npy"
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as e:
            raise RecordError(
                f"{path} cannot be read ({e}); logits are not kept in git: delete the folder {self.folder} and run "
                f"`kd run {self['study']}` to make them again"
            ) from e

    def class_accuracy(self, classes: int):
        """Accuracy on val of each class at the best epoch, (classes,) fractions."""
        import numpy as np

        label = self.predictions["label"]
        right = np.bincount(label, weights=self.predictions["predicted"] == label, minlength=classes)
        return right / np.bincount(label, minlength=classes)


def write(folder: Path, values: dict, predictions: dict) -> Record:
    """Write a run's predictions (name -> array), then its record: after that the run is done."""
    import numpy as np

    with files.whole(folder / "predictions.npz") as tmp, open(tmp, "wb") as f:
        np.savez_compressed(f, **predictions)
    values = {"schema": SCHEMA, **values}
    files.write_json(folder / "record.json", {**values, "checksum": digest(values)})
    return read(folder)


def read(folder: Path) -> Record | None:
    """The record in a run's folder; None if the run is not done. Raises RecordError if it cannot be trusted."""
    path = folder / "record.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise RecordError(f"{path}: not a record ({e}); delete the folder {folder} to run it again") from e
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else None
        raise RecordError(
            f"{path}: written by another version (schema {found}, this is {SCHEMA}); "
            f"move the folder {folder} away, and it is run again"
        )
    checksum = values.pop("checksum", None)
    if digest(values) != checksum or not folder.name.endswith(values["key"]):
        raise RecordError(
            f"{path}: changed after it was written; restore it, or delete the folder {folder} to run it again"
        )
    return Record(folder, values)


def data_spec(data: Data) -> dict:
    """What a study asks of its data, but for where they lie."""
    return data.model_dump(exclude={"source"})


def note_data(study: Study, meta: dict) -> None:
    """Note beside the results which data they are of; `meta` is a data set's.

    By this, records can be told apart where the images themselves are not at hand.
    """
    noted = {k: meta[k] for k in ("fingerprint", "classes", "counts", "image_size")}
    noted["spec"] = data_spec(study.data)
    path = paths.results(study.name) / "data.json"
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != noted:
        files.write_json(path, noted)


def noted_data(study: Study) -> dict | None:
    """What `note_data` noted: fingerprint, classes, counts, image_size; None if the study asks for other data."""
    path = paths.results(study.name) / "data.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if found["spec"] == data_spec(study.data) else None


def teacher_folder(study: Study, label: str, fingerprint: str) -> Path:
    """Where the run of a candidate of this study lies, as the study stands."""
    key = digest(teacher_settings(study, study.candidate(label), fingerprint))
    return paths.run(study.name, "teacher", f"{label}-s{study.teacher.seed}-{key}")


def student_folder(study: Study, cell: Cell, fingerprint: str, teacher: Record) -> Path:
    """Where the run of a cell of this study lies, as the study stands, with this teacher."""
    key = digest(student_settings(study, cell, fingerprint, teacher["weights_sha256"]))
    return paths.run(study.name, "student", f"{cell.name}-{key}")


def teachers(study: Study, fingerprint: str) -> list[Record]:
    """The trained candidates of the study as it stands, best first (ties: the earlier in the study file)."""
    found = [read(teacher_folder(study, c.label, fingerprint)) for c in study.teacher.candidates]
    return sorted((r for r in found if r), key=lambda r: -r["score"])


def best_teacher(study: Study, fingerprint: str) -> Record | None:
    """The study's teacher: the best candidate, once every one of them is trained; None before that."""
    found = teachers(study, fingerprint)
    return found[0] if len(found) == len(study.teacher.candidates) else None


def students(study: Study, fingerprint: str, teacher: Record) -> list[Record]:
    """All finished runs that fit the study as it stands, off-grid points among them, sorted as results.csv is."""
    found = []
    labels = {s.label for s in study.students}
    methods = {"kd", *(m.label for m in study.methods)}
    for path in sorted((paths.results(study.name) / "students").glob("*/record.json")):
        record = read(path.parent)
        if record is None or record["student"] not in labels or record.method not in methods:
            continue
        if student_folder(study, record.cell, fingerprint, teacher) == path.parent:
            found.append(record)
    order = ["kd", *(m.label for m in study.methods)]
    return sorted(
        found,
        key=lambda r: (order.index(r.method), r["student"], r["T"] is None, r["T"] or 0, r["alpha"], r["seed"]),
    )


def others(study: Study, fitting: list[Record]) -> int:
    """How many finished cells lie in the study's results that do not fit the study as it stands."""
    return sum(1 for _ in (paths.results(study.name) / "students").glob("*/record.json")) - len(fitting)


def table(found: list[Record]):
    """A DataFrame of student records, one row a run, with the columns of COLUMNS."""
    import pandas as pd

    rows = []
    for r in found:
        values = {**r.values, **r.metrics, **r["cost"], **r["provenance"], "id": r.id, "method": r.method}
        values["train_loss"] = r["history"][-1]["loss"]
        rows.append({column: values.get(column) for column in COLUMNS})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"T": float, "alpha": float, "top1_holdout": float})


def write_csv(study: Study, found: list[Record]) -> Path:
    """Write results/STUDY/results.csv and return its path."""
    path = paths.results(study.name) / "results.csv"
    with files.whole(path) as tmp:
        table(found).to_csv(tmp, index=False, float_format="%.6g", lineterminator="\n")
    return path


def history(record: Record):
    """A DataFrame of a record's epochs: epoch (from 1), loss, ce, kl (nats), lr, seconds, top1 figures."""
    import pandas as pd

    return pd.DataFrame(record["history"])
