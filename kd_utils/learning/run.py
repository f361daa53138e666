"""One teacher or one cell, from its parameters to its record: the steps that a notebook walks through.

    run = student("digits", student="resnet18", T=4, alpha=0.5)
    run.fit()        # trains, or goes on where it stopped
    run.evaluate()   # figures on val
    run.save()       # writes the record: done

Each step is done at most once; a run whose record is on disk gives its figures back without training.
"""

import math
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .. import files, paths, records, seeds
from ..study import Cell, Study, StudyError, digest, student_settings, teacher_settings
from ..study import load as load_study
from . import data, losses, metrics, models, training
from .soft_targets import SoftTargets
from .views import View
from .weights import fingerprint, set_state

EVAL_BATCH = 256
EXAMPLES = 8  # images of val whose logits stay with the record, evenly spread
LOGITS_OFF = 0.1  # relative; fp32 for bf16 was 0.003 off, ImageNet weights under another normalisation 0.95


class RunError(RuntimeError):
    """A run that cannot start; the message names the command that comes first, or the parameter at fault."""


class Run:
    """What teacher and student runs share; made by `teacher` and `student`."""

    kind: str

    def __init__(self, study: Study, label: str, seed: int, device: str):
        self.study = study
        self.label = label
        self.seed = seed
        self.device = models.device(device)
        self.dataset = data.load(study)
        self.spec = self._spec()
        self.train = study.training(self.spec, teacher=self.kind == "teacher")
        self.settings = self._settings()
        self.folder = self._folder()
        self.record = records.read(self.folder)
        torch.set_num_threads(study.threads)
        self._fit: training.Fit | None = None
        self._figures: dict | None = None
        self._predictions: dict | None = None
        self._val: dict[int, np.ndarray] = {}  # epoch -> logits on val, of the best and of the latest evaluation
        self._inference_pace = 0.0  # images per second of the latest evaluation

    # --- what a kind of run says of itself

    def _spec(self):
        raise NotImplementedError

    def _settings(self) -> dict:
        raise NotImplementedError

    def _folder(self) -> Path:
        raise NotImplementedError

    def _loss(self) -> training.LossFunction:
        raise NotImplementedError

    def _extra(self) -> Callable[[int], torch.Tensor] | None:
        return None

    def _parameters(self) -> dict:
        raise NotImplementedError

    # --- the steps

    @property
    def done(self) -> bool:
        return self.record is not None

    @cached_property
    def model(self) -> torch.nn.Module:
        """The model on its device: with its trained weights if the run is done and they are kept, else untrained."""
        torch.manual_seed(seeds.initial_weights(self.seed))
        weights = self.folder / "weights.safetensors"
        spec = self.spec.model_copy(update={"pretrained": False}) if self.done else self.spec
        model = models.create(spec, len(self.dataset.classes), self.dataset.meta["image_size"])
        if self.done:
            if not weights.is_file():
                raise RunError(
                    f"{weights} is not there (weights are not kept in git); "
                    f"delete the folder {self.folder} and run `kd run {self.study.name}` to train it again"
                )
            self._restore(model, weights)
        model = model.to(self.device)
        if self.study.data_parallel and self.device.type == "cuda" and torch.cuda.device_count() > 1:
            model = torch.nn.DataParallel(model)
        return model

    def _restore(self, model: models.Classifier, path: Path) -> None:
        """The trained weights, which must be those of the record, and must say what the record says they do."""
        models.restore(model, path)
        if fingerprint(model.backbone.state_dict(), model.mean, model.std) != self.record["weights_sha256"]:
            raise RunError(
                f"{path} is not the file that the record {self.record.id} speaks of; delete its folder to train again"
            )
        model.origin = self.record["provenance"]["weights_from"]
        told = self.record.predictions
        wanted = told["example_logits"].astype(np.float32)
        images = np.asarray(self.dataset.images("val"))[told["example"]]
        logits = training.predict_logits(model.to(self.device), images, precision=self.precision)
        wanted, logits = (x - x.mean(axis=1, keepdims=True) for x in (wanted, logits))
        off = float(np.linalg.norm(logits - wanted) / np.linalg.norm(wanted))
        if off > LOGITS_OFF:
            raise RunError(
                f"{path}: on {len(images)} validation images the model's logits are {off:.0%} off those of its record "
                f"{self.record.id}; delete its folder to train again"
            )

    @cached_property
    def precision(self) -> str:
        return models.precision(self.spec.precision or self.study.precision, self.device)

    def view(self, number: int, seed: int | None = None) -> View:
        """The view of that number: view(images, index) -> augmented images, on the run's device.

        seed: of the views; by default the run's own.
        """
        seed = self.seed if seed is None else seed
        return View(self.study.augment, seed, number, len(self.images), self.images.device)

    @cached_property
    def images(self) -> torch.Tensor:
        """The training images, (N, H, W, 3) uint8: on the device if they take at most half of what is free there."""
        stored = torch.as_tensor(self.dataset.images("train"))
        if self.device.type == "cuda" and stored.nbytes > torch.cuda.mem_get_info(self.device)[0] / 2:
            return stored
        return stored.to(self.device)

    def view_logits(self, seed: int, number: int) -> np.ndarray:
        """The trained model's logits of the training images in a view, (n, classes) float32."""
        view = self.view(number, seed)
        batches = torch.arange(len(self.images), device=self.images.device).split(EVAL_BATCH)
        return np.concatenate([training.predict_logits(self.model, view(self.images, index)) for index in batches])

    def sample_views(self, images: int, views: int) -> dict[str, np.ndarray]:
        """The first images of the training set, stored and in the first views: name -> (images, H, W, 3) uint8."""
        index = torch.arange(min(images, len(self.images)), device=self.images.device)
        seen = {f"view {k}": self.view(k)(self.images, index).cpu().numpy() for k in range(views)}
        return {"stored": self.images[index].cpu().numpy(), **seen}

    def fit(self, on_epoch: Callable[[dict], None] | None = None):
        """Train, going on from the checkpoint of an interrupted attempt. Returns the history, a DataFrame.

        on_epoch(row) is called after each epoch; by default a line is printed.
        """
        import pandas as pd

        if self.done:
            print(f"done before, on {self.record['provenance']['finished']}: figures are read from {self.folder.name}")
            return records.history(self.record)
        if self._fit is None:
            files.remove(self.folder / "failure.json")
            self._fit = training.fit(
                self.model,
                self.images,
                torch.as_tensor(self.dataset.labels("train")).to(self.device),
                train=self.train,
                loss=self._loss(),
                view=lambda epoch: self.view(self.study.view(epoch)),
                seed=self.seed,
                score=self._score,
                extra=self._extra(),
                forward=models.compiled(self.model) if self.spec.compile else None,
                precision=self.precision,
                checkpoint=self.folder / "checkpoint.pt",
                on_epoch=lambda row: self._after_epoch(row, on_epoch or _print_epoch),
            )
        return pd.DataFrame(self._fit.history)

    def evaluate(self) -> dict:
        """Figures on val, and on holdout if there is one, as records.COLUMNS describes them."""
        if self.done:
            return self.record.metrics
        if self._figures is None:
            if self._fit is None:
                raise RunError("evaluate() comes after fit()")
            labels = self.dataset.labels("val")
            last = self._val_logits(len(self._fit.history), self._fit.last)
            logits = self._val_logits(self._fit.best_epoch, self._fit.best)
            set_state(models.unwrap(self.model).backbone, self._fit.best)
            predicted, confidence = metrics.predictions(logits)
            self._figures = {
                "top1_best": float(np.mean(predicted == labels)),
                "top1_last": float(np.mean(last.argmax(axis=1) == labels)),
                "top5": metrics.top_k(logits, labels, 5),
                "nll": metrics.nll(logits, labels),
                "ece": metrics.ece(confidence, predicted == labels),
                "best_epoch": self._fit.best_epoch,
                "epochs": len(self._fit.history),
                "val_images": len(labels),
            }
            if self.dataset.meta["counts"]["holdout"]:
                self._figures["top1_holdout"] = self._fit.best_score
            self._predictions = {
                "label": labels.astype(np.uint16),
                "predicted": predicted.astype(np.uint16),
                "confidence": confidence.astype(np.float32),
                "example": (example := np.linspace(0, len(labels) - 1, EXAMPLES).astype(np.uint32)),
                "example_logits": logits[example].astype(np.float16),
            }
            with files.whole(self.folder / "val_logits.npy") as tmp, open(tmp, "wb") as f:
                np.save(f, logits.astype(np.float16))
        return self._figures

    def save(self) -> records.Record:
        """Write the weights and then the record, after which the run is done. Returns the record."""
        if self.done:
            return self.record
        figures = self.evaluate()
        history = self._fit.history
        weights = self.folder / "weights.safetensors"
        models.save(self.model, weights)
        model = models.unwrap(self.model)
        seconds = sum(row["seconds"] for row in history)
        seen = sum(row["seconds"] * row["images_per_second"] for row in history)
        self.record = records.write(
            self.folder,
            {
                "id": self.folder.name,
                "key": digest(self.settings),
                "study": self.study.name,
                **self._parameters(),
                "seed": self.seed,
                "score": self._fit.best_score,
                "weights_sha256": fingerprint(self._fit.best, model.mean, model.std),
                "metrics": figures,
                "cost": {
                    "train_seconds": seconds,
                    "images_per_second": seen / seconds,
                    "inference_images_per_second": self._inference_pace,
                },
                "settings": self.settings,
                "history": history,
                "provenance": self._provenance(),
            },
            self._predictions,
        )
        for name in ("checkpoint.pt", "progress.json", "failure.json"):
            files.remove(self.folder / name)
        return self.record

    def go(self) -> records.Record:
        """All steps, without a notebook."""
        self.fit()
        self.evaluate()
        return self.save()

    def _score(self, model: torch.nn.Module, epoch: int) -> dict:
        """The figure of an epoch (from 1): on holdout where the study has one, so that val is not chosen on."""
        split = "holdout" if self.dataset.meta["counts"]["holdout"] else "val"
        logits = self._logits(split)
        top1 = float(np.mean(logits.argmax(axis=1) == self.dataset.labels(split)))
        if split == "val":
            if self._val and top1 <= self._val_best[0]:
                self._val = {self._val_best[1]: self._val[self._val_best[1]]}
            else:
                self._val, self._val_best = {}, (top1, epoch)
            self._val[epoch] = logits
        return {"score": top1, f"{split}_top1": top1}

    def _val_logits(self, epoch: int, weights: dict) -> np.ndarray:
        """The logits on val of an epoch, kept from its evaluation or computed from its weights."""
        if epoch not in self._val:
            set_state(models.unwrap(self.model).backbone, weights)
            self._val[epoch] = self._logits("val")
        return self._val[epoch]

    def _logits(self, split: str) -> np.ndarray:
        started = time.perf_counter()
        logits = training.predict_logits(
            self.model, self.dataset.images(split), batch_size=EVAL_BATCH, precision=self.precision
        )
        self._inference_pace = len(logits) / (time.perf_counter() - started)
        return logits

    def _after_epoch(self, row: dict, on_epoch: Callable[[dict], None]) -> None:
        progress = {"epoch": row["epoch"], "epochs": self.train.epochs, "epoch_seconds": row["seconds"]}
        files.write_json(self.folder / "progress.json", progress, durable=False)
        on_epoch({**row, "epochs": self.train.epochs})

    def _provenance(self) -> dict:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()
        return {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": _git(),
            "device": self.device.type,
            "device_name": name,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "weights_from": models.unwrap(self.model).origin,
            "parameters": models.parameters(self.model),
            "python": platform.python_version(),
            "versions": {p: version(p) for p in ("torch", "torchvision", "timm", "numpy")},
        }

    def _repr_markdown_(self) -> str:
        state = f"done, {self.record['provenance']['finished']}" if self.done else "to be trained"
        rows = {"run": self.folder.name, **self._parameters(), "seed": self.seed, "device": str(self.device)}
        rows |= {"epochs": self.train.epochs, "state": state}
        return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items() if k != "student")])


class TeacherRun(Run):
    """One candidate teacher."""

    kind = "teacher"

    def _spec(self):
        return self.study.candidate(self.label)

    def _settings(self):
        return teacher_settings(self.study, self.spec, self.dataset.fingerprint)

    def _folder(self):
        return records.teacher_folder(self.study, self.label, self.dataset.fingerprint)

    def _loss(self):
        return losses.ce_loss

    def _parameters(self):
        return {"teacher": self.label}


class StudentRun(Run):
    """One cell: a student at a temperature and a weight, under the study's teacher."""

    kind = "student"

    def __init__(self, study: Study, cell: Cell, device: str):
        self.cell = cell
        self.teacher = _teacher_of(study)
        super().__init__(study, cell.student, cell.seed, device)

    def _spec(self):
        return self.study.student(self.label)

    def _settings(self):
        return student_settings(self.study, self.cell, self.dataset.fingerprint, self.teacher["weights_sha256"])

    def _folder(self):
        return records.student_folder(self.study, self.cell, self.dataset.fingerprint, self.teacher)

    def _parameters(self):
        return {
            "student": self.label,
            "method": self.cell.method,
            "T": self.cell.T,
            "alpha": self.cell.alpha,
            "teacher": self.teacher["teacher"],
            "teacher_id": self.teacher.id,
        }

    @cached_property
    def soft_targets(self) -> SoftTargets:
        """The teacher's logits for the views of this run's seed; those that are missing are computed first.

        In self-distillation the teacher is the student's own baseline of the same seed.
        """
        if self.study.taught_by(self.cell) == "self":
            teacher = StudentRun(self.study, Cell(self.label, None, 1.0, self.seed), str(self.device))
            if not teacher.done:
                raise RunError(
                    f"self-distillation learns from the baseline {teacher.cell.name}, which is not done yet; "
                    f"run: kd grid {self.study.name}"
                )
        else:
            teacher = _teacher_run(self.study, self.teacher, self.device)
        views = range(min(self.train.epochs, self.study.views or self.train.epochs))
        store = SoftTargets.of(self.study, self.seed, teacher.record, self.dataset)
        store.ensure(views, lambda number: teacher.view_logits(self.seed, number))
        return store

    def _loss(self):
        cell, teaching = self.cell, self.study.teaching(self.cell)
        return losses.of(teaching.name, T=cell.T, alpha=cell.alpha, **self.study.weights(cell))

    def _extra(self):
        if not self.study.taught_by(self.cell):
            return None
        return lambda epoch: torch.as_tensor(self.soft_targets[self.study.view(epoch)]).to(self.device)

    def _provenance(self):
        """With the share of the training images, in the first view, whose class the soft targets name."""
        found = super()._provenance()
        if self.study.taught_by(self.cell):
            named = self.soft_targets[self.study.view(0)].argmax(axis=1)
            found["soft_targets_top1"] = float(np.mean(named == self.dataset.labels("train")))
        return found

    def evaluate(self):
        figures = super().evaluate()
        if not self.done:
            figures["agreement"] = metrics.agreement(
                self._predictions["predicted"], self.teacher.predictions["predicted"]
            )
        return figures


def teacher(study: str | Study = "digits", *, candidate: str = "", device: str = "auto") -> TeacherRun:
    """The run of one candidate teacher.

    study: the name of a file in studies/, a path, or a Study. candidate: its name there (default: the first).
    Raises StudyError, DataError (run `kd data` first) or ModelError.
    """
    study = study if isinstance(study, Study) else load_study(study)
    return TeacherRun(study, candidate or study.teacher.candidates[0].label, study.teacher.seed, device)


def student(
    study: str | Study = "digits",
    *,
    student: str = "",
    T: float = 4.0,
    alpha: float = 0.5,
    method: str = "kd",
    seed: int = 0,
    epochs: int = 0,
    device: str = "auto",
) -> StudentRun:
    """The run of one cell.

    student: its name in the study (default: the first). T: temperature, > 0, of no effect at alpha = 1.
    alpha: weight of the cross-entropy, 0 to 1. method: kd, plain distillation, or the name of a row under `methods`
    in the study. epochs: 0 for the study's own number.
    Raises RunError where the study has no teacher yet, StudyError for parameters out of range.
    """
    study = study if isinstance(study, Study) else load_study(study)
    for name, value, kinds in (("T", T, (int, float)), ("alpha", alpha, (int, float)), ("seed", seed, (int,))):
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise StudyError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(T) and T > 0):
        raise StudyError(f"T must be above 0, not {T!r}")
    if not 0 <= alpha <= 1:
        raise StudyError(f"alpha must lie between 0 and 1, not {alpha!r}")
    if seed < 0 or not isinstance(epochs, int) or epochs < 0:
        raise StudyError(f"seed and epochs must be whole numbers from 0, not {seed!r} and {epochs!r}")
    label = student or study.students[0].label
    study.student(label)
    if method != "kd" and (alpha == 1 or T != 1 and not study.method(method).teaching.temperature):
        raise StudyError(
            f"method {method!r} at T={T:g}, alpha={alpha:g}: alpha must be below 1, and T 1 without a temperature"
        )
    if epochs:
        study = study.with_epochs(epochs)
    return StudentRun(study, Cell(label, None if alpha == 1 else float(T), float(alpha), seed, method), device)


def compute_soft_targets(study: Study, seed: int, views: list[int], device: str = "auto") -> int:
    """Compute the soft targets of these views that are missing; returns how many those were."""
    torch.set_num_threads(study.threads)
    run = _teacher_run(study, _teacher_of(study), models.device(device))
    store = SoftTargets.of(study, seed, run.record, run.dataset)
    return store.ensure(views, lambda number: run.view_logits(seed, number))


def _teacher_of(study: Study) -> records.Record:
    found = records.best_teacher(study, data.load(study).fingerprint)
    if found is None:
        trained = len(records.teachers(study, data.load(study).fingerprint))
        raise RunError(
            f"study '{study.name}' has no teacher yet ({trained} of {len(study.teacher.candidates)} candidates "
            f"trained); run: kd teacher {study.name}"
        )
    return found


def _teacher_run(study: Study, found: records.Record, device) -> TeacherRun:
    return teacher(study, candidate=found["teacher"], device=str(device))


def _print_epoch(row: dict) -> None:
    top1 = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in row.items() if k.endswith("top1")]
    print(
        f"epoch {row['epoch']:>3}/{row['epochs']}  loss {row['loss']:.4f}  "
        f"{row['images_per_second']:,.0f} images/s  {'  '.join(top1)}".rstrip(),
        flush=True,
    )


def _git() -> str:
    """The checkout's commit, with '+' if files differ from it; '' outside git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.CHECKOUT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "kd_utils", "notebooks", "studies")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
