from pathlib import Path

import pytest
from helpers import SMALL, kd, write_study

from kd_utils import paths


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A root of its own, with studies/small.yaml in it."""
    monkeypatch.setenv("KD_ROOT", str(tmp_path))
    write_study(tmp_path, SMALL)
    return tmp_path


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
