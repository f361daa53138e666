import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kd_utils import paths

# the smallest study that has every stage: two teachers, two students, a 2 x 3 grid
SMALL = {
    "data": {"name": "digits", "image_size": 16, "train_per_class": 8, "val_from_train_per_class": 5},
    "augment": {"flip": True, "crop": "shift", "shift": 2},
    "train": {"epochs": 3, "batch_size": 8, "lr": 0.001},
    "teacher": {
        "train": {"epochs": 8},
        "candidates": ["lcnet_050", {"model": "shufflenet_v2_x0_5", "name": "shuffle"}],
    },
    "students": ["lcnet_050", {"model": "shufflenet_v2_x0_5", "name": "shuffle"}],
    "grid": {"T": [4, 20], "alpha": [0, 0.5, 1]},
    "seeds": [0],
}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A root of its own, with studies/small.yaml in it."""
    monkeypatch.setenv("KD_ROOT", str(tmp_path))
    write_study(tmp_path, SMALL)
    return tmp_path


def write_study(root: Path, content: dict, name: str = "small") -> Path:
    path = root / "studies" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def kd(root: Path, *words: str, **kwargs) -> subprocess.CompletedProcess:
    """The command kd, as typed."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "kd"), *words],
        env={**os.environ, "KD_ROOT": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        **kwargs,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The root of a study that `kd run` has finished; for reading only."""
    root = tmp_path_factory.mktemp("finished")
    write_study(root, SMALL)
    done = kd(root, "run", "small")
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def at_finished(finished, monkeypatch) -> Path:
    monkeypatch.setenv("KD_ROOT", str(finished))
    return finished


@pytest.fixture(scope="session")
def checkout() -> Path:
    return paths.CHECKOUT
