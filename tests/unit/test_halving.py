"""Successive halving, replayed on the committed histories, and what a budget pays for."""

import sys
from math import ceil, comb, log
from statistics import median

import pytest
from helpers import SMALL, write_study
from typer.testing import CliRunner

from kd_utils.cli import app
from kd_utils.running import search
from kd_utils.schema import Grid
from kd_utils.shelf import Shelf
from kd_utils.study import load


@pytest.fixture(scope="module")
def kept(checkout):
    """The distilled cells of the committed grid, by student and seed, where a seed has at least six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KD_ROOT", raising=False)
        students = Shelf(load(checkout / "studies" / "tiny-imagenet-20.yaml")).students
    groups = {}
    for record in students:
        if record.method == "kd" and record.T is not None:
            groups.setdefault((record.student, record.seed), []).append(record)
    return {which: records for which, records in groups.items() if len(records) >= 6}


def regret(records, chosen):
    """What a choice loses on val to the best of all cells, in points."""
    return 100 * (max(r.metrics.top1_best for r in records) - chosen.metrics.top1_best)


def of_random_cells(records, count):
    """The expected regret of choosing on held-out images among so many cells, drawn without replacement, exactly."""
    ranked = sorted(records, key=lambda record: -record.score)
    others = [comb(len(ranked) - 1 - k, count - 1) for k in range(len(ranked))]  # draws of which the k-th is the best
    return sum(n * regret(records, record) for n, record in zip(others, ranked, strict=True)) / comb(len(ranked), count)


def of_halving(records, ends):
    """The regret of successive halving over all of these cells, and its cost in whole runs."""
    held = {id(record): record for record in records}
    seen = search.halve(list(held), ends, lambda some, end: {k: search.held_out(held[k].history, end) for k in some})
    chosen = max((held[k] for k in seen[ends[-1]]), key=lambda record: record.score)
    return regret(records, chosen), search.epochs_of(len(records), ends) / ends[-1]


def test_halving_loses_less_than_random_cells_of_the_same_cost(kept):
    """Over all students and seeds that there are; where the ranking at an early epoch is worthless, it may not."""
    assert {seed for _, seed in kept} == {0, 1, 2} and len(kept) == 6
    ends = search.stages(40, 5)
    assert ends == [10, 20, 40]
    told = {which: of_halving(records, ends) for which, records in kept.items()}
    random = {which: of_random_cells(kept[which], ceil(cost)) for which, (_, cost) in told.items()}
    assert sum(lost for lost, _ in told.values()) < 0.7 * sum(random.values())
    for student in {student for student, _ in kept}:
        assert told[student, 0][0] < random[student, 0]  # the whole grid
        assert told[student, 0][1] == pytest.approx(0.5 * 24)


def test_an_early_ranking_that_is_worthless_is_said(kept):
    class WithStudents:
        students = kept["resnet18", 0]

    said = search._early(WithStudents, "resnet18", [5, 10, 40], {})
    assert "resnet18: the ranking at epoch 5 says little of that at the end, among 24 runs (Spearman 0.1" in said
    assert not search._early(WithStudents, "resnet18", [10, 20, 40], {})
    WithStudents.students = kept["shufflenet_v2_x1_0", 0]
    assert not search._early(WithStudents, "shufflenet_v2_x1_0", [5, 10, 40], {})
    WithStudents.students = []
    seen = {10: {c: c for c in range(6)}, 20: {3: 0.1, 4: 0.05, 5: 0.01}}
    said = search._early(WithStudents, "resnet18", [10, 20, 40], seen)
    assert "says little of that at epoch 20, among the 3 pairs that went on (Spearman -1.00)" in said


@pytest.mark.parametrize(
    ("epochs", "every", "ends"),
    [
        (40, 5, [10, 20, 40]),
        (40, 1, [10, 20, 40]),
        (14, 7, [7, 14]),
        (3, 1, [1, 2, 3]),
        (1, 1, [1]),
        (20, 8, [8, 16, 20]),
    ],
)
def test_points_are_compared_where_they_are_evaluated(epochs, every, ends):
    assert search.stages(epochs, every) == ends


def test_a_budget_pays_for_what_it_says():
    assert search.epochs_of(24, [10, 20, 40]) == 24 * 10 + 12 * 10 + 6 * 20
    for budget, cells, seeds in ((0.3, 25, 1), (0.3, 25, 3), (1.0, 5, 2)):
        ends = [10, 20, 40]
        count = search.affordable(budget, cells, seeds, ends)
        takes = [
            search.epochs_of(n, ends) + ceil(ceil(n / 2) / 2) * (seeds - 1) * 40 + seeds * 40
            for n in (count, count + 1)
        ]
        assert takes[0] <= budget * cells * seeds * 40 < takes[1]
    assert search.affordable(0.05, 25, 1, [10, 20, 40]) == 0


def test_points_fill_the_ranges_of_the_grid():
    grid = Grid(T=[1, 4, 100], alpha=[0.1, 0.9, 1])
    pairs = search.draw(grid, 40)
    assert pairs == search.draw(grid, 60)[:40] and len(set(pairs)) == 40
    assert pairs[0] == (4.0, 0.5)
    T, alpha = zip(*pairs, strict=True)
    assert min(T) >= 1 and max(T) <= 100 and min(alpha) >= 0.1 and max(alpha) <= 0.9
    assert 14 <= sum(t < 10 for t in T) <= 26  # even by the logarithm
    for pair in search.draw(Grid(T=[0.12345, 7.6543], alpha=[0.33333]), 40):  # few digits, and none beyond the ends
        assert 0.12345 <= pair[0] <= 7.6543 and pair[1] == 0.33333


def test_further_points_are_near_the_good_ones():
    pytest.importorskip("optuna", reason="the extra search is not installed")
    grid = Grid(T=[1, 100], alpha=[0, 0.9])

    def score(pair, at):
        return -(log(pair[0] / at) ** 2)

    spread = search.draw(grid, 12)
    for at in (2, 50):
        scores = {pair: score(pair, at) for pair in spread}
        near = search.draw_near(grid, scores, 12)
        assert near == search.draw_near(grid, scores, 12) and len({*near, *spread}) == 24
        assert all(1 <= T <= 100 and 0 <= alpha <= 0.9 for T, alpha in near)
        assert median(score(pair, at) for pair in near) > median(scores.values())
    assert len(search.draw_near(grid, {}, 3)) == 3  # of runs that all failed


def test_a_point_without_a_score_is_out():
    seen = search.halve(list("abcd"), [1, 2], lambda some, end: {p: ord(p) * end for p in some if p != "d"})
    assert {end: list(of) for end, of in seen.items()} == {1: ["a", "b", "c"], 2: ["c", "b"]}


def test_what_cannot_be_searched_is_said(root):
    from kd_utils.running.pipeline import PipelineError

    for grid in ({"T": [4], "alpha": [0.5, 1]}, {"T": [1, 4], "alpha": [1]}):
        write_study(root, {**SMALL, "grid": grid})
        with pytest.raises(PipelineError, match="the grid spans no range of T or of alpha"):
            search.least_budget(load("small"), 1.0)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("train", [{"epochs": 1}, {"epochs": 40}, {"epochs": 14, "eval_every": 7}])
@pytest.mark.parametrize("grid", [{"T": [4, 5], "alpha": [0.5]}, {"T": [1, 4, 20], "alpha": [0.1, 0.5, 1]}])
def test_the_least_budget_pays_and_a_larger_one_is_kept(root, grid, train, seeds):
    write_study(root, {**SMALL, "grid": grid, "train": train, "seeds": list(range(seeds))})
    study = load("small")
    least = search.least_budget(study, 0.01)
    points = [search._plan(study, student, least)[0] for student in study.students]
    assert min(points) >= 2 and 0.01 < least <= 1 and search.least_budget(study, 1.0) == 1.0
    assert 0 in [search._plan(study, student, least - 0.01)[0] for student in study.students]


def test_the_extra_is_named_where_it_is_missing(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = CliRunner().invoke(app, ["search", "small"])
    assert str(done.exception) == "Optuna is not installed; run: uv pip install -e '.[search]'"
