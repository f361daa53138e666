"""Results that travel: packed here, unpacked there, and gone on with; and files that are not what they should be."""

import json
import pickle
import shutil
import zipfile

import pytest
import torch
from helpers import SMALL, kd, write_study

from kd_utils.cells import Cell
from kd_utils.learning import data, export
from kd_utils.learning import run as runs
from kd_utils.running import pack
from kd_utils.running.pack import PackError
from kd_utils.shelf import Shelf
from kd_utils.study import load

NET = """
from torch import nn

def Net(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, classes))
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A study with a model and a teacher of one's own, done but for a cell, and its zip; for reading only."""
    root = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_ROOT", str(root))
        (root / "studies").mkdir()
        (root / "studies" / "nets.py").write_text(NET)
        far = tmp_path_factory.mktemp("far") / "mine.pth"
        exec(NET, module := {})
        torch.save(module["Net"](10).state_dict(), far)
        teacher = {"model": "nets.py:Net", "name": "mine", "pretrained": str(far), "train": {"epochs": 0}}
        content = {**SMALL, "train": {"epochs": 2, "batch_size": 16}, "students": ["nets.py:Net"]}
        write_study(root, {**content, "teacher": {"candidates": [teacher]}, "grid": {"T": [4], "alpha": [0, 0.5]}})
        study = load("small")
        data.prepare(study)
        runs.teacher(study).go()
        for alpha in (0.5, 1):
            runs.student(study, alpha=alpha).go()
        done = pack.pack(study, soft_targets=True)
        assert pack.pack(study, soft_targets=True).path.read_bytes() == done.path.read_bytes()
        far.unlink()
    return done


def test_what_was_packed_goes_on_elsewhere(packed, tmp_path, monkeypatch):
    assert len(packed.notes) == 1 and "mine.pth is not packed: it does not lie beside" in packed.notes[0]
    root = tmp_path / "there"
    study, unpacked = pack.unpack(packed.path, root)
    assert unpacked.count == packed.count and "nets.py is code" in unpacked.notes[0]
    monkeypatch.setenv("KD_ROOT", str(root))
    shelf = Shelf(study)
    assert [cell for cell, record in shelf.cells.items() if record is None] == [Cell("Net", 4, 0.0, 0)]
    assert shelf.teacher.teacher == "mine" and not (root / "cache" / "data").exists()
    best = pack.best(shelf)[0]
    assert len(list(export.predict(study, [], best.cell.name))) == 0  # its weights came along
    assert "| Net |" in (root / "README.md").read_text()
    data.prepare(study)
    run = runs.student(study, alpha=0.0)
    before = {path: path.stat().st_mtime_ns for path in root.glob("cache/soft_targets/*/*.npy")}
    run.go()
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("cache/soft_targets/*/*.npy")}
    assert Shelf(study).done(run.plan.cell)
    with pytest.raises(PackError, match="is there already, and is not empty"):
        pack.unpack(packed.path, root)


def rewritten(packed, path, change):
    """The zip with its entries changed: change(name -> content)."""
    with zipfile.ZipFile(packed.path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def added(name, content=b"x", **about):
    def change(entries):
        manifest = json.loads(entries["manifest.json"])
        sha256 = __import__("hashlib").sha256(content).hexdigest()
        manifest["files"][name] = {"bytes": len(content), "sha256": sha256, **about}
        entries |= {"manifest.json": json.dumps(manifest).encode(), name: content}

    return change


def one_byte(entries):
    name = next(name for name in entries if name.endswith("record.json"))
    entries[name] = entries[name][:-1] + b" "


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (one_byte, "record.json is not what the manifest says; the file is damaged"),
        (added("../evil.json"), "'../evil.json' is no place of a packed study; do not use this file"),
        (added("/tmp/evil.json"), "is no place of a packed study"),
        (added("results/small/../../evil.json"), "is no place of a packed study"),
        (added("results/other/evil.json"), "is no place of a packed study"),
        (added("results/small/.hidden.json"), "is no place of a packed study"),
        (added("results/small/checkpoint.pkl"), "is no place of a packed study"),
        (added("cache/data/x/train.npy"), "is no place of a packed study"),
        (added("results/small/x.json", b"xx", bytes=1), "x.json is not what the manifest says"),
        (added("results/small/x.json", bytes=1 << 60), "its manifest makes no sense"),
        (added("results/small/x.json", bytes=-1), "its manifest makes no sense"),
        (lambda entries: entries.pop("manifest.json"), "not a packed study that can be read"),
        (lambda entries: entries.update({"manifest.json": b"[]"}), "not a packed study"),
        (lambda entries: entries.update({"manifest.json": b"[" * 100_000}), "not a packed study"),
        (lambda entries: entries.update({"manifest.json": pickle.dumps({})}), "not a packed study"),
    ],
)
def test_what_is_no_packed_study_is_refused_whole(packed, tmp_path, change, says):
    path = rewritten(packed, tmp_path / "changed.zip", change)
    with pytest.raises(PackError, match=says):
        pack.unpack(path, tmp_path / "there")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changed.zip"]


def test_the_commands(packed, tmp_path):
    done = kd(tmp_path, "unpack", str(packed.path), str(tmp_path / "there"))
    assert "study small, 2 of 3 cells done\nnext: KD_ROOT=" in done.stdout, done.stderr
    again = kd(tmp_path / "there", "pack", "small")
    assert again.returncode == 0 and "small.zip: " in again.stdout and "mine.pth" not in again.stderr
    shutil.rmtree(tmp_path / "there")
