"""One Trainer for teacher and student. It knows no T, no alpha and no teacher."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .. import files, seeds
from ..schema import Train
from .losses import HISTORY_COLUMNS, Loss
from .models import Classifier, unwrap
from .views import order
from .weights import set_state

if TYPE_CHECKING:
    import pandas as pd

LossFunction = Callable[..., Loss]  # (logits, labels, rows of extra or None) -> scalars
ViewFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (images, index) -> augmented batch
# (model, epoch from 1) -> the metrics of an evaluation after it; its `score`, higher is better, picks the best epoch
Score = Callable[[nn.Module, int], dict[str, float]]

CHECKPOINT_SHARE = 0.05  # of the time that a training takes, at most, after the first checkpoint of an attempt
CHECKPOINT_SECONDS = 300.0  # within an epoch: no kill costs more training than this


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says at which epoch, why and what to do."""


@dataclass
class Fit:
    """What a training left behind.

    history: a dict an epoch; best, last: state dicts of the backbone on the CPU; best_epoch counts from 1.
    """

    history: list[dict] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -1.0
    last: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def curve(self) -> "pd.DataFrame":
        """The history as a table, one row an epoch: epoch (from 1), loss and its parts (nats), lr, seconds, top-1."""
        import pandas as pd

        return pd.DataFrame(self.history)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many CPU threads for PyTorch within the block, and those of before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Epoch:
    """An epoch as far as it has come.

    batches done, images seen; names of the loss's parts, and their sums over images; seconds it took.
    """

    batches: int = 0
    seen: int = 0
    names: tuple[str, ...] = ()
    sums: torch.Tensor | None = None
    seconds: float = 0.0


class Trainer:
    """Trains one model on one set of images; `fit` does it, and goes on from `checkpoint` if that file is there.

    images: (N, H, W, 3) uint8, on the model's device or, if they do not fit there, on the CPU: then each batch is
    copied over while the batch before it is still being computed.
    labels: (N,) int64, on the model's device.
    train: how; of at least one epoch.
    loss(logits, labels, rows of extra or None) returns the parts of a loss; its `loss` is minimised.
    view(epoch) gives the function (images, index) -> augmented batch of that epoch (from 0).
    seed: with the epoch it fixes all randomness of that epoch.
    extra(epoch) gives an (N, ...) tensor whose rows go to the loss with their images (soft targets, say).
    forward, if given, stands for model(images) on batches of full size: the model, compiled for that one shape.
    precision: 'fp32' or 'bf16' (autocast of the forward pass).
    checkpoint: is marked with the name of its folder, the run's: that of another run is refused.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        train: Train,
        loss: LossFunction,
        view: Callable[[int], ViewFunction],
        seed: int,
        extra: Callable[[int], torch.Tensor] | None = None,
        forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
        precision: str = "fp32",
        checkpoint: Path | None = None,
    ) -> None:
        self.model = model
        self.images = images
        self.labels = labels
        self.train = train
        self.loss = loss
        self.view = view
        self.seed = seed
        self.extra = extra
        self.forward = model if forward is None else forward
        self.precision = precision
        self._optimizer = _optimizer(model, train)
        self._schedule = _schedule(self._optimizer, train)
        self._keeper = _Keeper(checkpoint, unwrap(model), self._optimizer, self._schedule)

    def fit(
        self,
        score: Score,
        *,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
        on_batch: Callable[[float], None] | None = None,
        until: int | None = None,
    ) -> Fit:
        """Train to the end, or until so many epochs are done, with a checkpoint to go on from.

        A checkpoint is written after the first epoch, and after others as long as that takes no more than
        CHECKPOINT_SHARE of the time: the optimiser's state makes it several times as large as the weights, and epochs
        may be short. In an epoch that is long it is written every CHECKPOINT_SECONDS. It has the generators' states,
        so a resumed training equals an uninterrupted one.

        score: picks the best epoch. on_epoch(row of the history) is called after each epoch, on_batch(epochs done,
        parts of one included) after each batch.
        Raises TrainingError when the loss is not finite or the checkpoint cannot be read.
        """
        state, under_way = self._keeper.resume()
        last = min(self.train.epochs, until or self.train.epochs)
        while len(state.history) < last and not _stalled(state, self.train):
            epoch = len(state.history)
            if under_way is None:
                torch.manual_seed(seeds.epoch(self.seed, epoch))
            so_far, under_way = under_way or _Epoch(), None
            for done in self._steps(epoch, so_far):
                self._keeper.within(state, so_far)
                if on_batch:
                    on_batch(epoch + done)
            row = self._row(epoch, so_far)
            self._schedule.step()
            state.history.append(row)
            if (epoch + 1) % self.train.eval_every == 0 or epoch + 1 == self.train.epochs:
                row |= self._scored(state, score)
            self._keeper.after_epoch(state)
            if on_epoch:
                on_epoch(row)
        if last < self.train.epochs:
            self._keeper.keep(state)
        state.last = _snapshot(self.model)
        return state

    def _steps(self, epoch: int, so_far: _Epoch) -> Iterator[float]:
        """Do the rest of an epoch, a step at a time; after each, the share of the epoch that is done."""
        device, size = self.labels.device, self.train.batch_size
        batches = _batches(order(self.seed, epoch, len(self.labels)), size, device)
        view, extra = self.view(epoch), self.extra(epoch) if self.extra else None
        self.model.train()
        cast = torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        total = torch.zeros((), device=device) if so_far.sums is None else so_far.sums.to(device)
        before, began = so_far.seconds, time.perf_counter()
        for index in batches[so_far.batches :]:
            with cast:
                logits = (self.forward if len(index) == size else self.model)(_batch(view, self.images, index))
            parts = self.loss(logits, self.labels[index], extra[index] if extra is not None else None)
            self._optimizer.zero_grad(set_to_none=True)
            parts.loss.backward()
            self._optimizer.step()
            summed = torch.stack([p.detach() for p in parts]) * len(index)
            total = total + summed
            so_far.names, so_far.sums = parts._fields, total
            so_far.batches += 1
            so_far.seen += len(index)
            so_far.seconds = before + time.perf_counter() - began
            yield so_far.batches / len(batches)
        so_far.sums = total.cpu()  # of a GPU, this waits for its work
        so_far.seconds = before + time.perf_counter() - began

    def _row(self, epoch: int, done: _Epoch) -> dict[str, Any]:
        """The history's row of an epoch that is done: means over its images. Raises TrainingError."""
        assert done.sums is not None
        means = {k: v / done.seen for k, v in zip(done.names, done.sums.tolist(), strict=True)}
        row = {
            "epoch": epoch + 1,
            **{HISTORY_COLUMNS.get(k, k): v for k, v in means.items()},
            "lr": self._schedule.get_last_lr()[0],
            "seconds": done.seconds,
            "images_per_second": done.seen / done.seconds,
        }
        if not np.isfinite(row["loss"]):
            raise TrainingError(  # of soft targets that are not finite, the store says so before
                f"the loss is {row['loss']} in epoch {epoch + 1}; lower train.lr (now {self.train.lr:g}) in the study "
                "file"
            )
        return row

    def _scored(self, state: Fit, score: Score) -> dict[str, Any]:
        """An evaluation after the latest epoch, whose weights are kept if it is the best; its columns of the row."""
        epoch = len(state.history)
        evaluation = score(self.model, epoch)
        if evaluation["score"] > state.best_score:
            state.best_score, state.best_epoch = evaluation["score"], epoch
            state.best = _snapshot(self.model)
        return {k: v for k, v in evaluation.items() if k != "score"}


def judged(model: nn.Module, score: Score) -> Fit:
    """What training for zero epochs leaves behind: the model as it came, with its score."""
    weights = _snapshot(model)
    return Fit(best=weights, best_epoch=0, best_score=score(model, 0)["score"], last=weights)


def _batch(view: ViewFunction, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The augmented images of index, on index's device."""
    if images.device == index.device:
        return view(images, index)
    return view(images, index.to(images.device)).pin_memory().to(index.device, non_blocking=True)


def _batches(permutation: torch.Tensor, size: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """The epoch's batches; a last one of a single image is left out, since batch normalisation cannot take it."""
    batches = permutation.to(device).split(size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def _optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    momentum = {"momentum": 0.9, "nesterov": train.nesterov} if train.optimizer == "sgd" else {}
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return kinds[train.optimizer](
        model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=fused, **momentum
    )


def _schedule(optimizer: torch.optim.Optimizer, train: Train) -> torch.optim.lr_scheduler.LRScheduler:
    """Stepped once an epoch."""
    if train.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, train.epochs)
    if train.schedule == "step":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, train.milestones, train.gamma)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _stalled(state: Fit, train: Train) -> bool:
    """Whether `patience` evaluations have gone by since the best one."""
    if not train.patience or not state.best_epoch:
        return False
    return len(state.history) - state.best_epoch >= train.patience * train.eval_every


def _snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().clone() for k, v in unwrap(model).backbone.state_dict().items()}


class _Keeper:
    """Writes and reads the checkpoint of one training; without a path it does neither."""

    def __init__(
        self,
        path: Path | None,
        net: Classifier,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.path, self.net, self.optimizer, self.schedule = path, net, optimizer, schedule
        self.run = path.parent.name if path else ""
        self.written = time.perf_counter()
        self.due = 0.0  # when an epoch's end is kept again: the first one at once

    def after_epoch(self, state: Fit) -> None:
        """Keep what an epoch has come to, if it is time."""
        if time.perf_counter() >= self.due:
            self._write(state, None)

    def keep(self, state: Fit) -> None:
        """Keep what the latest epoch has come to, whatever it costs."""
        self._write(state, None)

    def within(self, state: Fit, epoch: _Epoch) -> None:
        """Keep an epoch that is under way, if it is time."""
        if time.perf_counter() >= max(self.due, self.written + CHECKPOINT_SECONDS):
            self._write(state, epoch)

    def _write(self, state: Fit, epoch: _Epoch | None) -> None:
        if self.path is None:
            return
        began = time.perf_counter()
        with files.whole(self.path, durable=False) as tmp:
            torch.save(
                {
                    "run": self.run,
                    **{k: getattr(state, k) for k in ("history", "best", "best_epoch", "best_score")},
                    "model": dict(self.net.backbone.state_dict()),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "under_way": epoch and vars(epoch) | {"generators": _generators()},
                },
                tmp,
            )
        self.written = time.perf_counter()
        self.due = began + (self.written - began) / CHECKPOINT_SHARE

    def resume(self) -> tuple[Fit, _Epoch | None]:
        """What a checkpoint holds, and the epoch that was under way; an empty Fit and None where there is none."""
        if self.path is None or not self.path.is_file():
            return Fit(), None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if saved["run"] != self.run:
                raise ValueError(f"it is of the run {saved['run']!r}, and this is {self.run!r}")
            set_state(self.net.backbone, saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            state = Fit(saved["history"], saved["best"], saved["best_epoch"], saved["best_score"])
            if (part := saved.get("under_way")) is None:
                return state, None
            _set_generators(part.pop("generators"))
            return state, _Epoch(**part)
        except Exception as e:
            raise TrainingError(
                f"{self.path}: the checkpoint cannot be read ({str(e).splitlines()[0]}); delete it to train from the "
                "start"
            ) from e


def _generators() -> dict:
    """The states of torch's generators: dropout and the like draw from them."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": gpus}


def _set_generators(states: dict) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def predict_logits(
    model: nn.Module, images: torch.Tensor | np.ndarray, *, batch_size: int = 256, precision: str = "fp32"
) -> np.ndarray:
    """The model's logits in eval mode, (N, classes) float32; the model's mode is given back as it was.

    images: (N, H, W, 3) uint8, anywhere.
    """
    device = next(model.parameters()).device
    cast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), cast:
            return np.concatenate(
                [
                    model(torch.as_tensor(images[i : i + batch_size]).to(device)).float().cpu().numpy()
                    for i in range(0, len(images), batch_size)
                ]
            )
    finally:
        model.train(was_training)
