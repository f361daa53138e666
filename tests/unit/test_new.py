"""The name of a new study: it is judged before anything is read or written."""

import os

import pytest
from helpers import kd

from kd_utils.learning import new


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../evil", "cannot be a name"),
        ("/tmp/evil", "cannot be a name"),
        ("a/b", "cannot be a name"),
        ("..", "cannot be a name"),
        ("a\x1bb", "cannot be a name"),
        ("", "cannot be a name"),
        ("ok.yaml", "leave it out of the name"),
        ("ok.yml", "leave it out of the name"),
        ("small", "is there already; choose another name"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_done(root, monkeypatch, name, says):
    monkeypatch.setattr(new, "look", lambda folder: pytest.fail("looked at the images"))
    before = sorted(root.parent.rglob("*"))
    told = kd(root, "new", "--data", str(root), "--", name)
    assert told.returncode == 2 and says in told.stderr and told.stderr.count("\n") == 1
    assert sorted(root.parent.rglob("*")) == before


def test_a_folder_whose_name_no_file_can_hold_is_refused(root):
    folder = os.fsdecode(os.fsencode(root) + b"/pict\xffres")
    os.mkdir(folder)
    told = kd(root, "new", "mine", "--data", folder)
    assert told.returncode == 2 and "not UTF-8" in told.stderr and told.stderr.count("\n") == 1
    assert [path.name for path in (root / "studies").iterdir()] == ["small.yaml"]
