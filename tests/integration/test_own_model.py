"""A model of one's own, as student and as teacher, from its file to its record: in forked notebooks."""

import json
import pickle

import torch
from helpers import SMALL, kd, write_study

from kd_utils import files
from kd_utils.learning import data
from kd_utils.learning import run as runs
from kd_utils.running import pipeline
from kd_utils.shelf import Shelf
from kd_utils.study import load

CODE = """
import torch
from torch import nn

class TinyNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""


def test_one_s_own_teacher_teaches_one_s_own_student(root):
    (root / "studies" / "nets.py").write_text(CODE.replace("WIDTH", "8"))
    module = {"__name__": "nets"}
    exec((root / "studies" / "nets.py").read_text(), module)
    torch.manual_seed(0)
    torch.save(module["TinyNet"](10).state_dict(), root / "studies" / "mine.pth")
    mine = {"model": "nets.py:TinyNet", "name": "mine", "pretrained": "mine.pth", "train": {"epochs": 0}}
    candidates = [{"ensemble": ["mine", "trained"]}, mine, {"model": "nets.py:TinyNet", "name": "trained"}]
    content = {**SMALL, "train": {"epochs": 1, "batch_size": 16}, "students": ["nets.py:TinyNet"]}
    content |= {"teacher": {"candidates": candidates}, "grid": {"T": [4], "alpha": [0.5]}}
    path = write_study(root, content)
    study = load(path)
    data.prepare(study)
    for label in ("mine", "trained", "ensemble"):
        runs.teacher(study, candidate=label).go()
    tasks = pipeline.student_tasks(Shelf(study))
    assert pickle.loads(pickle.dumps(tasks)) == tasks  # as Ray sends them to other machines
    done = kd(root, "grid", "small")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(p.read_text()) for p in (root / "results" / "small").glob("*/*/record.json")]
    models = {(r.get("student") or r["teacher"]): r["settings"]["model"] for r in records}
    assert set(models) == {"mine", "trained", "ensemble", "TinyNet"} and len(records) == 5
    assert models["TinyNet"]["model"] == "TinyNet" and len(models["TinyNet"]["code"]["sha256"]) == 64
    assert str(root) not in json.dumps(models)
    (root / "studies" / "nets.py").write_text(CODE.replace("WIDTH", "9"))
    files._sha256.cache_clear()  # known for as long as neither size nor time changes
    assert not Shelf(load(path)).teachers  # another model, other runs
