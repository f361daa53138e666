"""A trained model to take home: as ONNX with its preparation inside, in int8, as .safetensors; and what it predicts.

ONNX is an extra: `uv pip install -e '.[export]'`.
"""

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .. import files, paths
from ..records import Record
from ..shelf import Shelf
from ..study import Study
from ..study import load as load_study
from . import data, models, training, weights
from .plans import Plan, finished
from .restore import restored

if TYPE_CHECKING:
    import onnxruntime

MOST_OFF = 0.001  # of top-1, that ONNX may differ from PyTorch
MOST_LOST = 0.01  # of top-1, that int8 may lose without a word
CALIBRATION = 256  # training images that int8 takes its ranges from
LATENCIES = 50  # images timed


class ExportError(RuntimeError):
    """A model that cannot be exported; the message says why and what to do."""


@dataclass(frozen=True)
class Exported:
    """A model as a file.

    model: its name. form: ONNX, ONNX int8 or safetensors. path: None of a teacher that is only compared with.
    top1: on val, a fraction. megabytes: of the file. milliseconds: an image of the stored size, on one thread of this
    processor by onnxruntime, the median; None where that was not measured.
    """

    model: str
    form: str
    path: Path | None
    top1: float
    megabytes: float | None = None
    milliseconds: float | None = None


@dataclass(frozen=True)
class Export:
    """What an export came to: its files and the teacher, lines of Python that load the weights, and advice."""

    run: str
    rows: list[Exported]
    loading: str
    notes: list[str]


class Served(nn.Module):
    """A classifier that takes images of any size: (N, H, W, 3) uint8 -> (N, classes) probabilities.

    They are scaled to the stored size as the data set was: bicubic, antialiased, rounded to whole numbers.
    """

    def __init__(self, classifier: models.Classifier, size: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, classes) probabilities."""
        x = images.permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(self.size,) * 2, mode="bicubic", antialias=True, align_corners=False)
        return self.classifier(x.round().clamp(0, 255).permute(0, 2, 3, 1)).softmax(dim=1)


def export(study: str | Study, run: str = "", *, int8: bool = False) -> Export:
    """Write a finished run's model to export/STUDY/: RUN.onnx, RUN.safetensors and, with int8, RUN-int8.onnx.

    run: as `kd status` calls it; by default the best student. ONNX Runtime classifies all validation images: a file
    that is more than MOST_OFF off PyTorch is not written. Raises ExportError, ShelfError, DataError, RunError.
    """
    _onnx()
    study = study if isinstance(study, Study) else load_study(study)
    dataset = data.load(study)
    plan, record = finished(study, run)
    model = restored(plan, record, dataset.meta).eval()
    if isinstance(model, models.Given):
        raise ExportError(f"{record.teacher} is logits that were computed elsewhere: there is no model to export")
    name = plan.cell.name if plan.cell else plan.label
    images, labels = dataset.images("val"), dataset.labels("val")
    theirs = training.predict_logits(model, images).argmax(axis=1)
    top1 = float(np.mean(theirs == labels))
    about = _about(plan, record, dataset)
    folder, notes = paths.exported(study.name), []
    if abs(top1 - record.metrics.top1_best) > MOST_OFF:
        notes.append(
            f"in fp32 on this machine {name} has {top1:.2%} top-1, and its record says {record.metrics.top1_best:.2%} "
            f"({record.provenance.precision} on {record.provenance.device_name})"
        )
    whole = folder / f"{name}.onnx"
    with files.whole(whole) as tmp:
        _write_onnx(model, dataset.meta["image_size"], tmp, about)
        ours = _top1(tmp, images, labels)
        if abs(ours - top1) > MOST_OFF:
            raise ExportError(
                f"{whole} was not written: ONNX Runtime comes to {ours:.2%} top-1 on val and PyTorch to {top1:.2%}; "
                "this model, or this version of torch.onnx, cannot be trusted here"
            )
    rows = [Exported(name, "ONNX", whole, ours, _megabytes(whole), _milliseconds(whole, images))]
    if int8:
        small = folder / f"{name}-int8.onnx"
        with files.whole(small) as tmp:
            _quantise(whole, tmp, np.asarray(dataset.images("train")), about)
        lost = top1 - _top1(small, images, labels)
        if lost > MOST_LOST:
            notes.append(f"int8 loses {100 * lost:.1f} points of top-1 on val; {whole.name} is the safer one")
        rows.append(Exported(name, "ONNX int8", small, top1 - lost, _megabytes(small), _milliseconds(small, images)))
    plain = folder / f"{name}.safetensors"
    weights.save(plain, model.backbone.state_dict(), model.mean, model.std, about)
    rows.append(Exported(name, "safetensors", plain, top1, _megabytes(plain)))
    if plan.teacher is not None:
        rows.append(_teacher(study, images, dataset))
    return Export(name, rows, _loading(plan, len(dataset.classes), plain), notes)


def predict(study: str | Study, images: Sequence[str | Path], run: str = "") -> list[list[tuple[str, float]]]:
    """The classes that a finished run's model sees in each image file, likeliest first, each with its probability.

    run: as `kd status` calls it; by default the best student. Raises DataError for what is no image, and ShelfError.
    """
    return list(map(predictor(study, run), images))


def predictor(study: str | Study, run: str = "") -> Callable[[str | Path], list[tuple[str, float]]]:
    """As predict, of one image file at a time."""
    study = study if isinstance(study, Study) else load_study(study)
    plan, record = finished(study, run)
    about = Shelf(study).dataset
    assert about is not None  # there is a record
    model = restored(plan, record, about).eval()
    if isinstance(model, models.Given):
        raise ExportError(f"{record.teacher} is logits that were computed elsewhere: it has no model")
    size, classes = about["image_size"], about["classes"]

    def of(path: str | Path) -> list[tuple[str, float]]:
        pixels = data.image(Path(path), size)
        logits = torch.from_numpy(training.predict_logits(model, pixels[None])[0])
        likely = logits.softmax(dim=0).sort(descending=True, stable=True)
        return [
            (classes[index], share)
            for share, index in zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
        ]

    return of


def _onnx() -> None:
    """Raises ExportError where the extra is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise ExportError(f"{e.name} is not installed; run: uv pip install -e '.[export]'") from None


def _about(plan: Plan, record: Record, dataset: data.Dataset) -> dict[str, str]:
    """What a file says of itself."""
    return {
        "classes": json.dumps(dataset.classes),
        "image_size": str(dataset.meta["image_size"]),
        "model": plan.model.label if plan.model.code else plan.model.model,
        "study": plan.study.name,
        "run": record.id,
        "top1": str(record.metrics.top1_best),
        "weights_sha256": record.weights_sha256,
        "written_by": "kd-utils",
    }


def _write_onnx(model: models.Classifier, size: int, path: Path, about: Mapping[str, str]) -> None:
    """Write the model as ONNX: images, (N, H, W, 3) uint8 -> probabilities, (N, classes)."""
    import onnx

    most = 100_000
    shape = {axis: torch.export.Dim(name, min=1, max=most) for axis, name in enumerate(("N", "H", "W"))}
    example = torch.zeros(2, size + 8, size + 9, 3, dtype=torch.uint8)  # axes of one length would be taken for one axis
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            program: Any = torch.onnx.export(
                Served(model, size).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes={"images": shape},
                input_names=["images"],
                output_names=["probabilities"],
                verbose=False,
            )
            program.save(str(path))
    except Exception as e:
        reason = (str(e).strip().splitlines() or [""])[0]
        raise ExportError(
            f"torch.onnx cannot export {type(model.backbone).__name__} ({type(e).__name__}: {reason})"
        ) from e
    _tell(path, about)
    onnx.checker.check_model(str(path))


def _tell(path: Path, about: Mapping[str, str]) -> None:
    """Write what an ONNX file says of itself into it."""
    import onnx

    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, dict(about))
    onnx.save(graph, str(path))


def _quantise(whole: Path, path: Path, images: np.ndarray, about: Mapping[str, str]) -> None:
    """Static quantisation of convolutions and matrix products to 8 bits; ranges are those of some training images.

    Activations and weights are unsigned: with signed weights, x86 processors without VNNI saturate in 16 bits, and
    results differ from one processor to another.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    chosen = np.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).astype(int)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(np.array_split(chosen, -(-len(chosen) // 32)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            index = next(self.left, None)
            return None if index is None else {"images": images[index]}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        kinds = ["Conv", "Gemm", "MatMul"]  # the images' own preparation stays in floating point
        eight = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8, "per_channel": True}
        quantize_static(str(prepared), str(path), Reader(), op_types_to_quantize=kinds, **eight)
    _tell(path, about)


def _session(path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _top1(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """The accuracy of an ONNX file on these images, by ONNX Runtime."""
    session = _session(path)
    batches = (np.asarray(images[start : start + 128]) for start in range(0, len(images), 128))
    named = [np.asarray(session.run(None, {"images": batch})[0]).argmax(axis=1) for batch in batches]
    return float(np.mean(np.concatenate(named) == labels))


def _milliseconds(path: Path, images: np.ndarray) -> float:
    """The median time of one image on one thread."""
    session, taken = _session(path), []
    for k in range(LATENCIES + 5):
        image = np.asarray(images[k % len(images)])[None]
        started = time.perf_counter()
        session.run(None, {"images": image})
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken[5:])


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def _teacher(study: Study, images: np.ndarray, dataset: data.Dataset) -> Exported:
    """The study's teacher beside its student; what it weighs and takes where its weights are here."""
    chosen = Shelf(study).chosen_teacher()
    name = f"teacher, {chosen.teacher}"
    unknown = Exported(name, "ONNX", None, chosen.metrics.top1_best)
    try:
        plan, record = finished(study, chosen.teacher)
        model = restored(plan, record, dataset.meta).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "teacher.onnx"
            _write_onnx(model, dataset.meta["image_size"], path, {})
            return Exported(name, "ONNX", None, record.metrics.top1_best, _megabytes(path), _milliseconds(path, images))
    except RuntimeError:  # its weights are elsewhere, or it is no model; the student is what is exported
        return unknown


def _loading(plan: Plan, classes: int, path: Path) -> str:
    """Two lines of Python that load the .safetensors, without this package where that can be; '' of an ensemble."""
    spec, file = plan.model, str(path)
    by_torch = f"model.load_state_dict(safetensors.torch.load_file({file!r}))"
    if spec.code:
        name = spec.function
        return f"import safetensors.torch; from {spec.code.stem} import {name}; model = {name}({classes})\n{by_torch}"
    if not spec.model:
        return ""
    if spec.stem != "default":
        asked = f"Model(model={spec.model!r}, stem={spec.stem!r}, pretrained={file!r})"
        size = spec.input_size or "SIZE"
        return (
            "from kd_utils.learning import models; from kd_utils.schema import Model\n"
            f"model = models.create({asked}, {classes}, {size})"
        )
    library, name = models.find(spec.model)
    if library == "timm":
        return f"import timm\nmodel = timm.create_model({name!r}, num_classes={classes}, checkpoint_path={file!r})"
    made = f"torchvision.models.get_model({name!r}, num_classes={classes})"
    return f"import safetensors.torch, torchvision; model = {made}\n{by_torch}"
