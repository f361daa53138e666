"""One teacher or one cell, from its parameters to its record: the steps that a notebook walks through.

    run = student("digits", student="resnet18", T=4, alpha=0.5)
    run.fit()        # trains, or goes on where it stopped
    run.evaluate()   # metrics on val
    run.save()       # writes the record: done

Each step is done at most once; a run whose record is on disk gives its metrics back without training.
"""

import platform
import subprocess
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .. import files, machine, paths, records, seeds
from ..keys import key
from ..records import Record
from ..schema import Candidate
from ..shelf import Shelf
from ..study import Study
from ..study import load as load_study
from . import data, losses, models, restore, training
from .evaluation import EVAL_BATCH, Evaluation, Scorer, evaluate
from .plans import Plan, RunError, plan_early_teacher, plan_random_teacher, plan_student, plan_teacher
from .soft_targets import SoftTargets
from .training import Fit, Trainer
from .views import View
from .weights import fingerprint, set_state

NOTE_SECONDS = 10.0  # between two notes of how far an epoch is


class Show(Protocol):
    """Who is told how a training goes."""

    def begin(self, epochs: int) -> None:
        """A training of so many epochs begins, or goes on."""

    def batch(self, done: float) -> None:
        """So many epochs are done, parts of one included."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended: its row of Fit.history."""

    def end(self) -> None:
        """The training is over."""


class _Lines:
    """Prints a line after each epoch."""

    def __init__(self) -> None:
        self.epochs = 0

    def begin(self, epochs: int) -> None:
        self.epochs = epochs

    def batch(self, done: float) -> None:
        pass

    def epoch(self, row: dict[str, Any]) -> None:
        top1 = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in row.items() if k.endswith("top1")]
        print(
            f"epoch {row['epoch']:>3}/{self.epochs}  loss {row['loss']:.4f}  "
            f"{row['images_per_second']:,.0f} images/s  {'  '.join(top1)}".rstrip(),
            flush=True,
        )

    def end(self) -> None:
        pass


class Run:
    """A plan carried out on a device, a step after the other; made by `teacher` and `student`."""

    def __init__(self, plan: Plan, device: str = "auto") -> None:
        self.plan = plan
        self.study = plan.study
        self.folder = plan.folder
        self.device = models.device(device)
        self.precision = plan.study.precision_of(plan.model)
        self.dataset = data.load(plan.study)
        self.record: Record | None = records.read(plan.folder)
        self._fit: Fit | None = None
        self._noted: tuple[float, float] | None = None  # when it was last told how far it is, and how many epochs
        self._evaluation: Evaluation | None = None
        self._scorer = Scorer(self.dataset, self.precision)

    # --- what it works on

    @property
    def done(self) -> bool:
        """Whether its record is on disk."""
        return self.record is not None

    @cached_property
    def model(self) -> torch.nn.Module:
        """The model on its device: with its trained weights if the run is done, else untrained.

        Raises RunError where the weights of a run that is done are not at hand, or are not its own.
        """
        if self.record is not None:
            model = restore.trained(self.plan, self.record, self.dataset, self.device)
        else:
            torch.manual_seed(seeds.initial_weights(self.plan.seed))
            model = self._first()
        model = model.to(self.device)
        if self.study.data_parallel > 1:
            machine.slots(self.study, None, self.device.type)  # says so if there are too few GPUs
            return torch.nn.DataParallel(model, list(range(self.study.data_parallel)))
        return model

    def _first(self) -> models.Classifier:
        """The model that the run begins with; of an ensemble, its members as they were trained."""
        spec, classes = self.plan.model, len(self.dataset.classes)
        if isinstance(spec, Candidate) and spec.ensemble:
            members = [teacher(self.study, candidate=label, device=str(self.device)) for label in spec.ensemble]
            if missing := [member.plan.label for member in members if not member.done]:
                raise RunError(
                    f"the ensemble {spec.label} is of candidates that are not done yet: {', '.join(missing)}; "
                    f"run: kd teacher {self.study.name}"
                )
            origin = f"mean of {', '.join(spec.ensemble)}"
            return models.Ensemble([models.unwrap(member.model) for member in members], origin)
        if isinstance(spec, Candidate) and spec.logits:
            return models.Given.read(Path(spec.logits), self.dataset.meta["counts"], classes)
        return models.create(spec, classes, self.dataset.meta["image_size"], head=not self.plan.train.epochs)

    @cached_property
    def images(self) -> torch.Tensor:
        """The training images, (N, H, W, 3) uint8: on the device if they take at most half of what is free there."""
        stored = torch.as_tensor(self.dataset.images("train"))
        if self.device.type == "cuda" and stored.nbytes > torch.cuda.mem_get_info(self.device)[0] / 2:
            return stored
        return stored.to(self.device)

    def view(self, number: int, seed: int | None = None) -> View:
        """The view of that number: view(images, index) -> augmented images, on the device of `images`.

        seed: of the views; by default the run's own.
        """
        seed = self.plan.seed if seed is None else seed
        return View(self.study.augment, seed, number, len(self.images), self.images.device)

    def view_logits(self, seed: int, number: int) -> np.ndarray:
        """The trained model's logits of the training images in a view, (N, classes) float32."""
        given = models.unwrap(self.model)
        if isinstance(given, models.Given):
            return given.logits("train")
        view = self.view(number, seed)
        batches = torch.arange(len(self.images), device=self.images.device).split(EVAL_BATCH)
        with training.threads(self.study.threads):
            return np.concatenate([training.predict_logits(self.model, view(self.images, index)) for index in batches])

    @cached_property
    def soft_targets(self) -> SoftTargets:
        """Of a student: its teacher's logits for the views of its seed; those that are missing are computed first.

        In self-distillation the teacher is the student's own baseline of the same seed. Raises RunError where the one
        that it learns from is not done.
        """
        teacher = self._run_that_teaches()
        store = SoftTargets.of(self.study, self.plan.seed, teacher.record or _Untrained(teacher), self.dataset)
        seed = self.plan.seed
        store.ensure(self.plan.views, lambda number: teacher.view_logits(seed, number), _device_name(self.device))
        return store

    @property
    def _taught_by(self) -> str:
        return self.study.taught_by(self.plan.cell) if self.plan.cell else ""

    def _run_that_teaches(self) -> "Run":
        """The run, or the untrained model, that this student learns from. Raises RunError where it is not done."""
        assert self.plan.cell is not None and self.plan.teacher is not None
        shelf, by, cell = Shelf(self.study), self._taught_by, self.plan.cell
        if by == "random":
            return Run(plan_random_teacher(shelf), str(self.device))
        if by == "self":
            plan, what = plan_student(shelf, cell.baseline), f"the baseline {cell.baseline.name}"
        elif by == "early":
            plan, what = plan_early_teacher(shelf), f"{self.plan.teacher.teacher} as trained for one epoch"
        else:
            plan, what = plan_teacher(shelf, self.plan.teacher.teacher), f"the teacher {self.plan.teacher.teacher}"
        run = Run(plan, str(self.device))
        if not run.done:
            raise RunError(f"{cell.name} learns from {what}, which is not done yet; run: kd grid {self.study.name}")
        return run

    def sample_views(self, images: int, views: int) -> dict[str, np.ndarray]:
        """The first images of the training set, stored and in the first views: name -> (images, H, W, 3) uint8."""
        index = torch.arange(min(images, len(self.images)), device=self.images.device)
        seen = {f"view {k}": self.view(k)(self.images, index).cpu().numpy() for k in range(views)}
        return {"stored": self.images[index].cpu().numpy(), **seen}

    # --- the steps

    def fit(self, show: "Show | None" = None) -> Fit:
        """Train, going on from the checkpoint of an interrupted attempt.

        show: is told how the training goes; by default a line is printed after each epoch. Of a run that is done, the
        history is given back, without weights. Raises MachineError for what this machine cannot do.
        """
        if self.record is not None:
            print(
                f"This run was done before, on {self.record.provenance.finished}, and is not trained again: what "
                f"follows is read from its record. To train it anew, delete its folder, "
                f"{self.folder}, and start again."
            )
            return Fit(self.record.history, {}, self.record.metrics.best_epoch, self.record.score)
        if self._fit is None:
            self._fit = self._train(show or _Lines())
        return self._fit

    def advance(self, until: int) -> list[dict]:
        """Train as far as that epoch, for a later fit() to go on from there; returns the history so far."""
        return self.record.history if self.record else self._train(_Lines(), until).history

    def _train(self, show: Show, until: int | None = None) -> Fit:
        for advice in machine.check(self.study, [self.plan.model], self.device.type):
            print(advice)
        files.remove(self.folder / paths.FAILURE)
        if self._taught_by:
            self.soft_targets  # noqa: B018 - before the first epoch, since a teacher's model draws numbers too
        show.begin(self.plan.train.epochs)
        with self._threads():
            if self.plan.train.epochs:
                fit = self._trainer().fit(
                    self._scorer,
                    on_epoch=lambda row: self._after_epoch(row, show),
                    on_batch=lambda done: self._after_batch(done, show),
                    until=until,
                )
            else:
                print("not trained (0 epochs): judged as it is")
                fit = training.judged(self.model, self._scorer)
        show.end()
        return fit

    def evaluate(self) -> Evaluation:
        """The trained model on val, and on holdout if there is one. Raises RunError before fit()."""
        if self._evaluation is None:
            with self._threads():
                self._evaluation = self._evaluated()
        return self._evaluation

    def save(self) -> Record:
        """Write the logits, the weights and then the record, after which the run is done. Returns the record."""
        if self.record is None:
            fit, evaluation = self.fit(), self.evaluate()
            assert evaluation.logits is not None
            with files.whole(self.folder / paths.VAL_LOGITS) as tmp, open(tmp, "wb") as f:
                np.save(f, evaluation.logits.astype(np.float16))
            set_state(models.unwrap(self.model).backbone, fit.best)
            models.save(self.model, self.folder / paths.WEIGHTS)
            with self._threads():
                values = self._values(fit, evaluation)
            self.record = records.write(self.folder, values, evaluation.predictions)
            for name in (paths.CHECKPOINT, paths.PROGRESS, paths.FAILURE):
                files.remove(self.folder / name)
        return self.record

    def go(self) -> Record:
        """All steps, without a notebook."""
        self.fit()
        self.evaluate()
        return self.save()

    # --- their parts

    def _trainer(self) -> Trainer:
        return Trainer(
            self.model,
            self.images,
            torch.as_tensor(self.dataset.labels("train")).to(self.device),
            train=self.plan.train,
            loss=self._loss(),
            view=lambda epoch: self.view(self.study.view_number(epoch)),
            seed=self.plan.seed,
            extra=self._soft_targets_of if self._taught_by else None,
            forward=models.compiled(self.model) if self.plan.model.compile else None,
            precision=self.precision,
            checkpoint=self.folder / paths.CHECKPOINT,
        )

    def _threads(self) -> AbstractContextManager[None]:
        return training.threads(self.study.threads_of(self.plan.model))

    def _loss(self) -> training.LossFunction:
        cell = self.plan.cell
        if cell is None:
            return losses.ce_loss
        return losses.of(self.study.teaching(cell).name, T=cell.T, alpha=cell.alpha, **self.study.weights(cell))

    def _soft_targets_of(self, epoch: int) -> torch.Tensor:
        return torch.as_tensor(self.soft_targets[self.study.view_number(epoch)]).to(self.device)

    def _after_batch(self, done: float, show: "Show") -> None:
        now = time.perf_counter()
        at, before = self._noted or (now, done)
        if self._noted is None:
            self._noted = (at, before)
        elif (seconds := now - at) >= NOTE_SECONDS:
            more = done - before
            self._note(done, seconds / more, more * len(self.images) / seconds)
            self._noted = (now, done)
        show.batch(done)

    def _after_epoch(self, row: dict, show: "Show") -> None:
        self._note(row["epoch"], row["seconds"], row["images_per_second"])
        self._noted = None
        show.epoch(row)

    def _note(self, done: float, epoch_seconds: float, images_per_second: float) -> None:
        """Tell other processes how far the training is."""
        progress = {
            "epoch": done,
            "epochs": self.plan.train.epochs,
            "epoch_seconds": epoch_seconds,
            "images_per_second": images_per_second,
        }
        files.write_json(self.folder / paths.PROGRESS, progress, durable=False)

    def _evaluated(self) -> Evaluation:
        if self.record is not None:
            return Evaluation.stored(self.record)
        if self._fit is None:
            raise RunError("evaluate() comes after fit()")
        return evaluate(self.plan, self.model, self._fit, self._scorer)

    def _values(self, fit: Fit, evaluation: Evaluation) -> dict[str, Any]:
        """What the record says, but for what records.write adds."""
        model = models.unwrap(self.model)
        seconds = sum(row["seconds"] for row in fit.history)
        seen = sum(row["seconds"] * row["images_per_second"] for row in fit.history)
        return {
            "id": self.folder.name,
            "key": key(self.plan.settings),
            "study": self.study.name,
            **self.plan.parameters,
            "score": fit.best_score,
            "weights_sha256": fingerprint(fit.best, model.mean, model.std),
            "metrics": evaluation.metrics,
            "cost": {
                "train_seconds": seconds,
                "images_per_second": seen / seconds if seconds else 0.0,
                "inference_images_per_second": self._scorer.images_per_second or None,
            },
            "settings": self.plan.settings,
            "history": fit.history,
            "provenance": self._provenance(),
        }

    def _provenance(self) -> dict[str, Any]:
        values = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": _git(),
            "device": self.device.type,
            "device_name": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "weights_from": models.unwrap(self.model).origin,
            "parameters": models.parameters(self.model),
            "python": platform.python_version(),
            "versions": {p: version(p) for p in ("torch", "torchvision", "timm", "numpy")},
        }
        if self._taught_by:
            named = self.soft_targets[self.study.view_number(0)].argmax(axis=1)
            values["soft_targets_top1"] = float(np.mean(named == self.dataset.labels("train")))
            values["soft_targets_from"] = self.soft_targets.computed_on(self.plan.views)
        return values

    def _repr_markdown_(self) -> str:
        state = f"done, {self.record.provenance.finished}" if self.record else "to be trained"
        rows = {"run": self.folder.name, **self.plan.parameters, "device": str(self.device)}
        rows |= {"epochs": self.plan.train.epochs, "state": state}
        return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items() if k != "student")])


class _Untrained:
    """What soft targets of random weights are bound to, as a record's are to its own."""

    def __init__(self, run: Run) -> None:
        model = models.unwrap(run.model)
        self.weights_sha256 = fingerprint(model.backbone.state_dict(), model.mean, model.std)
        self.settings = run.plan.settings


def teacher(study: str | Study = "digits", *, candidate: str = "", device: str = "auto") -> Run:
    """The run of one candidate teacher.

    study: the name of a file in studies/, a path, or a Study. candidate: its name there (default: the first).
    Raises StudyError, DataError (run `kd data` first) or ModelError.
    """
    study = study if isinstance(study, Study) else load_study(study)
    data.load(study)
    return Run(plan_teacher(Shelf(study), candidate or study.teacher.candidates[0].label), device)


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
) -> Run:
    """The run of one cell.

    student: its name in the study (default: the first). T: temperature, 0.001 to 1,000,000, of no effect at alpha = 1
    and with a method that has none. alpha: weight of the cross-entropy, 0 to 1. method: kd, plain distillation, or the
    name of a row under `methods` in the study. epochs: 0 for the study's own number.
    Raises ShelfError where the study has no teacher yet, StudyError for parameters out of range.
    """
    study = study if isinstance(study, Study) else load_study(study)
    study, cell = study.asked_for(student=student, T=T, alpha=alpha, method=method, seed=seed, epochs=epochs)
    data.load(study)
    return Run(plan_student(Shelf(study), cell), device)


def compute_soft_targets(study: Study, seed: int, views: list[int], device: str = "auto") -> int:
    """Compute the soft targets of these views that are missing; returns how many those were."""
    run = teacher(study, candidate=Shelf(study).chosen_teacher().teacher, device=device)
    assert run.record is not None
    store = SoftTargets.of(study, seed, run.record, run.dataset)
    return store.ensure(views, lambda number: run.view_logits(seed, number), _device_name(run.device))


def _device_name(device: torch.device) -> str:
    """The kind of device, with PyTorch's version: what rounding depends on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()
    return f"{name}, torch {version('torch')}"


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
