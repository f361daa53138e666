"""What others claim, a row each: put to our records, and to the published study's own rows, by the same model.

A new one is its row in CLAIMS; the report and its references follow. Loads no torch.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from ..methods import FURTHER
from ..schema import PLATEAU, STANDARD
from . import stats
from .results import Point, Results, published

PUBLISHED_VAL_IMAGES = 10_000  # 50 of each of 200 classes
PUBLISHED_TEACHER = 0.6863  # its teacher's accuracy, top-1
LOW_T, HIGH_ALPHA = 2.0, 0.5  # what claim 2 means by low T and high alpha: T at most, alpha at least
SOURCE = "Cichor, 2025"
PUBLISHED = (  # its setting, as its report has it
    "The published study is that of Cichor (2025). It distilled a ConvNeXt with ImageNet weights into ResNet-18 and "
    "ShuffleNetV2 x1.0, both pretrained on ImageNet as well, on TinyImageNet with all its 200 classes: 500 training "
    "images and 50 validation images a class, Adam with a learning rate of 0.001, batches of 128, 10 to 20 epochs. Its "
    "grid is of $T$ = 1, 2, 4, 10, 20 and 100 and $\\alpha$ = 0, 0.1, 0.5, 0.9 and 1. It ran each cell once, chose on "
    "the images that it reports on, and prints of each student the three best cells, the three worst, the customary "
    "one and the baseline"
)

Answer = Literal["supported", "contradicted", "same", "undecided", "no data"]
Origin = Literal["here", "published"]
Weights = dict[Point, float]


@dataclass(frozen=True)
class Cells:
    """The cells that one source has of one student: each point, and the name of its row in methods.py."""

    student: str
    taught: Mapping[Point, str]

    def of(self, method: str) -> list[Point]:
        """The cells of a way to teach; kd is the grid's, without the baseline."""
        return [point for point, name in self.taught.items() if name == method]

    def over_baseline(self, points: Sequence[Point]) -> list[Weights]:
        """The gain of each of these cells, without a baseline of none."""
        baseline = Point.baseline(self.student)
        return [{point: 1.0, baseline: -1.0} for point in points if baseline in self.taught]

    def over_kd(self, method: str) -> list[Weights]:
        """Plain distillation less that method, at each T and alpha that have both."""
        beside = [(Point(self.student, point.T, point.alpha), point) for point in self.of(method)]
        return [{plain: 1.0, other: -1.0} for plain, other in beside if plain in self.taught]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed, by whom, and what decides it.

    expects: how the contrasts should come out: above 0 (more), below it (less), or within the study's margin (same).
    contrasts: of the cells of one source and student, the sums of accuracies that decide it; where they have the same
    sign their mean decides, else each for itself. A `gap` and an `agreement` are decided by other statistics.
    needs: the ways to teach that it asks for beside plain distillation, by their names in methods.py.
    brief: the claim within a sentence, of those of the published study.
    """

    name: str
    says: str
    by: str
    expects: Literal["more", "less", "same"]
    contrasts: Callable[[Cells], list[Weights]]
    statistic: Literal["difference", "trend", "gap", "agreement"] = "difference"
    needs: tuple[str, ...] = ()
    reference: str = ""
    brief: str = ""


@dataclass(frozen=True)
class ClaimRow:
    """One row of the table of claims: what our records, or the published rows, say of a claim about one student.

    origin: 'here', our records, or 'published', the printed rows. student: its label here, or its model there. where:
    the cell that it is about, '' for all. value, low, high: the statistic and its 95 % interval: accuracies and their
    differences as fractions, a rank correlation; NaN without data. basis: what it rests on, in words.
    """

    claim: str
    student: str
    origin: Origin
    where: str
    statistic: str
    value: float
    low: float
    high: float
    basis: str
    answer: Answer


class _Effects(Protocol):
    """What gives effects: stats.Additive of our records, stats.Printed of published rows."""

    def effect(self, weights: Mapping[Point, float]) -> stats.Effect: ...


def _within(
    points: Sequence[Point], x: Callable[[Point], float], stratum: Callable[[Point], float | None]
) -> list[Weights]:
    """The difference that x makes over its range, by a line with one slope in all strata; none where x never varies.

    Where x has two values it is the mean difference between cells that differ in x alone.
    """
    values = np.array([x(point) for point in points], float)
    strata = pd.Series([stratum(point) for point in points], dtype=float)
    centred = values - pd.Series(values).groupby(strata).transform("mean").to_numpy()
    varying = np.abs(centred) > 1e-12
    if not varying.any():
        return []
    slope = centred / np.sum(centred**2) * np.ptp(values[pd.Series(varying).groupby(strata).transform("any")])
    return [{point: float(w) for point, w in zip(points, slope, strict=True) if w}]


def _temperature(point: Point) -> float:
    return point.T or float("nan")


def _plateau(cells: Cells) -> list[Point]:
    return [p for p in cells.of("kd") if _temperature(p) >= PLATEAU[0] and p.alpha <= PLATEAU[1]]


def _softened(cells: Cells) -> list[Weights]:
    points = _plateau(cells) + [p for p in cells.of("kd") if p.T == 1 and p.alpha <= PLATEAU[1]]
    return _within(points, lambda p: _temperature(p) > 1, lambda p: p.alpha)


def _less_hard(cells: Cells) -> list[Weights]:
    points = [p for p in cells.of("kd") if _temperature(p) >= PLATEAU[0]]
    return _within(points, lambda p: p.alpha <= PLATEAU[1], lambda p: p.T)


def _hottest(cells: Cells) -> list[Weights]:
    temperatures = sorted({_temperature(p) for p in cells.of("kd") if _temperature(p) >= 20})
    points = [p for p in cells.of("kd") if p.T in temperatures[:1] + temperatures[-1:]]
    return _within(points, lambda p: temperatures[-1] == p.T, lambda p: p.alpha)


def _mse(cells: Cells) -> list[Weights]:
    top = max((_temperature(p) for p in cells.of("kd")), default=0.0)
    pairs = [(p, Point(cells.student, top, p.alpha)) for p in cells.of("mse")]
    return [{mse: 1.0, plain: -1.0} for mse, plain in pairs if top >= 20 and plain in cells.taught]


_CICHOR = "Cichor, K. A. (2025). Report 2: Knowledge Distillation Progress. 28 April 2025."
STANTON = "Stanton, S. et al. (2021). Does knowledge distillation really work? NeurIPS. arXiv:2106.05945."
_HIGH, _LOW = f"T ≥ {PLATEAU[0]:g}", f"α ≤ {PLATEAU[1]:g}"
_ROWS = (
    Claim(
        name="1a",
        brief="softening helps",
        says=f"Softening helps: at the same {_LOW}, {_HIGH} does better than T = 1.",
        by=SOURCE,
        expects="more",
        contrasts=_softened,
        reference=_CICHOR,
    ),
    Claim(
        name="1b",
        brief="hotter is better",
        says=f"At the same {_LOW}, the higher the temperature the better, from T = {PLATEAU[0]:g} on too.",
        by=SOURCE,
        expects="more",
        statistic="trend",
        contrasts=lambda cells: _within(_plateau(cells), lambda p: float(np.log(_temperature(p))), lambda p: p.alpha),
    ),
    Claim(
        name="1c",
        brief="much weight on the labels costs",
        says=f"Much weight on the labels costs: at the same {_HIGH}, {_LOW} does better than a higher α.",
        by=SOURCE,
        expects="more",
        contrasts=_less_hard,
    ),
    Claim(
        name="1d",
        brief="less weight on the labels is better",
        says=f"At the same {_HIGH}, the lower α the better, below α = {PLATEAU[1]:g} too.",
        by=SOURCE,
        expects="more",
        statistic="trend",
        contrasts=lambda cells: _within(_plateau(cells), lambda p: -p.alpha, lambda p: p.T),
    ),
    Claim(
        name="2",
        brief="a low temperature with a high weight harms",
        says=f"A low temperature with a high α (T ≤ {LOW_T:g}, α ≥ {HIGH_ALPHA:g}) harms.",
        by=SOURCE,
        expects="less",
        contrasts=lambda cells: cells.over_baseline(
            [p for p in cells.of("kd") if _temperature(p) <= LOW_T and p.alpha >= HIGH_ALPHA]
        ),
    ),
    Claim(
        name="3",
        brief="the customary cell helps",
        says=f"The customary cell (T = {STANDARD[0]:g}, α = {STANDARD[1]:g}) improves on the baseline.",
        by=SOURCE,
        expects="more",
        contrasts=lambda cells: cells.over_baseline([p for p in cells.of("kd") if (p.T, p.alpha) == STANDARD]),
    ),
    Claim(
        name="4",
        brief="chance is as large as its misprint",
        says="Two runs of one cell may lie as far apart by chance as the cell that is printed twice.",
        by=f"{SOURCE}, by its table",
        expects="more",
        statistic="gap",
        contrasts=lambda cells: [],
    ),
    Claim(
        name="5",
        says="At high temperatures the loss becomes a matching of logits, so the highest does as well as T = 20.",
        by="Kim et al., 2021",
        expects="same",
        contrasts=_hottest,
        reference=FURTHER["mse"].reference,
    ),
    Claim(
        name="6",
        says="And so does the squared difference of the logits, logit matching.",
        by="Kim et al., 2021",
        expects="same",
        contrasts=_mse,
        needs=("mse",),
    ),
    Claim(
        name="7",
        says="The more a cell agrees with the teacher, the more it gains.",
        by="put in doubt by Stanton et al., 2021",
        expects="more",
        statistic="agreement",
        contrasts=lambda cells: [],
        reference=STANTON,
    ),
    Claim(
        name="8",
        says="A student learns from its own baseline, too.",
        by="Yuan et al., 2020",
        expects="more",
        contrasts=lambda cells: cells.over_baseline(cells.of("self")),
        needs=("self",),
        reference=FURTHER["early_teacher"].reference,
    ),
    Claim(
        name="9",
        says="A poor teacher still helps: one after an epoch of training.",
        by="Yuan et al., 2020",
        expects="more",
        contrasts=lambda cells: cells.over_baseline(cells.of("early_teacher")),
        needs=("early_teacher",),
    ),
    Claim(
        name="10",
        says="Even a teacher that knows nothing helps: one of random weights.",
        by="Yuan et al., 2020",
        expects="more",
        contrasts=lambda cells: cells.over_baseline(cells.of("random_teacher")),
        needs=("random_teacher",),
    ),
    Claim(
        name="11",
        says="The likeness of classes is what helps: with the other classes' logits permuted a student does worse.",
        by="Tang et al., 2020",
        expects="more",
        contrasts=lambda cells: cells.over_kd("permuted"),
        needs=("permuted",),
        reference="Tang, J. et al. (2020). Understanding and improving knowledge distillation. arXiv:2002.03532.",
    ),
    Claim(
        name="12",
        says="A better teacher is the better one to learn from: the teacher beats itself after one epoch.",
        by="put in doubt by Cho and Hariharan, 2019",
        expects="more",
        contrasts=lambda cells: cells.over_kd("early_teacher"),
        needs=("early_teacher",),
        reference="Cho, J. H. and Hariharan, B. (2019). On the efficacy of knowledge distillation. ICCV. "
        "arXiv:1910.01348.",
    ),
)
CLAIMS = {claim.name: claim for claim in _ROWS}


def rows(results: Results) -> list[ClaimRow]:
    """Every claim that has data, for each student of ours and each published one: claim by claim, ours first.

    Differences of one student and source are corrected together.
    """
    every: list[ClaimRow] = []
    runs = Counter(Point.of(record.cell) for record in results.students)
    for student in results.labels:
        cells = _cells_here(results, student)
        every += _decided(cells, results.models[student], results.margin, "here", runs, "runs")
        every += _gap_here(results, student) + _agreement_here(results, student)
    for student, rows in published().groupby("student", sort=False):
        printed = _printed(rows, results.models.get(results.student_of(str(student)) or ""))
        cells = Cells(str(student), {point: "kd" if point.T else "baseline" for point in printed.accuracies})
        runs = Counter(list(rows.index))
        every += _decided(cells, printed, results.margin, "published", runs, "printed runs")
        every += _gap_printed(cells.student, printed)
    order = list(CLAIMS)
    return sorted(every, key=lambda row: (order.index(row.claim), row.origin != "here"))


def unanswered(results: Results) -> list[Claim]:
    """The claims on which neither our records nor the published rows have data."""
    answered = {row.claim for row in rows(results)}
    return [claim for name, claim in CLAIMS.items() if name not in answered]


def printed_gap() -> float:
    """How far apart the published study prints the same cell of the same student, at most (a fraction)."""
    return max(_printed_range(_printed(rows, None)) for _, rows in published().groupby("student"))


def published_teacher_gaps() -> list[tuple[str, float]]:
    """How far the published study's teacher is above its students' baselines: the student, and points."""
    rows = published()
    baselines = rows.loc[rows["T"].isna()]
    accuracies = zip(baselines["student"], baselines["val_acc_pct"], strict=True)
    return [(student, 100 * PUBLISHED_TEACHER - accuracy) for student, accuracy in accuracies]


def _cells_here(results: Results, student: str) -> Cells:
    study = results.study
    points = results.models[student].cells
    names = {
        p: "baseline" if p.T is None else "kd" if p.method == "kd" else study.method(p.method).method for p in points
    }
    return Cells(student, names)


def _printed(rows: pd.DataFrame, like: stats.Additive | None) -> stats.Printed:
    """The printed rows of a student: single runs, taken to vary from seed to seed as ours of that student do."""
    accuracies: dict[Point, list[float]] = {}
    for point, percent in zip(rows.index, rows["val_acc_pct"], strict=True):
        accuracies.setdefault(point, []).append(percent / 100)
    return stats.Printed(accuracies, PUBLISHED_VAL_IMAGES, like)


def _decided(
    cells: Cells, model: _Effects, margin: float, origin: Origin, runs: Mapping[Point, int], counted: str
) -> list[ClaimRow]:
    """The verdicts on all claims that contrasts decide. runs: how many each cell has; counted: how they are called."""
    asked: list[tuple[Claim, str, Weights]] = []
    for claim in CLAIMS.values():
        contrasts = claim.contrasts(cells)
        if len({np.sign(model.effect(weights).value) for weights in contrasts}) > 1:
            asked += [(claim, next(iter(weights)).words, weights) for weights in contrasts]
        elif contrasts:
            asked.append((claim, "", _mean(contrasts)))
    effects = [model.effect(weights) for *_, weights in asked]
    told = []
    for (claim, where, weights), effect, verdict in zip(asked, effects, stats.verdicts(effects, margin), strict=True):
        numbers = (effect.value, *effect.interval())
        answer = _answer(claim, verdict, effect.p_same(margin))
        about = (claim.name, cells.student, origin, where, claim.statistic)
        told.append(ClaimRow(*about, *numbers, f"{sum(runs[point] for point in weights)} {counted}", answer))
    return told


def _mean(contrasts: Sequence[Weights]) -> Weights:
    mean: Weights = {}
    for weights in contrasts:
        for point, weight in weights.items():
            mean[point] = mean.get(point, 0.0) + weight / len(contrasts)
    return mean


def _answer(claim: Claim, verdict: stats.Verdict, p_same: float) -> Answer:
    """What a verdict on a contrast means for the claim about it."""
    if claim.expects == "same":
        if verdict == "undecided":
            return "undecided"
        return "supported" if verdict == "same" or p_same < stats.LEVEL else "contradicted"
    if verdict in ("same", "undecided"):
        return verdict
    return "supported" if (verdict == "better") == (claim.expects == "more") else "contradicted"


def _gap_here(results: Results, student: str) -> list[ClaimRow]:
    """Below what gap 95 % of pairs of runs stay that differ by their seed alone: 1.96 sqrt(2) times their spread."""
    gap, low, high = (float(1.96 * np.sqrt(2) * sd) for sd in results.models[student].spread())
    if np.isnan(gap):
        return []
    several = [count for count in Counter(cell for cell, _ in results.models[student].runs).values() if count > 1]
    wanted = printed_gap()
    answer: Answer = "supported" if low >= wanted else "contradicted" if high < wanted else "undecided"
    return [
        ClaimRow("4", student, "here", "", "gap", gap, low, high, f"{len(several)} cells, {sum(several)} runs", answer)
    ]


def _gap_printed(student: str, printed: stats.Printed) -> list[ClaimRow]:
    """The cell that is printed twice."""
    gap, nan = _printed_range(printed), float("nan")
    if not gap:
        return []
    return [ClaimRow("4", student, "published", "", "gap", gap, nan, nan, "1 cell, printed twice", "undecided")]


def _printed_range(printed: stats.Printed) -> float:
    """Greatest less least accuracy of a printed cell of a student: that of the cell where it is greatest."""
    return max(max(runs) - min(runs) for runs in printed.accuracies.values())


def _agreement_here(results: Results, student: str) -> list[ClaimRow]:
    """Spearman's rank correlation of agreement and gain over the cells of the grid, on all images and where it errs.

    Two models that are both often right agree, whatever they learned from each other; where the teacher errs, a student
    that is right disagrees with it. So both are told.
    """
    cells = results.distilled_of(student)
    told = []
    for where, agreement in (("all images", cells["agreement"]), ("teacher errs", _copied(results, cells))):
        rho, *interval = stats.rank_correlation(agreement, cells["top1"])
        if not np.isnan(rho):
            low, high = interval
            answer: Answer = "supported" if low > 0 else "contradicted" if high < 0 else "undecided"
            told.append(
                ClaimRow("7", student, "here", where, "agreement", rho, low, high, f"{len(cells)} cells", answer)
            )
    return told


def _copied(results: Results, cells: pd.DataFrame) -> list[float]:
    """The share of the teacher's errors that each cell makes as well: the same wrong class. Means over its seeds."""
    teacher = results.teacher.predictions
    wrong = teacher["predicted"] != teacher["label"]
    shares = []
    for point in cells.index:
        runs = (record.predictions["predicted"] for record in results.records_of(point))
        shares.append(float(np.mean([np.mean((predicted == teacher["predicted"])[wrong]) for predicted in runs])))
    return shares
