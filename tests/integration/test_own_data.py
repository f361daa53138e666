"""The notebook for images, a teacher and a model of one's own, as its reader runs it."""

import json

import pytest
import torch
from papermill import execute_notebook

from kd_utils import paths

for name in ("onnx", "onnxruntime", "onnxscript", "optuna"):
    pytest.importorskip(name, reason="the extras export and search are not installed")
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
    pytest.skip("torch.onnx without TorchScript, as kd export uses it, is of PyTorch 2.9", allow_module_level=True)


def test_from_a_folder_of_images_to_predictions(tmp_path):
    root = tmp_path / "own"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        nb = execute_notebook(str(paths.notebook("own_data")), str(tmp_path / "out.ipynb"), {"folder": str(root)})
    assert sum(1 for _ in root.glob("images/*/*/*.png")) == 800
    (teacher,) = (json.loads(path.read_text()) for path in root.glob("results/my-digits/teachers/*/record.json"))
    assert teacher["metrics"]["epochs"] == 0 and teacher["metrics"]["top1_best"] > 0.5  # its head, order and pixels fit
    students = [json.loads(path.read_text()) for path in root.glob("results/my-digits/students/*/record.json")]
    assert {s["student"] for s in students} == {"TinyNet"} and all("code" in s["settings"]["model"] for s in students)
    told = json.loads((root / "results" / "my-digits" / "search.json").read_text())
    (winner,) = told["winners"]
    assert (winner["T"], winner["alpha"]) in {(s["T"], s["alpha"]) for s in students}
    (onnx,) = root.glob("export/my-digits/*.onnx")
    assert onnx.stem == winner["run"]
    said = [line.split(" -> ") for line in nb.cells[-1].outputs[0]["text"].splitlines()]
    assert len(said) == 5 and sum(likely.startswith(f"{name} (") for name, likely in said) >= 3, said
