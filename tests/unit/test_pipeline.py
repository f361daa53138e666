"""A study's stages, without a run."""

import pytest

from kd_utils import paths
from kd_utils.learning import data
from kd_utils.running import pipeline
from kd_utils.shelf import Shelf, ShelfError
from kd_utils.study import load


@pytest.mark.parametrize("left", ["", '{"fingerprint": "0', "{}", "[]"])
def test_a_damaged_note_of_the_data_is_named_and_written_again(root, left):
    data.prepare(load("small"))
    path = paths.results("small") / "data.json"
    whole = path.read_text()
    path.write_text(left)
    with pytest.raises(ShelfError, match=r"data\.json: damaged.*kd data small"):
        Shelf(load("small")).candidates  # noqa: B018 - raises
    data.prepare(load("small"))
    assert path.read_text() == whole


def test_a_root_that_cannot_be_written_to_is_named(root, monkeypatch):
    def read_only(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    for what in ("write_text", "mkdir"):
        with monkeypatch.context() as m:
            m.setattr(pipeline.Path, what, read_only)
            says = pytest.raises(pipeline.PipelineError, match=r"results/small cannot be written to \(Read-only")
            with says, pipeline.held(load("small")):
                pass
    with pipeline.held(load("small")):
        pass


def test_a_working_directory_that_is_gone_is_said_to_be(root, monkeypatch, tmp_path_factory):
    gone = tmp_path_factory.mktemp("gone")
    monkeypatch.chdir(gone)
    gone.rmdir()
    says = pytest.raises(pipeline.PipelineError, match="the folder that this was started in is gone")
    with says, pipeline.held(load("small")):
        pass
