"""The store of soft targets, without a teacher."""

import hashlib
import json
import shutil
import threading

import numpy as np
import pytest
from helpers import SMALL, write_study

from kd_utils.learning import data
from kd_utils.learning.soft_targets import SoftTargets, SoftTargetsError
from kd_utils.study import load

BINDING = {"teacher": "a", "seed": 0}


def logits(value=1.0):
    return np.full((5, 3), value, np.float32)


def renote(store, view):
    """The note of a view, as if its file had been written as it is now."""
    path = store.folder / f"view_{view:04d}.json"
    sha256 = hashlib.sha256(path.with_suffix(".npy").read_bytes()).hexdigest()
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": sha256}))


def test_a_store_that_says_something_else_is_refused(root):
    store = SoftTargets(BINDING, 5, 3)
    (store.folder / "binding.json").write_text('{"teacher": "b", "seed": 0}')
    with pytest.raises(SoftTargetsError, match="delete the folder"):
        SoftTargets(BINDING, 5, 3)


def test_what_is_stored_is_not_computed_again(root):
    store, asked = SoftTargets(BINDING, 5, 3), []

    def compute(view):
        asked.append(view)
        return logits(view)

    assert store.ensure(range(3), compute, "a CPU") == 3
    assert SoftTargets(BINDING, 5, 3).ensure(range(4), compute, "a GPU") == 1
    assert asked == [0, 1, 2, 3]
    assert store[2].dtype == np.float16 and (store[2] == 2).all()
    assert store.computed_on(range(3)) == ["a CPU"] and store.computed_on(range(4)) == ["a CPU", "a GPU"]


def test_two_at_once_compute_a_view_once(root):
    asked, gate = [], threading.Barrier(2, timeout=30)

    def work():
        store = SoftTargets(BINDING, 5, 3)
        gate.wait()
        store.ensure(range(5), lambda v: asked.append(v) or logits(v), "here")

    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(asked) == list(range(5))


def test_a_missing_or_truncated_view_is_named(root):
    store = SoftTargets(BINDING, 5, 3)
    with pytest.raises(SoftTargetsError, match="no soft targets yet"):
        store[0]
    store.ensure([0], logits, "here")
    path = store.folder / "view_0000.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SoftTargetsError, match="view_0000.npy: damaged.*made anew"):
        store[0]
    np.save(path, logits())
    renote(store, 0)
    with pytest.raises(SoftTargetsError, match="float32.*expected float16"):
        store[0]


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_logits_that_float16_cannot_hold_are_refused(root, value):
    store = SoftTargets(BINDING, 5, 3)
    with pytest.raises(SoftTargetsError, match="not finite in float16"):
        store.ensure([0], lambda v: logits(value), "here")
    assert not store.has(0)


def test_soft_targets_that_are_not_finite_are_named_and_computed_again(root, capsys):
    store = SoftTargets(BINDING, 5, 3)
    store.ensure([0], logits, "here")
    np.save(store.folder / "view_0000.npy", np.full((5, 3), np.nan, np.float16))
    renote(store, 0)
    with pytest.raises(SoftTargetsError, match=r"view_0000.npy: damaged \(not all of it is finite\); delete it"):
        store[0]
    assert store.ensure([0], logits, "here") == 1 and "view_0000.npy: damaged" in capsys.readouterr().out
    assert np.isfinite(store[0]).all()


def test_an_interrupted_view_leaves_nothing(root):
    store = SoftTargets(BINDING, 5, 3)
    with pytest.raises(KeyboardInterrupt):
        store.ensure([0], lambda v: (_ for _ in ()).throw(KeyboardInterrupt), "here")
    assert [p.name for p in store.folder.iterdir() if p.suffix != ".lock"] == ["binding.json"]


def test_studies_differ_only_where_they_do(root):
    """A second study on the same data, teacher, views and seed takes the same store."""
    write_study(root, {**SMALL, "grid": {"T": [1], "alpha": [0.9]}}, "other")
    for name in ("small", "other"):
        data.prepare(load(name))
    assert data.load(load("small")).folder == data.load(load("other")).folder


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, emptied])
@pytest.mark.parametrize("name", ["view_0001.npy", "view_0001.json"])
def test_a_damaged_view_is_named_and_made_again(root, capsys, damage, name):
    store = SoftTargets(BINDING, 5, 3)
    store.ensure(range(2), logits, "here")
    damage(store.folder / name)
    with pytest.raises(SoftTargetsError, match=rf"{name[:9]}.*damaged"):
        store[1]
    assert store.ensure(range(2), lambda view: logits(7), "here") == 1
    assert name[:9] in capsys.readouterr().out
    assert (store[1] == 7).all() and (store[0] == 0).all()


def test_views_that_changed_places_are_computed_again(root):
    """With their notes, so that each file is the one its note speaks of; within a store, and between two."""
    store, other = SoftTargets(BINDING, 5, 3), SoftTargets({**BINDING, "seed": 1}, 5, 3)
    for one in (store, other):
        one.ensure(range(2), lambda view, one=one: logits(view + 10 * (one is other)), "here")
    for ending in ("npy", "json"):
        first, second = (store.folder / f"view_000{k}.{ending}" for k in range(2))
        first.rename(second.with_suffix(".tmp"))
        second.rename(first)
        second.with_suffix(".tmp").rename(second)
        shutil.copy(store.folder / f"view_0000.{ending}", other.folder)
    for one, view in ((store, 0), (store, 1), (other, 0)):
        with pytest.raises(SoftTargetsError, match="its note is gone, or that of another view"):
            one[view]
    assert store.ensure(range(2), logits, "here") == 2 and (store[0] == 0).all() and (store[1] == 1).all()
    assert other.ensure(range(2), logits, "here") == 1


@pytest.mark.parametrize("note", [None, '{"device": "there"}'])
def test_a_view_whose_note_says_too_little_is_computed_again(root, note):
    store = SoftTargets(BINDING, 5, 3)
    store.ensure([0], logits, "here")
    path = store.folder / "view_0000.json"
    path.unlink() if note is None else path.write_text(note)
    assert store.ensure([0], logits, "here") == 1


def test_a_truncated_binding_is_written_again(root):
    path = SoftTargets(BINDING, 5, 3).folder / "binding.json"
    whole = path.read_text()
    for left in ("", whole[:9]):
        path.write_text(left)
        SoftTargets(BINDING, 5, 3)
        assert path.read_text() == whole
