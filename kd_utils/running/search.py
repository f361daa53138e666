"""The best T and alpha, and not the map: pairs are drawn, trained briefly, and the promising ones go on. No torch.

Half of the pairs are spread evenly, the others are drawn by Optuna's TPE sampler (Bergstra et al. 2011) near those of
them that do well early. Then successive halving (Jamieson and Talwalkar 2016, 'Non-stochastic best arm identification
and hyperparameter optimization'), judged on held-out images: all pairs are trained for a quarter of the epochs, the
better half of them for a half, the better half of these to the end, each from its checkpoint. Those are the finalists;
they get all seeds. Optuna's pruner for it decides as runs come in, by those before; here all runs of an end are
compared. Optuna is an extra: `uv pip install -e '.[search]'`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, TypeVar

from .. import files, paths
from ..cells import Cell
from ..schema import STANDARD, Grid, Model, Pair
from ..shelf import Shelf
from ..study import Study, load
from ..text import short
from . import events, pipeline
from .events import Listener
from .pipeline import HERE, PipelineError, Resources
from .pool import Task, warm_up

Compared = TypeVar("Compared")  # what successive halving chooses among

STAGES = 3  # of training: a quarter of the epochs, a half, the whole
TOLD = 0.5  # Spearman's rank correlation below which an early ranking says little
ENOUGH = 8  # runs for a rank correlation to be told
BUDGET = 0.3  # of the whole grid, where nobody says
FEW = 5  # pairs, below which the grid is the better buy


@dataclass(frozen=True)
class Winner:
    """The best pair of a student, by held-out images over all seeds.

    run: its run with the first seed, as `kd status` and `kd export` call it. seeds: how many. holdout, top1: its mean
    accuracies on held-out images and on val; baseline: of the runs without distillation, on val. All fractions.
    """

    student: str
    T: float
    alpha: float
    run: str
    seeds: int
    holdout: float
    top1: float
    baseline: float


@dataclass(frozen=True)
class SearchResult:
    """What a search came to. epochs: trained for it; whole: that the study's whole grid would take."""

    winners: list[Winner]
    epochs: int
    whole: int
    notes: list[str]


def stages(epochs: int, every: int) -> list[int]:
    """The epochs after which pairs are compared, the last one the end; every: epochs between two evaluations."""
    early = {math.ceil(epochs / 2**k / every) * every for k in range(1, STAGES)}
    return sorted({e for e in early if e < epochs} | {epochs})


def epochs_of(count: int, ends: Sequence[int]) -> int:
    """The epochs that so many pairs take, halved after each end but the last."""
    return sum(left * (end - before) for left, end, before in zip(_lefts(count, ends), ends, [0, *ends], strict=False))


def _lefts(count: int, ends: Sequence[int]) -> list[int]:
    """How many pairs are trained to each end."""
    lefts = [count]
    for _ in ends[1:]:
        lefts.append(math.ceil(lefts[-1] / 2))
    return lefts


def affordable(budget: float, cells: int, seeds: int, ends: Sequence[int]) -> int:
    """How many pairs a share of the whole grid pays for, their finalists' further seeds and the baselines included.

    cells: of the grid, for one seed, the baseline among them. 0 where it does not even pay for two pairs.
    """
    pays_for = (budget * cells - 1) * seeds * ends[-1]

    def takes(count: int) -> int:
        return epochs_of(count, ends) + _lefts(count, ends)[-1] * (seeds - 1) * ends[-1]

    return max((count for count in range(2, 2 * cells + 1) if takes(count) <= pays_for), default=0)


def draw(grid: Grid, count: int) -> list[Pair]:
    """So many pairs of the ranges that the grid spans, spread evenly (Halton): T by its logarithm, alpha as it is.

    The customary pair comes first, where the ranges have it. The same grid gives the same pairs; a larger count
    begins with those of a smaller one.
    """
    import numpy as np
    from scipy.stats import qmc

    (low, high), (least, most) = ranges(grid)
    at = qmc.Halton(2, scramble=True, rng=np.random.default_rng(0)).random(4 * count + 16)
    drawn = [_within(grid, low * (high / low) ** u, least + v * (most - least)) for u, v in at.tolist()]
    customary = [STANDARD] if _within(grid, *STANDARD) == STANDARD else []
    return list(dict.fromkeys([*customary, *drawn]))[:count]


def draw_near(grid: Grid, scores: Mapping[Pair, float], count: int) -> list[Pair]:
    """So many further pairs of the ranges, most of them near those with the best scores so far.

    The same scores give the same pairs.
    """
    optuna = _optuna()
    (low, high), (least, most) = ranges(grid)
    axes = {
        "T": optuna.distributions.FloatDistribution(low, high, log=True),
        "alpha": optuna.distributions.FloatDistribution(least, most),
    }
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)
    trials = optuna.create_study(direction="maximize", sampler=sampler)
    for (T, alpha), score in scores.items():
        params = {"T": T, "alpha": alpha}
        trials.add_trial(optuna.trial.create_trial(params=params, distributions=axes, value=score))
    drawn = [_within(grid, **trials.ask(axes).params) for _ in range(4 * count + 16)]
    return list(dict.fromkeys(pair for pair in drawn if pair not in scores))[:count]


def ranges(grid: Grid) -> tuple[tuple[float, float], tuple[float, float]]:
    """The least and the greatest T and alpha of a grid, the baseline left out. Raises PipelineError without a range."""
    alphas = [alpha for alpha in grid.alphas if alpha < 1]
    if not alphas or (len(alphas) == 1 and len(grid.temperatures) == 1):
        raise PipelineError("the grid spans no range of T or of alpha to search in; give `grid` at least two values")
    return (min(grid.temperatures), max(grid.temperatures)), (min(alphas), max(alphas))


def _within(grid: Grid, T: float, alpha: float) -> Pair:
    """A pair in few digits, within the ranges."""
    (low, high), (least, most) = ranges(grid)
    return min(max(float(f"{T:.3g}"), low), high), min(max(round(alpha, 3), least), most)


def _optuna() -> Any:
    """Raises PipelineError where the extra is not installed."""
    try:
        import optuna
    except ImportError:
        raise PipelineError("Optuna is not installed; run: uv pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def halve(
    candidates: Sequence[Compared],
    ends: Sequence[int],
    score: Callable[[list[Compared], int], Mapping[Compared, float]],
) -> dict[int, dict[Compared, float]]:
    """Successive halving: what each end has seen, end -> candidate -> its score there; the last has the finalists.

    score(candidates, end) trains these as far as that end. One that it has no score of is out.
    """
    left, seen = list(candidates), {}
    for k, end in enumerate(ends):
        seen[end] = dict(score(left, end))
        ranked = sorted(seen[end], key=lambda candidate: -seen[end][candidate])
        left = ranked[: math.ceil(len(left) / 2)] if k < len(ends) - 1 else ranked
    return seen


def search(
    study: str | Study, budget: float | None = None, *, where: Resources = HERE, on_event: Listener | None = None
) -> SearchResult:
    """Find the best T and alpha of each student for this share of the cost of the study's whole grid.

    budget: by default BUDGET. Where it does not pay for a search, the least that does is taken, which is said at once
    and in what it came to. The ranges are those that the grid spans. Runs are the study's own: records that are there
    are taken, and those of a search that was stopped go on. Raises PipelineError where the study holds no images out,
    or its grid spans no range, and ShelfError where it has no teacher.
    """
    _optuna()
    if budget is not None and not (isinstance(budget, int | float) and 0 < budget <= 1):
        raise PipelineError(f"the budget is a share of the whole grid, above 0 and up to 1, not {budget!r}")
    study = study if isinstance(study, Study) else load(study)
    tell = on_event or events.Printer()
    with pipeline.held(study):
        if where.engine == "local":
            warm_up()
        shelf = Shelf(study)
        shelf.check()
        _can_be_searched(shelf)
        asked, budget = budget or BUDGET, least_budget(study, budget or BUDGET)
        notes = []
        if budget > asked:
            notes.append(
                f"budget: {budget:g} of the grid, and not {asked:g}, which on so small a grid pays for no search"
            )
            tell(events.Advised(notes[0]))
        plans = {student.label: _plan(study, student, budget) for student in study.students}
        pipeline.advise(shelf, where, tell)
        for label, (count, _) in plans.items():
            if count < FEW:
                few = f"{label}: {count} pairs are few to find the best among"
                tell(events.Advised(f"{few}; run the grid, with kd grid {study.name}, or give a larger budget"))
        ok = pipeline.run_all("soft targets", _views(shelf, where.device), shelf, where, tell, of_grid=False)
        seen = {label: _halved(shelf, label, *plan, where, tell) for label, plan in plans.items()}
        notes += [advice for label, (_, ends) in plans.items() if (advice := _early(shelf, label, ends, seen[label]))]
        finalists = [cell for of_student in seen.values() for cell in of_student[max(of_student)]]
        baselines = [Cell(label, None, 1.0, seed) for label in plans for seed in study.seeds]
        again = [Cell(c.student, c.T, c.alpha, seed) for c in finalists for seed in study.seeds[1:]]
        ok = _run(shelf, [*baselines, *again], where, tell) and ok
        if not ok:
            notes.append("some runs failed, and are left out; the same command tries them again")
        result = SearchResult(
            [winner for label in plans if (winner := _winner(shelf, label, finalists))],
            sum(_trained(shelf, label, seen[label], finalists) for label in plans),
            _epochs_of_grid(study),
            notes,
        )
        _tidy(shelf, seen, finalists)
        told = {label: {end: {c.name: s for c, s in at.items()} for end, at in e.items()} for label, e in seen.items()}
        files.write_json(paths.results(study.name) / paths.SEARCH, {"budget": budget, "seen": told, **asdict(result)})
        pipeline.write_results(shelf)
    return result


def _can_be_searched(shelf: Shelf) -> None:
    """Raises PipelineError where the study holds no images out, ShelfError where it has no teacher."""
    if shelf.dataset and not shelf.dataset["counts"]["holdout"]:
        raise PipelineError(
            "a search judges on held-out images, and the study has none: set data.holdout_per_class in "
            f"{shelf.study.file}, which makes other data and other runs"
        )
    shelf.chosen_teacher()


def _views(shelf: Shelf, device: str) -> list[Task]:
    """The soft targets of all seeds that are missing."""
    study = shelf.study
    return [task for seed in study.seeds for task in pipeline.view_tasks(shelf, seed, study.view_count(), device)]


def _halved(
    shelf: Shelf, label: str, count: int, ends: list[int], where: Resources, tell: Listener
) -> dict[int, dict[Cell, float]]:
    """The halving of one student's cells, of the first seed: half spread evenly, the others drawn near the best.

    Returns end -> cell -> its accuracy there on held-out images.
    """
    counts = " -> ".join(f"{n} to {end}" for n, end in zip(_lefts(count, ends), ends, strict=True))
    tell(events.Said(f"{label}: {count} pairs of T and alpha; trained to epoch: {counts}"))
    grid, seed = shelf.study.grid, shelf.study.seeds[0]
    spread = [Cell(label, T, alpha, seed) for T, alpha in draw(grid, math.ceil(count / 2))]
    early = _score(shelf, spread, ends[0], where, tell)
    scores = {(cell.T, cell.alpha): score for cell, score in early.items() if cell.T is not None}
    near = [Cell(label, T, alpha, seed) for T, alpha in draw_near(grid, scores, count - len(spread))]
    return halve([*early, *near], ends, lambda some, end: _score(shelf, some, end, where, tell))


def _epochs_of_grid(study: Study) -> int:
    """The epochs that the whole grid takes, its baselines included."""
    of_grid = (study.student(cell.student) for cell in study.cells() if cell.method == "kd")
    return sum(study.training(student, teacher=False).epochs for student in of_grid)


def least_budget(study: Study, asked: float) -> float:
    """The budget asked for, or the least share in hundredths that pays for a search of every student if that is more.

    Raises PipelineError where the grid spans no range.
    """
    return max([asked, *(_least(study, student) for student in study.students)])


def _least(study: Study, student: Model) -> float:
    """The least share in hundredths that pays for a search of this student; the whole always does."""
    return next(share / 100 for share in range(1, 101) if _plan(study, student, share / 100)[0])


def _plan(study: Study, student: Model, budget: float) -> tuple[int, list[int]]:
    """How many pairs a student gets, and the epochs after which they are compared; 0 where it pays for none."""
    train = study.training(student, teacher=False)
    ends = stages(train.epochs, train.eval_every)
    ranges(study.grid)
    cells = {(cell.T, cell.alpha) for cell in study.cells() if cell.student == student.label and cell.method == "kd"}
    return affordable(budget, len(cells), len(study.seeds), ends), ends


def _score(shelf: Shelf, cells: list[Cell], end: int, where: Resources, tell: Listener) -> dict[Cell, float]:
    """The accuracies on held-out images after so many epochs of these cells, which are trained as far as that."""
    if end == shelf.study.training(shelf.study.student(cells[0].student), teacher=False).epochs:
        _run(shelf, cells, where, tell)
        records = {cell: shelf.record(cell) for cell in cells}
        return {cell: record.score for cell, record in records.items() if record}
    tasks = [
        Task(
            f"{cell.name} to epoch {end}",
            advance,
            {"study": shelf.study, "cell": cell, "until": end, "device": where.device},
            shelf.student_folder(cell),
            end,
            threads=shelf.study.threads_of(shelf.study.student(cell.student)),
        )
        for cell in cells
        if _at(shelf, cell, end) is None
    ]
    pipeline.run_all(f"{cells[0].student}, to epoch {end}", tasks, shelf, where, tell, of_grid=False)
    return {cell: score for cell in cells if (score := _at(shelf, cell, end)) is not None}


def advance(study: Study, cell: Cell, until: int, device: str) -> None:
    """Train a cell as far as that epoch, in a process of its own, and note its accuracies."""
    from ..learning.plans import plan_student
    from ..learning.run import Run

    plan = plan_student(Shelf(study), cell)
    history = Run(plan, device).advance(until)
    files.write_json(plan.folder / paths.SCORES, {"until": until, "history": history})


def _at(shelf: Shelf, cell: Cell, end: int) -> float | None:
    """A cell's accuracy on held-out images after so many epochs; None where it was not trained so far."""
    if record := shelf.record(cell):
        return held_out(record.history, end)
    noted = files.read_json(shelf.student_folder(cell) / paths.SCORES) or {}
    return held_out(noted["history"], end) if noted.get("until", 0) >= end else None


def held_out(history: Sequence[Mapping[str, float]], end: int) -> float | None:
    """The latest accuracy on held-out images in the epochs up to that; patience may have stopped before."""
    known = [row["holdout_top1"] for row in history if row["epoch"] <= end and row.get("holdout_top1") is not None]
    return known[-1] if known else None


def _run(shelf: Shelf, cells: list[Cell], where: Resources, tell: Listener) -> bool:
    """Run these cells to their ends, those that are not done."""
    tasks = [pipeline.cell_task(shelf, cell, where.device) for cell in cells if not shelf.done(cell)]
    return pipeline.run_all("runs", tasks, shelf, where, tell, of_grid=False)


def _winner(shelf: Shelf, label: str, finalists: list[Cell]) -> Winner | None:
    """The finalist with the highest mean accuracy on held-out images; None where a student has none with all seeds."""
    study = shelf.study
    baseline = [r for seed in study.seeds if (r := shelf.record(Cell(label, None, 1.0, seed)))]
    if not baseline:
        return None
    base, whole = mean(r.metrics.top1_best for r in baseline), []
    for cell in finalists:
        runs = [r for seed in study.seeds if (r := shelf.record(Cell(label, cell.T, cell.alpha, seed)))]
        if cell.student == label and len(runs) == len(study.seeds) and cell.T is not None:
            held, top1 = (mean(getattr(r.metrics, m) or 0.0 for r in runs) for m in ("top1_holdout", "top1_best"))
            whole.append(Winner(label, cell.T, cell.alpha, cell.name, len(runs), held, top1, base))
    return max(whole, key=lambda winner: winner.holdout, default=None)


def _trained(shelf: Shelf, label: str, seen: Mapping[int, Mapping[Cell, float]], finalists: list[Cell]) -> int:
    """The epochs that a student's search comes to: its pairs as far as they went, further seeds, baselines."""
    reached: dict[Cell, int] = {cell: end for end in sorted(seen) for cell in seen[end]}
    seeds, whole = len(shelf.study.seeds), max(seen)
    of_student = sum(cell.student == label for cell in finalists)
    return sum(reached.values()) + (of_student * (seeds - 1) + seeds) * whole


def _early(shelf: Shelf, label: str, ends: Sequence[int], seen: Mapping[int, Mapping[Cell, float]]) -> str:
    """A sentence where the ranking at the first end says little of the last one; '' where it says something.

    By all runs of the student that are done, if they are enough; else by the pairs that went on to the second end.
    """
    from scipy.stats import spearmanr

    if len(ends) < 2:
        return ""
    first, second = ends[:2]
    done = [record for record in shelf.students if record.student == label and record.T is not None]
    both = [(at, record.score) for record in done if (at := held_out(record.history, first)) is not None]
    what = f"the end, among {len(both)} runs"
    if len(both) < ENOUGH:
        both = [(seen[first][cell], score) for cell, score in seen[second].items()]
        what = f"epoch {second}, among the {len(both)} pairs that went on"
    if len(both) < 3:
        return ""
    result: Any = spearmanr([before for before, _ in both], [after for _, after in both])
    if result.statistic >= TOLD:
        return ""
    return (
        f"{label}: the ranking at epoch {first} says little of that at {what} (Spearman {result.statistic:.2f}); the "
        "search may have dropped the best: a larger budget, or the grid, tells more"
    )


def _tidy(shelf: Shelf, seen: Mapping[str, Mapping[int, Mapping[Cell, float]]], finalists: list[Cell]) -> None:
    """Remove the checkpoints of the pairs that did not reach the end; their accuracies stay, for another search."""
    for of_student in seen.values():
        for cell in {cell for at in of_student.values() for cell in at} - set(finalists):
            for name in (paths.CHECKPOINT, paths.PROGRESS):
                files.remove(shelf.student_folder(cell) / name)


def lines(result: SearchResult) -> list[str]:
    """What a search came to, as the terminal shows it."""
    told = []
    for w in result.winners:
        seeds, gain = f"{w.seeds} seed{'s' * (w.seeds > 1)}", 100 * (w.top1 - w.baseline)
        told.append(
            f"{w.student}: T = {short(w.T)}, alpha = {short(w.alpha)} ({w.run}; {seeds}): {w.holdout:.2%} on held-out "
            f"images, by which it was chosen; {w.top1:.2%} on val, {gain:+.2f} points to the baseline"
        )
    share = result.epochs / result.whole
    told.append(f"cost of choosing: {result.epochs:,} epochs, {share:.0%} of the {result.whole:,} of the whole grid")
    return told + [f"note: {note}" for note in result.notes]
