"""A model judged: its accuracy after an epoch, and all metrics of a trained one on val."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ..records import Record
from . import metrics, models, training
from .data import Dataset
from .plans import Plan
from .training import Fit
from .weights import set_state

EVAL_BATCH = 256
EXAMPLES = 8  # images of val whose logits stay with the record, evenly spread


@dataclass(frozen=True)
class Evaluation:
    """A trained model on val: metrics as records.COLUMNS describes them, and what they are computed from.

    predictions: what Record.predictions gives back. logits: (N, classes) at the best epoch, None of a run that was
    done before: Record.val_logits has them, where they are kept.
    """

    metrics: dict[str, float | int]
    predictions: dict[str, np.ndarray]
    logits: np.ndarray | None = None

    @classmethod
    def stored(cls, record: Record) -> "Evaluation":
        """That of a run that is done, as it lies on disk."""
        return cls(record.metrics.model_dump(exclude_none=True), record.predictions)


class Scorer:
    """Accuracy after an epoch (from 1): on holdout where the study has one, so that val is not chosen on.

    Keeps the logits on val of the best and of the latest evaluation, so that they need not be computed again.
    """

    def __init__(self, dataset: Dataset, precision: str) -> None:
        self.dataset = dataset
        self.precision = precision
        self.split = "holdout" if dataset.meta["counts"]["holdout"] else "val"
        self.images_per_second = 0.0  # of the latest evaluation
        self._best = -1.0, 0  # accuracy and epoch
        self._kept: dict[int, np.ndarray] = {}  # epoch -> logits on val

    def __call__(self, model: torch.nn.Module, epoch: int) -> dict[str, float]:
        logits = self._logits(model, self.split)
        top1 = float(np.mean(logits.argmax(axis=1) == self.dataset.labels(self.split)))
        if self.split == "val":
            if top1 > self._best[0]:
                self._best = top1, epoch
            self._kept = {e: kept for e, kept in self._kept.items() if e == self._best[1]} | {epoch: logits}
        return {"score": top1, f"{self.split}_top1": top1}

    def val_logits(self, model: torch.nn.Module, epoch: int, weights: dict) -> np.ndarray:
        """The logits on val of an epoch, (N, classes): kept from its evaluation, or computed from its weights."""
        if epoch not in self._kept:
            set_state(models.unwrap(model).backbone, weights)
            self._kept[epoch] = self._logits(model, "val")
        return self._kept[epoch]

    def _logits(self, model: torch.nn.Module, split: str) -> np.ndarray:
        given = models.unwrap(model)
        if isinstance(given, models.Given):
            return given.logits(split)
        started = time.perf_counter()
        images = self.dataset.images(split)
        logits = training.predict_logits(model, images, batch_size=EVAL_BATCH, precision=self.precision)
        self.images_per_second = len(logits) / (time.perf_counter() - started)
        return logits


def evaluate(plan: Plan, model: torch.nn.Module, fit: Fit, scorer: Scorer) -> Evaluation:
    """The trained model at its best epoch on val, as the run's record keeps it.

    scorer: the one that the training was scored by. Raises ModelError for logits that are not finite.
    """
    dataset = scorer.dataset
    labels = dataset.labels("val")
    last = scorer.val_logits(model, len(fit.history), fit.last)
    logits = scorer.val_logits(model, fit.best_epoch, fit.best)
    models.finite(logits, plan.model)
    predicted, confidence = metrics.predictions(logits)
    example = np.linspace(0, len(labels) - 1, EXAMPLES).astype(np.uint32)
    values: dict[str, float | int] = {
        "top1_best": float(np.mean(predicted == labels)),
        "top1_last": float(np.mean(last.argmax(axis=1) == labels)),
        "top5": metrics.top_k(logits, labels, 5),
        "nll": metrics.nll(logits, labels),
        "ece": metrics.ece(confidence, predicted == labels),
        "best_epoch": fit.best_epoch,
        "epochs": len(fit.history),
        "val_images": len(labels),
    }
    if dataset.meta["counts"]["holdout"]:
        values["top1_holdout"] = fit.best_score
    if plan.teacher is not None:
        values["agreement"] = metrics.agreement(predicted, plan.teacher.predictions["predicted"])
    predictions = {
        "label": labels.astype(np.uint16),
        "predicted": predicted.astype(np.uint16),
        "confidence": confidence.astype(np.float32),
        "example": example,
        "example_logits": logits[example].astype(np.float16),
    }
    return Evaluation(values, predictions, logits)
