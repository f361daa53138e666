"""Models by their timm or torchvision names, or of one's own: uint8 images in, logits out."""

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .. import paths
from ..schema import Model
from . import weights
from .weights import IMAGENET_MEAN, IMAGENET_STD, Channels, ModelError, set_state

IMAGENET_CLASSES = 1000


class Classifier(nn.Module):
    """A backbone with the preparation of its input: (B, H, W, 3) uint8 -> (B, classes) logits.

    Images are scaled to input_size (bilinear, antialiased) if that differs, then normalised by mean and std, which
    are given for pixels between 0 and 1. `backbone.state_dict()` is what timm or torchvision would save.
    input_size: pixels a side. origin: where the weights come from, for the record.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        input_size: int,
        mean: Channels = IMAGENET_MEAN,
        std: Channels = IMAGENET_STD,
        origin: str = "random",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.input_size = input_size
        self.origin = origin
        self.register_buffer("scale", torch.empty(1, 3, 1, 1))
        self.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.normalise_by(mean, std)

    def normalise_by(self, mean: Channels, std: Channels) -> None:
        """Normalise the input by this mean and std of each channel, for pixels between 0 and 1."""
        self.mean, self.std = tuple(mean), tuple(std)
        self.scale.copy_((1 / (255 * torch.tensor(self.std))).view(1, 3, 1, 1))
        self.shift.copy_((-torch.tensor(self.mean) / torch.tensor(self.std)).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 -> (B, classes) logits."""
        x = images.permute(0, 3, 1, 2).float()
        if x.shape[-1] != self.input_size:
            x = F.interpolate(x, size=(self.input_size,) * 2, mode="bilinear", antialias=True, align_corners=False)
        return self.backbone(torch.addcmul(self.shift, x, self.scale))


class Ensemble(Classifier):
    """Classifiers that see the same images, each in its own way: the mean of their logits."""

    def __init__(self, members: Sequence[Classifier], origin: str = "") -> None:
        super().__init__(nn.ModuleList(members), members[0].input_size, origin=origin)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 -> (B, classes) logits."""
        members = cast(nn.ModuleList, self.backbone)
        return torch.stack([member(images) for member in members]).mean(dim=0)


class Given(Classifier):
    """Logits that were computed elsewhere, of the images of a data set as they are stored; they stand for a model.

    counts: the number of images of each split. classes: their number.
    """

    def __init__(self, counts: Mapping[str, int], classes: int, origin: str = "") -> None:
        table = nn.Module()
        for split, count in counts.items():
            table.register_buffer(f"{split}_logits", torch.zeros(count, classes))
        super().__init__(table, 0, origin=origin)

    @classmethod
    def read(cls, path: Path, counts: Mapping[str, int], classes: int) -> "Given":
        """Those of a .npy: (images, classes), the splits one after the other. Raises ModelError."""
        try:
            logits = np.load(path, mmap_mode="r", allow_pickle=False)  # whatever its header says of its size
        except (OSError, EOFError, ValueError) as e:
            raise ModelError(f"logits: {path} cannot be read as .npy ({e}); write it by numpy.save") from None
        if not isinstance(logits, np.ndarray):  # an .npz has several
            raise ModelError(f"logits: {path} is no .npy, of one array; write it by numpy.save")
        if logits.shape != (sum(counts.values()), classes) or logits.dtype.kind != "f":
            splits = ", ".join(f"{count:,} of {split}" for split, count in counts.items() if count)
            raise ModelError(
                f"logits: {path} has {logits.dtype} of shape {logits.shape}, and the data have "
                f"{sum(counts.values()):,} images ({splits}) and {classes} classes; write floating point numbers, a "
                "row an image, in the order that kd data --list prints"
            )
        if not np.isfinite(logits).all():
            raise ModelError(
                f"logits: {path} has values that are not finite, the first in row "
                f"{int(np.argmin(np.isfinite(logits).all(axis=1)))} (from 0); compute that again"
            )
        given = cls(counts, classes, path.name)
        parts = np.split(logits.astype(np.float32), np.cumsum(list(counts.values()))[:-1])
        set_state(
            given.backbone,
            {f"{split}_logits": torch.from_numpy(part) for split, part in zip(counts, parts, strict=True)},
        )
        return given

    def logits(self, split: str) -> np.ndarray:
        """Of a split's images, (N, classes) float32."""
        return self.backbone.get_buffer(f"{split}_logits").cpu().numpy()


def device(name: str = "auto") -> torch.device:
    """'auto': CUDA, then Apple's MPS, then the CPU; otherwise the device of that name. Raises ModelError."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        named = torch.device(name)
        torch.zeros(1, device=named)
    except (RuntimeError, AssertionError) as e:
        raise ModelError(f"device {name!r} cannot be used here ({str(e).splitlines()[0]}); try auto or cpu") from None
    return named


def create(spec: Model, classes: int, image_size: int, head: bool = False) -> Classifier:
    """Make the model of a study's `spec` with a new head for `classes`, in channels_last.

    image_size: pixels a side of the stored images, which the model sees unless spec.input_size says otherwise.
    The weights that are not loaded are drawn from torch's global generator: seed it first.
    head: whether pretrained weights must have a head that fits. Raises ModelError if not, for a name that neither
    library knows, and for weights that cannot be had.
    """
    size = spec.input_size or image_size
    library, name = ("", "") if spec.code else find(spec.model)

    def build(**kwargs: Any) -> nn.Module:
        if spec.code:
            return _from_file(spec.code, spec.function, classes, size)
        backbone = _build(library, name, classes, **kwargs)
        return _small_stem(backbone, name) if spec.stem == "small" else backbone

    if spec.pretrained is True:
        backbone, mean, std, origin = weights.pretrained(library, name, build)
        theirs = getattr(backbone, "pretrained_cfg", {}).get("num_classes", IMAGENET_CLASSES)
        if head and theirs != classes:
            raise weights.other_head(f"ImageNet weights of {spec.model}", theirs, classes)
        model = Classifier(backbone, size, mean, std, origin)
    elif spec.pretrained:
        path = Path(spec.pretrained).expanduser()
        backbone = build()
        mean, std = weights.load_file(backbone, path, head)
        model = Classifier(backbone, size, mean, std, path.name)
    else:
        model = Classifier(build(), size)
    if spec.mean or spec.std:
        model.normalise_by(tuple(spec.mean or model.mean), tuple(spec.std or model.std))
    # to() takes a memory format alone, which its annotations do not know
    return cast(Any, model).to(memory_format=torch.channels_last)


def check(spec: Model, classes: int, image_size: int, head: bool = False) -> None:
    """See to it that a study's `spec` can be made and takes images of its size; hubs are not asked for weights.

    image_size: pixels a side of the stored images. head: as of create. Raises ModelError.
    """
    without_hub = spec.model_copy(update={"pretrained": False}) if spec.pretrained is True else spec
    model = create(without_hub, classes, image_size, head).eval()
    noise = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            logits = model(torch.randint(256, (2, image_size, image_size, 3), dtype=torch.uint8, generator=noise))
    except Exception as e:
        raise ModelError(
            f"model {spec.model!r} does not take images of {model.input_size} pixels a side "
            f"({str(e).splitlines()[0]}); set its input_size, or data.image_size"
        ) from None
    finite(logits.numpy(), spec)


def finite(logits: np.ndarray, spec: Model) -> None:
    """Raise ModelError, naming the files of the study's `spec`, where its logits are not all finite."""
    if not np.isfinite(logits).all():
        files = " and ".join(str(path) for path in spec.files)
        raise ModelError(
            f"model {spec.label!r}: its logits are not finite (NaN or infinity); "
            + (f"look at {files}" if files else "train it with a smaller lr, or in fp32")
        )


def find(name: str) -> tuple[str, str]:
    """The library that has the model: torchvision first, unless the name begins with timm/ or torchvision/."""
    library, _, bare = name.rpartition("/")
    if library not in ("", "timm", "torchvision"):
        raise ModelError(f"model {name!r}: the part before '/' is timm or torchvision")
    if library in ("", "torchvision"):
        import torchvision

        if bare in torchvision.models.list_models(torchvision.models):
            return "torchvision", bare
    if library in ("", "timm"):
        import timm

        if timm.is_model(bare):
            return "timm", bare
        close = difflib.get_close_matches(bare, timm.list_models(), 4, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
    else:
        hint = ""
    raise ModelError(f"no model {name!r} in {library or 'torchvision or timm'}{hint}")


def _build(library: str, name: str, classes: int, **kwargs: Any) -> nn.Module:
    """The backbone by its library's own function; kwargs go to timm's."""
    if library == "timm":
        import timm

        return timm.create_model(name, num_classes=classes, **kwargs)
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=classes)


def _small_stem(backbone: nn.Module, name: str) -> nn.Module:
    """The backbone with a first convolution of 3 x 3 and stride 1 and no pooling behind it, as for images of 32 px.

    He et al. 2016 trained ResNets so on CIFAR-10. Raises ModelError where that is not how the model begins.
    """
    conv, pool = getattr(backbone, "conv1", None), getattr(backbone, "maxpool", None)
    first = conv[0] if isinstance(conv, nn.Sequential) else conv  # a deep stem's other convolutions have stride 1
    if not isinstance(first, nn.Conv2d) or pool is None:
        raise ModelError(f"model {name!r} has no small stem: that is for ResNets and ShuffleNets; leave stem out")
    small = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(conv, nn.Sequential):
        conv[0] = small
    else:
        backbone.conv1 = small
    backbone.maxpool = nn.Identity()
    return backbone


def _from_file(path: Path, name: str, classes: int, size: int) -> nn.Module:
    """A model of one's own: what `name` of that Python file gives back for a number of classes.

    size: pixels a side that it will see. Raises ModelError for whatever goes wrong in the file.
    """
    where = f"{path}:{name}"
    module = ModuleType(f"kd_own_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for themselves
    try:  # not by an import, which may take an older file's bytecode
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except FileNotFoundError:
        raise ModelError(f"model: there is no file {path}") from None
    except (Exception, SystemExit) as e:
        raise ModelError(f"model: {path} cannot be run ({type(e).__name__}: {e})") from e
    make = getattr(module, name, None)
    if make is None:
        close = difflib.get_close_matches(name, vars(module), 1)
        raise ModelError(f"model: there is no {name!r} in {path}" + (f"; did you mean {close[0]}?" if close else ""))
    try:
        model = make(classes)
        if not isinstance(model, nn.Module):
            raise TypeError(f"it gives back a {type(model).__name__}, not a torch.nn.Module")
        model.eval()
        with torch.no_grad():
            out = model(torch.zeros(2, 3, size, size))
        if not isinstance(out, torch.Tensor) or out.shape != (2, classes):
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise ValueError(f"of 2 images and {classes} classes it makes {shape}, not logits of shape (2, {classes})")
    except (Exception, SystemExit) as e:
        raise ModelError(f"model: {where}({classes}) cannot be used ({type(e).__name__}: {e})") from e
    return model.train()


def compiled(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model through torch.compile, for one shape of batch; on CUDA its steps are captured as CUDA graphs.

    What is compiled is kept in cache/inductor and serves every run of that model, shape and machine: the first
    pays a minute or two, the others some seconds.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.compiled()))
    on_gpu = next(model.parameters()).device.type == "cuda"
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if on_gpu else "default")


def save(model: nn.Module, path: Path) -> None:
    """Write the backbone's weights, and their normalisation, as .safetensors. No `module.` prefix, ever."""
    classifier = unwrap(model)
    weights.save(path, classifier.backbone.state_dict(), classifier.mean, classifier.std)


def restore(model: Classifier, path: Path) -> None:
    """Give the model the weights that `save` wrote, and their normalisation."""
    state, mean, std = weights.read(path)
    weights.set_state(model.backbone, state)
    model.normalise_by(mean, std)


def unwrap(model: nn.Module) -> Classifier:
    """The Classifier inside a DataParallel, or the model itself, which is one."""
    return cast(Classifier, model.module if isinstance(model, nn.DataParallel) else model)


def parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
