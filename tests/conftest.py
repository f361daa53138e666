import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side

import pytest
from filelock import FileLock
from helpers import SMALL, kd, write_study

from kd_utils import paths
from kd_utils.reporting import results


def pytest_collection_modifyitems(items):
    """Unit tests come first, and then those that need no finished study, which one worker makes meanwhile."""
    items.sort(key=lambda item: ("finished" in item.fixturenames, "unit" not in item.path.parts))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A root of its own, with studies/small.yaml in it."""
    monkeypatch.setenv("KD_ROOT", str(tmp_path))
    write_study(tmp_path, SMALL)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The root of a study that `kd run` has finished, made once for all of pytest's workers; for reading only."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, whole = shared / "finished", shared / "finished.whole"
    with FileLock(shared / "finished.lock"):
        if not whole.exists():
            root.mkdir(exist_ok=True)
            write_study(root, SMALL)
            done = kd(root, "run", "small")
            assert done.returncode == 0, done.stdout + done.stderr
            whole.touch()
    return root


@pytest.fixture
def at_finished(finished, monkeypatch) -> Path:
    monkeypatch.setenv("KD_ROOT", str(finished))
    return finished


@pytest.fixture(scope="session")
def loaded(finished):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_ROOT", str(finished))
        return results.load("small")


@pytest.fixture
def study_results(at_finished, loaded):
    """The results of the finished study, loaded once; for reading only."""
    return loaded


@pytest.fixture
def copied(finished, tmp_path, monkeypatch) -> Path:
    """A root of its own, with a copy of the finished study, to be changed."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("KD_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def checkout() -> Path:
    return paths.CHECKOUT


@pytest.fixture(scope="session")
def kept():
    """What the committed records say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KD_ROOT", raising=False)
        return results.load("tiny-imagenet-20")
