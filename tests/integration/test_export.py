"""What is taken home, by those who would use it: ONNX Runtime, timm and torchvision."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SMALL, kd, write_study
from PIL import Image

import kd_utils
from kd_utils.learning import data, export, models, training
from kd_utils.learning import run as runs
from kd_utils.learning.weights import fingerprint
from kd_utils.schema import Model
from kd_utils.shelf import ShelfError
from kd_utils.study import load

CELL = "Net-T4-a0.5-s0"
CODE = """
from torch import nn

def Net(classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes),
    )
"""


@pytest.fixture
def onnx():
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="the extra export is not installed")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip("torch.onnx without TorchScript, as kd export uses it, is of PyTorch 2.9")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("taken-home")
        patch.setenv("KD_ROOT", str(root))
        yield root


@pytest.fixture(scope="module")
def distilled(root):
    """A study with one cell done, in moments, by models that tell the classes apart; for reading only."""
    (root / "studies").mkdir()
    (root / "studies" / "nets.py").write_text(CODE)
    data_of = {**SMALL["data"], "train_per_class": 20}
    content = {**SMALL, "data": data_of, "augment": {"flip": False, "crop": "none"}, "grid": {"T": [4], "alpha": [0.5]}}
    content |= {"train": {"epochs": 12, "batch_size": 16, "lr": 0.003}, "students": ["nets.py:Net"]}
    write_study(root, {**content, "teacher": {"candidates": [{"model": "nets.py:Net", "input_size": 16}]}})
    study = load("small")
    data.prepare(study)
    runs.teacher(study).go()
    runs.student(study, T=4, alpha=0.5).go()
    return study


def test_an_exported_student_says_what_it_said_here(root, distilled, onnx):
    import onnxruntime

    done = export.export(distilled, int8=True)
    assert done.run == CELL
    onnx_row, int8_row, plain, teacher = done.rows
    record = runs.student(distilled, T=4, alpha=0.5).record
    assert record.metrics.top1_best > 0.6
    assert onnx_row.top1 == pytest.approx(record.metrics.top1_best, abs=export.MOST_OFF)
    assert int8_row.top1 <= 1 and int8_row.megabytes < 0.5 * onnx_row.megabytes
    assert all(row.milliseconds > 0 for row in (onnx_row, int8_row, teacher))
    assert bool(done.notes) == (onnx_row.top1 - int8_row.top1 > export.MOST_LOST)
    session = onnxruntime.InferenceSession(onnx_row.path)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == [str(k) for k in range(10)] and about["run"] == record.id
    model = runs.student(distilled, T=4, alpha=0.5).model.eval()
    large = np.random.default_rng(0).integers(0, 256, (3, 40, 31, 3), dtype=np.uint8)
    for images in (np.asarray(data.load(distilled).images("val"))[:5], large):
        stored = np.stack([np.asarray(Image.fromarray(i).resize((16, 16), Image.Resampling.BICUBIC)) for i in images])
        want = torch.from_numpy(training.predict_logits(model, stored)).softmax(dim=1).numpy()
        (got,) = session.run(None, {"images": images})
        np.testing.assert_allclose(got, want, atol=0.05)
        np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_what_differs_from_pytorch_is_not_written(root, distilled, onnx, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in root.glob("export/small/*")}
    monkeypatch.setattr(export, "_top1", lambda path, images, labels: 0.5)
    with pytest.raises(export.ExportError, match=r"was not written: ONNX Runtime comes to 50\.00% top-1 on val and Py"):
        export.export(distilled)
    assert {path: path.stat().st_mtime_ns for path in root.glob("export/small/*")} == before


def test_the_classes_of_images_are_named(root, distilled):
    run = runs.student(distilled, T=4, alpha=0.5)
    named = run.evaluate().predictions["predicted"]
    stored = np.asarray(run.dataset.images("val"))
    for k in range(3):
        Image.fromarray(stored[k]).save(root / f"{k}.png")
    likely = list(kd_utils.predict(distilled, [root / f"{k}.png" for k in range(3)]))
    assert [best[0][0] for best in likely] == [str(label) for label in named[:3]]
    assert all(sum(share for _, share in best) == pytest.approx(1) for best in likely)
    (root / "not.png").write_text("no image")
    bad = [root / "not.png", root, root / "none.png"]
    told = kd(root, "predict", "small", *map(str, (*bad, root / "0.png")), "--run", CELL)
    assert told.stdout.startswith(f"{root / '0.png'}\t{named[0]} ") and told.returncode == 1
    assert told.stderr.splitlines() == [
        f"kd: {root / 'not.png'}: not an image that can be decoded (no image, or none in a format that is read)",
        f"kd: {root} is a folder; name image files",
        f"kd: there is no file {root / 'none.png'}",
    ]


def test_a_run_that_is_not_done_is_named(distilled):
    with pytest.raises(ShelfError, match="no finished run 'Net-T4-a0.7-s0' in study 'small'; did you mean Net"):
        list(kd_utils.predict(distilled, [], "Net-T4-a0.7-s0"))


def test_the_extra_is_named_where_it_is_missing(distilled, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(export.ExportError, match=r"onnx is not installed; run: uv pip install -e '\.\[export\]'"):
        export.export(distilled)


@pytest.mark.parametrize(
    "spec",
    [
        Model(model="test_byobnet"),
        Model(model="torchvision/shufflenet_v2_x0_5"),
        Model(model="resnet18", stem="small", input_size=16),
        Model(model="nets.py:Net"),
    ],
    ids=lambda spec: spec.label,
)
def test_weights_load_in_two_lines(tmp_path, monkeypatch, spec):
    """As kd export prints them; of models that others know, in a Python that has not this package."""
    (tmp_path / "nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    model, path = models.create(spec, 10, 16), tmp_path / "weights.safetensors"
    models.save(model, path)
    lines = export._loading(SimpleNamespace(model=spec), 10, path)
    assert len(lines.splitlines()) == 2 and ("kd_utils" in lines) == (spec.stem == "small")
    exec(lines, loaded := {})
    backbone = getattr(loaded["model"], "backbone", loaded["model"])
    assert fingerprint(backbone.state_dict()) == fingerprint(model.backbone.state_dict())
