"""What a distillation step costs, against the student's own arithmetic and against a loop as one writes it.

    make bench

In one run, interleaved and repeated, for each student, in images per second (medians):
  floor   forward, backward and optimiser of the student on one resident batch, nothing else
  step    the distillation step as `fit` runs it: views and stored soft targets included
  plain   ImageFolder, DataLoader workers, torchvision's transforms and a live teacher
  grid    as many cells side by side as there are cores, one thread each: their steps together
floor, step and plain have one process with all cores. `private` is the largest memory that a cell of the grid has to
itself, in MiB. All rates are written to benchmarks/results/DATE-PROCESSOR.json, together with the machine and the
versions; `make docs` makes the tables of docs/speed.md from these files.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import json
import multiprocessing
import platform
import re
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from kd_utils.learning.data import Dataset
    from kd_utils.learning.soft_targets import SoftTargets
    from kd_utils.schema import Model
    from kd_utils.study import Study

BATCH = 128
T, ALPHA = 4.0, 0.5
RESULTS = Path(__file__).resolve().parent / "results"
# extensions of x86-64 and ARM that decide how fast fp32 and bf16 are
FLAGS = ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16"]


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument(
        "--students",
        nargs="+",
        default=["shufflenet_v2_x1_0", "shufflenet_v2_x1_0+compile", "resnet18", "resnet18+bf16"],
        help="models; +compile and +bf16 are for floor, step and grid, while plain stays as it is",
    )
    given.add_argument("--teacher", default="convnext_tiny")
    given.add_argument("--classes", type=int, default=20)
    given.add_argument("--size", type=int, default=64, help="pixels a side")
    given.add_argument("--batches", type=int, default=8, help="of 128 images, in one measurement")
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--device", default="auto")
    asked = given.parse_args()
    with tempfile.TemporaryDirectory() as root:
        os.environ["KD_ROOT"] = root
        found = measure(asked, Path(root))
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", (found["machine"]["gpu"] or found["machine"]["cpu"]).lower()).strip("-")
    path = RESULTS / f"{found['date']}-{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


def measure(asked: argparse.Namespace, root: Path) -> dict:
    import torch

    from kd_utils.learning import data, models
    from kd_utils.machine import cores
    from kd_utils.study import load

    device = models.device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(cores())
    write_images(root / "images", asked)
    study = load(write_study(root, asked))
    dataset = data.prepare(study)
    teacher = models.create(study.teacher.candidates[0], asked.classes, asked.size).to(device).eval()
    store = soft_targets(study, dataset, teacher, device)
    found = {}
    used = {study.precision_of(study.student(name)) for name in asked.students}
    ceiling = {precision: matmul(device, precision) for precision in sorted(used)}
    for name in asked.students:
        spec = study.student(name)
        cells = Cells(cores() if device.type == "cpu" else 1, study.file, name, str(device), store.binding)
        work = {
            "floor": lambda spec=spec: floor(spec, asked, device),
            "step": lambda name=name: step(study, name, dataset, store, device),
            "plain": lambda spec=spec: plain(root / "images", spec, study.teacher.candidates[0], asked, device),
            "grid": cells.together,
        }
        rates = defaultdict(list)
        for number in range(asked.rounds + 1):
            for what, function in work.items():
                rate = function()
                if number:  # the first round warms up
                    rates[what].append(rate)
        medians = {what: statistics.median(values) for what, values in rates.items()}
        rounded = {what: [round(rate, 1) for rate in values] for what, values in rates.items()}
        found[name] = {"images_per_second": rounded, "private_mib": round(cells.private())}
        cells.close()
        report(name, medians, rates, found[name]["private_mib"])
        kind = spec.precision or "fp32"
        rate = medians["grid"] * 3 * forward_flops(spec, asked) / 1e12
        print(f"{name:<25} grid {rate:.3f} TFLOP/s; a {kind} matrix product here: {ceiling[kind]:.2f}", flush=True)
    about = machine(device)
    print(f"{about['cpu']}, {about['cores']} cores, {device}, torch {torch.__version__}")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": about,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", "torchvision", "timm")},
        "asked": {k: v for k, v in vars(asked).items() if k != "students"} | {"batch_size": BATCH},
        "matmul_tflops": {precision: round(rate, 3) for precision, rate in ceiling.items()},
        "students": found,
    }


def machine(device: "torch.device") -> dict:
    """What the rates were measured on: the processor, which of FLAGS it has, the cores that may be used, the GPU."""
    import torch

    from kd_utils.machine import cores

    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = (told.get("flags") or told.get("Features") or "").split()
    return {
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def report(name: str, medians: dict, rates: dict, private: int) -> None:
    for what, values in rates.items():
        print(f"{name:<25} {what:<6} {medians[what]:8.1f} images/s   ({min(values):.1f} to {max(values):.1f})")
    paired = {
        "step / floor": ("step", "floor"),
        "step / plain": ("step", "plain"),
        "grid / plain": ("grid", "plain"),
        "grid / step": ("grid", "step"),
    }
    for what, (a, b) in paired.items():
        ratios = [x / y for x, y in zip(rates[a], rates[b], strict=True)]
        print(f"{name:<25} {what:<13} {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"{name:<25} private memory of a cell of the grid: {private} MiB", flush=True)


def forward_flops(spec: "Model", asked: argparse.Namespace) -> float:
    """Floating-point operations of the forward pass of one image; the backward pass is counted as twice that."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from kd_utils.learning import models

    model = models.create(spec, asked.classes, asked.size).backbone.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, asked.size, asked.size))
    return counter.get_total_flops()


def matmul(device: "torch.device", precision: str) -> float:
    """TFLOP/s of a large matrix product, the arithmetic that the device can reach."""
    import torch

    n = 8192 if device.type == "cuda" else 2048
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    _ = a @ b
    synchronize(device)
    started = time.perf_counter()
    for _ in range(5):
        _ = a @ b
    synchronize(device)
    return 5 * 2 * n**3 / (time.perf_counter() - started) / 1e12


def write_images(root: Path, asked: argparse.Namespace) -> None:
    """Photograph-like JPEGs in ImageFolder layout."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", asked.batches * BATCH), ("val", asked.classes)):
        for k in range(count):
            coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((asked.size, asked.size), Image.Resampling.BICUBIC)
            path = root / split / f"class{k % asked.classes:03d}" / f"{k:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=90)


def write_study(root: Path, asked: argparse.Namespace) -> Path:
    import yaml

    path = root / "studies" / "bench.yaml"
    path.parent.mkdir()
    content = {
        "data": {"name": "folder", "source": str(root / "images"), "image_size": asked.size},
        "train": {"epochs": 2, "batch_size": BATCH},
        "teacher": {"candidates": [asked.teacher]},
        "students": [
            {
                "model": name.split("+")[0],
                "name": name,
                "compile": "+compile" in name,
                "precision": "bf16" if "+bf16" in name else "fp32",
            }
            for name in asked.students
        ],
        "grid": {"T": [T], "alpha": [ALPHA]},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def soft_targets(
    study: "Study", dataset: "Dataset", teacher: "torch.nn.Module", device: "torch.device"
) -> "SoftTargets":
    import torch

    from kd_utils.learning.soft_targets import SoftTargets
    from kd_utils.learning.training import predict_logits
    from kd_utils.learning.views import View

    n = dataset.meta["counts"]["train"]
    store = SoftTargets({"bench": dataset.fingerprint}, n, len(dataset.classes))
    images = torch.as_tensor(dataset.images("train")).to(device)

    def compute(number: int) -> np.ndarray:
        view = View(study.augment, 0, number, n, device)
        return predict_logits(teacher, view(images, torch.arange(n, device=device)))

    store.ensure(range(2), compute, str(device))
    return store


def floor(spec: "Model", asked: argparse.Namespace, device: "torch.device") -> float:
    """The backbone on one float batch that is there already."""
    import torch
    import torch.nn.functional as F

    from kd_utils.learning import models
    from kd_utils.learning.training import _optimizer
    from kd_utils.schema import Train

    model = models.create(spec, asked.classes, asked.size).to(device).backbone.train()
    optimizer = _optimizer(model, Train())
    forward = models.compiled(model) if spec.compile else model
    precision = spec.precision or "fp32"
    batch = torch.randn(BATCH, 3, asked.size, asked.size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, asked.classes, (BATCH,), device=device)

    def one() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(batch)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    one()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(asked.batches):
        one()
    synchronize(device)
    return asked.batches * BATCH / (time.perf_counter() - started)


def step(study: "Study", name: str, dataset: "Dataset", store: "SoftTargets", device: "torch.device") -> float:
    """The second of two epochs of a Trainer."""
    import torch

    from kd_utils.learning import losses, models, training
    from kd_utils.learning.views import View

    images = torch.as_tensor(dataset.images("train")).to(device)
    spec = study.student(name)
    model = models.create(spec, len(dataset.classes), images.shape[1]).to(device)
    trainer = training.Trainer(
        model,
        images,
        torch.as_tensor(dataset.labels("train")).to(device),
        train=study.training(spec, teacher=False),
        loss=lambda logits, labels, soft: losses.kd_loss(logits, labels, soft, T=T, alpha=ALPHA),
        view=lambda epoch: View(study.augment, 0, epoch, len(images), device),
        seed=0,
        extra=lambda epoch: torch.as_tensor(store[epoch]).to(device),
        forward=models.compiled(model) if spec.compile else None,
        precision=spec.precision or "fp32",
    )
    done = trainer.fit(lambda model, epoch: {"score": 0.0})
    return done.history[1]["images_per_second"]


def plain(folder: Path, spec: "Model", candidate: "Model", asked: argparse.Namespace, device: "torch.device") -> float:
    """The loop of many a tutorial, models as their libraries make them."""
    import torch
    import torch.nn.functional as F
    from torchvision import datasets, transforms

    from kd_utils.learning import models
    from kd_utils.machine import cores

    normalize = transforms.Normalize(models.IMAGENET_MEAN, models.IMAGENET_STD)
    augment = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(asked.size, padding=8), transforms.ToTensor()]
    train = datasets.ImageFolder(str(folder / "train"), transforms.Compose([*augment, normalize]))
    loader = torch.utils.data.DataLoader(
        train, BATCH, shuffle=True, num_workers=cores(), persistent_workers=True, pin_memory=device.type == "cuda"
    )
    student, teacher = (
        models.create(m, asked.classes, asked.size).backbone.to(device).to(memory_format=torch.contiguous_format)
        for m in (spec, candidate)
    )
    student.train()
    teacher.eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    for epoch in range(2):
        if epoch:
            synchronize(device)
            started = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.no_grad():
                soft = F.softmax(teacher(images) / T, dim=1)
            logits = student(images)
            kl = F.kl_div(F.log_softmax(logits / T, dim=1), soft, reduction="batchmean")
            loss = ALPHA * F.cross_entropy(logits, labels) + (1 - ALPHA) * T * T * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    synchronize(device)
    return len(train) / (time.perf_counter() - started)


def synchronize(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


class Cells:
    """Processes of one thread that run `step` at the same time."""

    def __init__(self, count: int, file: str, name: str, device: str, binding: dict) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_cell, args=(there, file, name, device, binding), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def together(self) -> float:
        """Images per second of all of them."""
        for pipe in self.pipes:
            pipe.send("step")
        return sum(pipe.recv() for pipe in self.pipes)

    def private(self) -> float:
        """The largest private memory of a cell so far, in MiB."""
        for pipe in self.pipes:
            pipe.send("private")
        return max(pipe.recv() for pipe in self.pipes)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


def _cell(pipe: Connection, file: str, name: str, device: str, binding: dict) -> None:
    import psutil
    import torch

    from kd_utils.learning import data
    from kd_utils.learning.soft_targets import SoftTargets
    from kd_utils.study import load

    torch.set_num_threads(1)
    study = load(file)
    dataset = data.load(study)
    store = SoftTargets(binding, dataset.meta["counts"]["train"], len(dataset.classes))
    largest = 0.0

    def watch() -> None:
        nonlocal largest
        while True:
            memory = psutil.Process().memory_info()  # resident, less what is mapped from files
            largest = max(largest, (memory.rss - getattr(memory, "shared", 0)) / 2**20)
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    pipe.send("ready")
    while (word := pipe.recv()) is not None:
        pipe.send(largest if word == "private" else step(study, name, dataset, store, torch.device(device)))


if __name__ == "__main__":
    main()
