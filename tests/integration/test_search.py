"""A search from drawn pairs to the winner: runs go on from their checkpoints, and are ordinary records."""

import json

import pytest
from helpers import SMALL, write_study

from kd_utils import console
from kd_utils.learning import data
from kd_utils.learning import run as runs
from kd_utils.reporting import results, tables
from kd_utils.running import events, search
from kd_utils.running.pipeline import PipelineError
from kd_utils.shelf import Shelf
from kd_utils.study import load

pytest.importorskip("optuna", reason="the extra search is not installed")

NET = """
from torch import nn

def Net(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, classes))
"""


def test_a_search_that_is_stopped_and_goes_on_comes_to_ordinary_records(root, capsys):
    """It is stopped while the pairs that went on are on their way to the second end."""
    (root / "studies" / "nets.py").write_text(NET)
    content = {**SMALL, "data": {**SMALL["data"], "holdout_per_class": 5}, "students": ["nets.py:Net"]}
    content |= {"train": {"epochs": 4, "batch_size": 16}, "teacher": {"candidates": ["nets.py:Net"]}}
    write_study(root, {**content, "grid": {"T": [1, 20], "alpha": [0.1, 0.9]}})
    study, said = load("small"), []
    data.prepare(study)
    runs.teacher(study).go()

    def stop(event):
        if isinstance(event, events.StageProgress) and event.stage == "Net, to epoch 2" and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.search(study, 0.8, on_event=stop)
    noted = {path: path.stat().st_mtime_ns for path in root.glob("results/small/students/*/scores.json")}
    assert len(noted) == 5 and not (root / "results" / "small" / "search.json").exists()
    found = search.search(study, 0.8, on_event=lambda event: said.append(str(event)))
    assert sum(path.stat().st_mtime_ns == before for path, before in noted.items()) >= 2  # those that were out
    assert "Net: 5 pairs of T and alpha; trained to epoch: 5 to 1 -> 3 to 2 -> 2 to 4" in said
    (winner,) = found.winners
    assert (found.epochs, found.whole) == (2 * 1 + 1 * 2 + 2 * 4 + 4, 5 * 4)  # pairs as far as they went, baseline
    shelf = Shelf(study)
    done = {(r.T, r.alpha): r for r in shelf.students}
    assert len(done) == 3 and (None, 1.0) in done
    record = done[winner.T, winner.alpha]
    assert record.score == max(r.score for (T, _), r in done.items() if T is not None)
    assert (winner.holdout, winner.top1) == (record.metrics.top1_holdout, record.metrics.top1_best)
    told = json.loads((root / "results" / "small" / "search.json").read_text())
    assert [len(told["seen"]["Net"][end]) for end in ("1", "2", "4")] == [5, 3, 2]
    assert not list(root.glob("results/small/students/*/checkpoint.pt"))
    shown = tables.off_grid(results.load(study))
    assert sorted(zip(shown.frame["T"], shown.frame["alpha"], strict=True)) == sorted(
        p for p in done if p[0] is not None
    )
    console.status(study)
    assert (
        f"finished beside the grid, by a search or by hand: {len(shown.frame)}; the report" in capsys.readouterr().out
    )
    before = {path: path.stat().st_mtime_ns for path in root.glob("results/small/students/*/record.json")}
    assert search.search(study, 0.8, on_event=said.append).winners == [winner]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    less, said = search.search(study, 0.3, on_event=said.append), [str(event) for event in said]
    least = search.least_budget(study, 0.01)
    advice = f"budget: {least:g} of the grid, and not 0.3, which on so small a grid pays for no search"
    assert least > 0.3 and f"note: {advice}" in said and advice in less.notes  # before and after
    assert less.epochs <= least * less.whole
    record.folder.rename(root / "searched")  # and trained in one go, it is the same
    again = runs.student(study, T=winner.T, alpha=winner.alpha).go()
    assert again.weights_sha256 == record.weights_sha256


def test_a_search_wants_images_held_out(root):
    data.prepare(load("small"))
    with pytest.raises(PipelineError, match="judges on held-out images, and the study has none: set data.holdout"):
        search.search("small")
    for budget in (0, 7, "x", float("nan")):
        with pytest.raises(PipelineError, match="the budget is a share of the whole grid"):
            search.search("small", budget)
