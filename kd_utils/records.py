"""One run = one record, written last and at once; records -> one tidy table.

A record is a JSON file in the run's folder. It alone says that the run is done: an executed notebook does not.
Loads no torch.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

# pydantic looks through every installed package for plugins, of which there are none
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from . import files, paths
from .cells import Cell
from .keys import digest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SCHEMA = 2  # 1 had no hash of the predictions, and 'auto' for the precision that was asked for

MOST_PREDICTIONS = 100_000_000  # bytes of a run's predictions, unpacked: eight or so an image

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
    """A record that cannot be read; the message names the file, the key and what to do.

    wrong: what is wrong with it, without the file's name and what to do.
    """

    def __init__(self, wrong: str, *, file: Path | str = "", then: str = "") -> None:
        super().__init__(f"{file}: {wrong}; {then}" if file else wrong)
        self.wrong = wrong


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


Share = Annotated[float, Field(ge=0, le=1)]


def _a_time(text: str) -> str:
    datetime.fromisoformat(text)  # raises ValueError: a terminal is shown this text
    return text


class Metrics(_Strict):
    """What a run came to on val, as COLUMNS describes it. Fractions, and nats for nll."""

    top1_best: Share
    top1_last: Share
    top5: Share
    nll: float = Field(ge=0)
    ece: Share
    best_epoch: int = Field(ge=0)  # from 1; 0 of what was not trained
    epochs: int = Field(ge=0)
    val_images: int = Field(ge=1)
    top1_holdout: Share | None = None
    agreement: Share | None = None  # of a student with its teacher


class Cost(_Strict):
    """What a run took: seconds of training, and images per second in training and in evaluation."""

    train_seconds: float = Field(ge=0)
    images_per_second: float = Field(ge=0)
    inference_images_per_second: float | None = Field(default=None, ge=0)


class Provenance(_Strict):
    """How a run was made. It changes its metrics by rounding at most, and is no part of its key."""

    finished: Annotated[str, AfterValidator(_a_time)]  # ISO 8601, UTC
    git: str  # commit of the checkout, with '+' if files differed from it
    device: str  # cpu, cuda or mps
    device_name: str
    threads: int
    precision: str
    weights_from: str
    parameters: int
    python: str
    versions: dict[str, str]
    soft_targets_top1: float | None = None  # share of training images whose class they name, in the first view
    soft_targets_from: list[str] | None = None  # the kinds of device that computed them


class Record(_Strict):
    """A finished run, as it is on disk; settings are all that its metrics depend on, and key is their hash."""

    folder: Path = Field(default=Path(), exclude=True)  # where it was read from
    version: int = Field(alias="schema")
    id: str
    key: str
    study: str
    teacher: str
    seed: int
    score: Share  # what the best epoch, and the teacher, was chosen by: accuracy on holdout, or on val
    weights_sha256: str
    predictions_sha256: str | None = None  # of the file; None in schema 1
    metrics: Metrics
    cost: Cost
    settings: dict[str, Any]
    history: list[dict[str, int | float]]  # an epoch each
    provenance: Provenance

    @cached_property
    def predictions(self) -> "dict[str, np.ndarray]":
        """On val at the best epoch: arrays label, predicted (uint16), confidence (float32), each (N,).

        And of a few of these images: example, their indices (K,), and example_logits, (K, classes) float16.
        Raises RecordError if the file is damaged, or is not the one that the record speaks of.
        """
        import zipfile

        import numpy as np

        path = self.folder / paths.PREDICTIONS
        try:
            if self.predictions_sha256 and files.sha256(path) != self.predictions_sha256:
                raise ValueError("not the file that the record speaks of")
            with np.load(path, allow_pickle=False) as stored:
                if sum(entry.file_size for entry in stored.zip.infolist()) > MOST_PREDICTIONS:
                    raise ValueError(f"more than {MOST_PREDICTIONS:,} bytes, unpacked")
                arrays = {k: stored[k] for k in ("label", "predicted", "confidence", "example", "example_logits")}
            self._check(arrays)
            return arrays
        except FileNotFoundError:
            raise RecordError(
                f"{path} is gone; restore it, or delete the folder {self.folder} to run it again"
            ) from None
        except (OSError, EOFError, ValueError, KeyError, AttributeError, MemoryError, zipfile.BadZipFile) as e:
            raise RecordError(f"{path}: {e}; delete the folder {self.folder} to run it again") from e

    def _check(self, arrays: "dict[str, np.ndarray]") -> None:
        """Raises ValueError where predictions are not what a run of this record writes."""
        import numpy as np

        label, predicted, confidence, example, logits = arrays.values()
        images = (self.metrics.val_images,)
        classes = logits.shape[1] if logits.ndim == 2 else 0
        whole = all(np.issubdtype(a.dtype, np.integer) and a.min(initial=0) >= 0 for a in (label, predicted, example))
        if not whole or not {label.shape, predicted.shape, confidence.shape} == {images}:
            raise ValueError("they are not a label, a class and a confidence for each of the record's images")
        if max(label.max(), predicted.max()) >= classes or example.max(initial=0) >= images[0]:
            raise ValueError("they speak of classes or images that are not there")
        if not ((confidence >= 0) & (confidence <= 1)).all() or logits.dtype.kind != "f" or np.isnan(logits).any():
            raise ValueError("a confidence or a logit is no number that it can be")
        if abs((predicted == label).mean() - self.metrics.top1_best) > 1e-9:
            raise ValueError("they do not have the accuracy that the record speaks of")

    def __repr__(self) -> str:
        return f"<{self.id}: {self.metrics.top1_best:.2%} top-1 on val, done {self.provenance.finished}>"

    __str__ = __repr__

    def _repr_markdown_(self) -> str:
        """As a table, in a notebook."""
        rows = {"run": self.id, "top-1 on val": f"{self.metrics.top1_best:.2%}", "teacher": self.teacher}
        rows |= {"epochs": self.metrics.epochs, "done": self.provenance.finished, "folder": paths.shown(self.folder)}
        return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])

    @property
    def val_logits(self) -> "np.ndarray":
        """On val at the best epoch: (N, classes) float16, mapped from disk.

        Raises RecordError where they are not, or where those of the examples are not the predictions' own.
        """
        import numpy as np

        path = self.folder / paths.VAL_LOGITS
        try:
            logits = np.load(path, mmap_mode="r")
            if len(logits) != self.metrics.val_images:
                raise ValueError(f"{len(logits):,} rows for {self.metrics.val_images:,} images")
            examples = self.predictions
            if not np.array_equal(logits[examples["example"]], examples["example_logits"]):
                raise ValueError("they are another run's")
            return logits
        except (OSError, EOFError, ValueError) as e:
            raise RecordError(
                f"{path} cannot be read ({e}); logits are not kept in git: bring that file from where the run was made"
            ) from e

    def class_accuracy(self, classes: int) -> "np.ndarray":
        """Accuracy on val of each class at the best epoch, (classes,) fractions."""
        import numpy as np

        label = self.predictions["label"]
        right = np.bincount(label, weights=self.predictions["predicted"] == label, minlength=classes)
        return right / np.bincount(label, minlength=classes)


class TeacherRecord(Record):
    """A trained candidate; `teacher` is its name in the study file."""


class StudentRecord(Record):
    """A finished cell; `teacher` is the teacher's name in the study file, teacher_id its run."""

    student: str
    T: float | None = Field(gt=0)  # None at alpha = 1
    alpha: Share
    method: str = "kd"
    teacher_id: str

    @model_validator(mode="after")
    def _baseline_has_no_temperature(self) -> Self:
        if (self.T is None) != (self.alpha == 1):
            raise ValueError(f"alpha {self.alpha} does not go with T {self.T}: at alpha = 1, and only there, T is null")
        return self

    @model_validator(mode="after")
    def _was_trained(self) -> Self:
        needed = {"epoch", "loss", "ce_grad", "kl_grad"}  # what tables and figures are made of
        if not self.history or any(not needed <= epoch.keys() for epoch in self.history):
            raise ValueError(f"history is empty, or an epoch has not all of {', '.join(sorted(needed))}")
        return self

    @property
    def cell(self) -> Cell:
        """The cell that was run."""
        return Cell(self.student, self.T, self.alpha, self.seed, self.method)


def write(folder: Path, values: dict[str, Any], predictions: "dict[str, np.ndarray]") -> Record:
    """Write a run's predictions, then its record: after that the run is done.

    values: what Record, or StudentRecord, names, but folder, schema and predictions_sha256. Raises RecordError, and
    writes no record, where they are not what a record says.
    """
    import numpy as np

    with files.whole(folder / paths.PREDICTIONS) as tmp, open(tmp, "wb") as f:
        np.savez_compressed(f, allow_pickle=False, **predictions)
    values = {"schema": SCHEMA, **values, "predictions_sha256": files.sha256(folder / paths.PREDICTIONS)}
    text = json.dumps(values, indent=1, allow_nan=False)
    record = _validated(folder, text)
    with files.whole(folder / paths.RECORD) as tmp:
        tmp.write_text(_sealed(text.removesuffix("\n}")), encoding="utf-8")
    return record


def read(folder: Path) -> TeacherRecord | StudentRecord | None:
    """The record in a run's folder; None if the run is not done. Raises RecordError if it cannot be trusted."""
    path = folder / paths.RECORD
    try:
        text = files.read_text(path)
        content = text.rpartition(_CHECKSUM)[0]
        if content.startswith(_BEGINNING) and text == _sealed(content):
            values = f"{content}\n}}"  # read as it is: half of the time goes into making dictionaries
        else:
            values = _checked(folder, text, from_json(text))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecordError:
        raise
    except (OSError, ValueError) as e:
        raise RecordError(f"not a record ({e})", file=path, then=f"delete the folder {folder} to run it again") from e
    record = _validated(folder, values)
    if not folder.name.endswith(record.key):
        raise _changed(folder)
    return record


def _validated(folder: Path, values: str | dict[str, Any]) -> TeacherRecord | StudentRecord:
    """The record of these values, or of their JSON as `write` writes it. Raises RecordError, naming the key."""
    kind = StudentRecord if ('\n "student": ' if isinstance(values, str) else "student") in values else TeacherRecord
    try:
        record = kind.model_validate_json(values) if isinstance(values, str) else kind.model_validate(values)
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(str(k) for k in error['loc'])}: {error['msg']}" for error in e.errors())
        then = f"move the folder {folder} away, and it is run again"
        raise RecordError(wrong, file=folder / paths.RECORD, then=then) from None
    return record.model_copy(update={"folder": folder})


def _checked(folder: Path, text: str, values: Any) -> dict[str, Any]:
    """What a record says that may be of another version, or damaged. Raises RecordError if it cannot be trusted."""
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema not in range(1, SCHEMA + 1):
        raise RecordError(
            f"written by another version (schema {schema!r}, this reads 1 to {SCHEMA})",
            file=folder / paths.RECORD,
            then=f"move the folder {folder} away, and it is run again",
        )
    checksum = values.pop("checksum", None)
    is_whole = checksum == (digest(values) if schema == 1 else _hash(text.rpartition(_CHECKSUM)[0]))
    if schema == 1 and isinstance(values.get("settings"), dict):
        values["settings"]["precision"] = (values.get("provenance") or {}).get("precision")
    if not is_whole:
        _validated(folder, values)  # which names the key, where that is what was changed
        raise _changed(folder)
    return values


def _changed(folder: Path) -> RecordError:
    then = f"restore it, or delete the folder {folder} to run it again"
    return RecordError("changed after it was written", file=folder / paths.RECORD, then=then)


_BEGINNING = f'{{\n "schema": {SCHEMA},'  # of a record's text, as `write` writes it
_CHECKSUM = ',\n "checksum": "'  # what stands between a record's content and the hash of that text


def _sealed(content: str) -> str:
    """A record's text: its content, then the hash of that."""
    return f'{content}{_CHECKSUM}{_hash(content)}"\n}}\n'


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def table(students: Sequence[StudentRecord]) -> "pd.DataFrame":
    """One row a run, with the columns of COLUMNS."""
    import pandas as pd

    rows = []
    for r in students:
        values = {**r.metrics.model_dump(), **r.cost.model_dump(), "device": r.provenance.device}
        values |= {k: getattr(r, k) for k in ("student", "T", "alpha", "seed", "method", "teacher", "id")}
        values["train_loss"] = r.history[-1]["loss"]
        rows.append({column: values[column] for column in COLUMNS})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"T": float, "alpha": float, "top1_holdout": float})


def history(record: Record) -> "pd.DataFrame":
    """A record's epochs: epoch (from 1), loss, ce, kl (nats), lr, seconds, top1 metrics."""
    import pandas as pd

    return pd.DataFrame(record.history)
