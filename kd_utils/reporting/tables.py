"""Results -> the tables of the report. Accuracies are shown in percent, gains in percentage points. Loads no torch.

± is half the width of a 95 % interval. The tables' frames hold fractions, nats and seconds, unrounded.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from .. import paths
from ..records import Record, StudentRecord
from ..study import short
from . import claims, stats
from .results import LEAST_P, Point, Results, published
from .shown import (
    Table,
    duration,
    half,
    in_markdown,
    label,
    number,
    p_value,
    percent,
    points,
    references,
    signed,
    temperature,
    words,
)


def leaderboard(results: Results) -> Table:
    """The teacher candidates, best first."""
    rows = [
        {
            "rank": rank,
            "candidate": record.teacher,
            "weights_from": record.provenance.weights_from,
            "parameters": record.provenance.parameters,
            "input_size": _input_size(record, results.dataset["image_size"]),
            "top1_best": record.metrics.top1_best,
            "nll": record.metrics.nll,
            "epochs": record.metrics.epochs,
            "train_seconds": record.cost.train_seconds,
        }
        for rank, record in enumerate(results.teachers, 1)
    ]
    columns = {
        "": number(str, "rank"),
        "Candidate": words("candidate"),
        "Weights from": words("weights_from"),
        "Parameters, M": number(lambda count: f"{count / 1e6:.2f}", "parameters"),
        "Input, px": number(str, "input_size"),
        "Top-1, %": number(percent, "top1_best"),
        "NLL": number("{:.3f}".format, "nll"),
        "Epochs": number(str, "epochs"),
        "Training, s": number("{:.0f}".format, "train_seconds"),
    }
    ranked_on = "held-out training images" if results.dataset["counts"]["holdout"] else "the validation images"
    caption = f"The teacher candidates, ranked by their accuracy on {ranked_on}. The first is the teacher."
    return Table(pd.DataFrame(rows), caption, "teachers", columns)


def _input_size(record: Record, stored: int) -> str:
    """Pixels a side that a candidate sees; an ensemble and logits from elsewhere have no size of their own."""
    about = record.settings["model"]
    return str(about["input_size"] or stored) if "input_size" in about else "–"


def _accuracy(top1: float, low: float, high: float, tied: bool = False) -> str:
    """37.67 ± 1.24 =, in percent; = marks a tie with the best."""
    return percent(top1) + half(low, high) + (" =" if tied else "")


def _gain(gain: float, low: float, high: float, T: float) -> str:
    """+2.92 ± 1.39, in points; the baseline's gain over itself has no interval."""
    return points(gain) + ("" if pd.isna(T) else half(low, high))


# of rows of Results.cells
PLACE = {"T": number(temperature, "T"), "alpha": number(short, "alpha")}
MEASURED = {
    "Top-1, %": number(_accuracy, "top1_best", "low", "high", "tied"),
    "Gain": number(_gain, "gain", "gain_low", "gain_high", "T"),
    "p": number(p_value, "p_holm"),
    "Last, %": number(percent, "top1_last"),
    "NLL": number("{:.3f}".format, "nll"),
    "ECE": number("{:.3f}".format, "ece"),
    "Agree, %": number(lambda share: percent(share, 1), "agreement"),
    "n": number(str, "n"),
}
MORE = {
    "Top-5, %": number(lambda share: percent(share, 1), "top5"),
    "Held-out, %": number(lambda share: percent(share, 1), "top1_holdout"),
    "s": number("{:.0f}".format, "train_seconds"),
    "Images/s": number("{:.0f}".format, "images_per_second"),
}


def summary(results: Results, student: str) -> Table:
    """The three best and the three worst cells of a student, the standard cell and the baseline."""
    distilled = list(results.distilled_of(student).index)
    told = [("best", point) for point in distilled[:3]]
    told += [("worst", point) for point in distilled[3:][-3:]]
    roles = results.roles(student)
    told += [(role, roles[role].point) for role in ("standard", "baseline") if role in roles]
    frame = results.cells.loc[[point for _, point in told]].assign(role=[role for role, _ in told])
    caption = (
        f"{in_markdown(student)}: the best and the worst cells, the standard cell and the baseline. {_reading(results)}"
    )
    return Table(frame, caption, label("summary", student), {"Role": words("role"), **PLACE, **MEASURED})


def grid(results: Results, student: str) -> Table:
    """Every cell of a student, best first."""
    columns = {**PLACE, **MEASURED, **MORE}
    if not results.dataset["counts"]["holdout"]:
        del columns["Held-out, %"]
    caption = f"{in_markdown(student)}: every cell, best first; s: seconds of training, a run. {_reading(results)}"
    return Table(results.cells_of(student), caption, label("grid", student), columns)


def further(results: Results) -> Table | None:
    """The cells of further methods beside plain distillation at the same T and alpha; None where there are none."""
    told: list[Point] = []
    for student in results.labels:
        methods = list(results.further_of(student).index)
        beside = [Point(student, point.T, point.alpha) for point in methods]
        if methods:
            beside.append(Point.baseline(student))
        finished = [point for point in dict.fromkeys(beside) if point in results.cells.index]
        told += [*methods, *finished]
    if not told:
        return None
    names = ["baseline" if point.T is None else point.method for point in told]
    columns = {"Student": words("student"), "Method": words("name"), **PLACE, **MEASURED}
    caption = (
        "Further methods, plain distillation (kd) at the same points, and the baseline. `self` learns from the "
        "student's own baseline and `label_smoothing` from nobody: what they gain is not the teacher's doing."
    )
    return Table(results.cells.loc[told].assign(name=names), caption, "further", columns)


def _reading(results: Results) -> str:
    """How to read a table of cells."""
    counts = results.seed_counts()
    several = max(counts) > 1
    varies = "images and seeds" if several else "images (one seed: not what another seed would do)"
    test = "a paired bootstrap, or McNemar's exact test where n = 1" if several else "McNemar's exact test"
    uneven = min(counts) < max(counts)
    shared = ", and a cell is compared with another over the seeds that both have" if uneven else ""
    return (
        f"± is a 95 % interval over {varies}; p is against the baseline, of {test}, Holm-corrected; = marks cells that "
        f"cannot be told from the best (corrected p of at least {LEAST_P:g}); n is the number of seeds{shared}."
    )


def choice(results: Results) -> Table | None:
    """T and alpha chosen on held-out images, and what that costs on val; None where the study holds nothing out.

    price: top1_best of the chosen cell less that of the best one; price_low, price_high: its 95 % interval, NaN where
    they are one cell.
    """
    rows = []
    for student in results.labels:
        chosen, best = results.chosen(student), results.best(student)
        if chosen is None:
            continue
        low = high = float("nan")
        if chosen.point != best.point:
            low, high = stats.interval(results.bootstrap.difference(chosen.point, best.point))
        rows.append(
            {
                "student": student,
                "chosen": chosen.point,
                "top1_holdout": chosen["top1_holdout"],
                "top1_best": chosen["top1_best"],
                "low": chosen["low"],
                "high": chosen["high"],
                "best": best.point,
                "top1_best_of_best": best["top1_best"],
                "price": chosen["top1_best"] - best["top1_best"],
                "price_low": low,
                "price_high": high,
            }
        )
    if not rows:
        return None
    columns = {
        "Student": words("student"),
        "Chosen on held-out": words("chosen", lambda point: point.words),
        "Held-out, %": number(percent, "top1_holdout"),
        "Val, %": number(_accuracy, "top1_best", "low", "high"),
        "Best on val": words("best", lambda point: point.words),
        "Its val, %": number(percent, "top1_best_of_best"),
        "Price": number(lambda price, low, high: points(price) + half(low, high), "price", "price_low", "price_high"),
    }
    caption = (
        "The cell that would be chosen on held-out training images, which val has no part in, and its price: how far "
        "it stays behind the cell that happens to be best on val."
    )
    return Table(pd.DataFrame(rows), caption, "choice", columns)


def verdicts(results: Results) -> Table:
    """The published study's claims, put to our records and to its own rows; columns as claims.Verdict has them."""
    frame = pd.DataFrame([vars(verdict) for verdict in claims.verdicts(results)])
    columns = {
        "Claim": words("claim"),
        "Student": words("student"),
        "Figures": words("source"),
        "Statistic": words("statistic"),
        "Value [95 %]": number(_statistic, "value", "low", "high", "statistic"),
        "Basis": number("{} {}".format, "count", "counted"),
        "Verdict": words("answer"),
    }
    alone = (
        "" if max(results.seed_counts()) > 1 else " Here each cell has one seed, and intervals are over images alone."
    )
    caption = (
        "The claims, put to our records (here) and to the published rows. gamma: Goodman and Kruskal's, of all pairs "
        "of cells that differ in that one setting, how many more agree with the claim than not; gain: accuracy less "
        f"the baseline's, in points; gap: points between two runs of a cell.{alone} For the published rows, single "
        "runs without predictions, the interval is what other images alone would have done."
    )
    return Table(frame, caption, "claims", columns)


def _statistic(value: float, low: float, high: float, statistic: str) -> str:
    """+2.92 [+1.48, +4.27]; gains and gaps in points, '–' where there are no data."""
    if pd.isna(value):
        return "–"
    write = {"gamma": signed, "gain": points, "gap": percent}[statistic]
    return f"{write(value)} [{write(low)}, {write(high)}]"


def cost(results: Results) -> Table:
    """What the cells took, and what storing the soft targets saved; times in seconds."""
    study, images = results.study, results.dataset["counts"]["train"]
    teacher_rate = results.teacher.cost.inference_images_per_second  # None: its logits were computed elsewhere
    rows = []
    for student in results.labels:
        runs = [record for record in results.students if record.student == student]
        taught = [record for record in runs if study.taught_by(record.cell) == "teacher"]
        shown_images = sum(record.metrics.epochs for record in taught) * images  # a live teacher would classify them
        seconds = pd.Series([record.cost.train_seconds for record in runs])
        rates = pd.Series([record.cost.images_per_second for record in runs])
        rows.append(
            {
                "student": student,
                "runs": len(runs),
                "train_seconds": seconds.median(),
                "images_per_second": rates.median(),
                "all_seconds": seconds.sum(),
                "teacher_seconds": shown_images / teacher_rate if teacher_rate else float("nan"),
            }
        )
    columns = {
        "Student": words("student"),
        "Runs": number(str, "runs"),
        "Seconds a run": number("{:.0f}".format, "train_seconds"),
        "Images/s": number("{:,.0f}".format, "images_per_second"),
        "All runs": number(duration, "all_seconds"),
        "Teacher live": number(duration, "teacher_seconds"),
    }
    seeds = {record.cell.seed for record in results.students}
    views = study.view_count() * len(seeds)
    caption = "Cost: medians and sums of training alone, each run beside others on the machine."
    if teacher_rate:
        caption += (
            " Teacher live: what its forward passes would have taken in these runs, at its own measured pace; the "
            f"stored soft targets took {duration(views * images / teacher_rate)} for {views} views, once for all."
        )
    else:
        del columns["Teacher live"]
    return Table(pd.DataFrame(rows), caption, "cost", columns)


def beside_published(results: Results) -> Table:
    """The published rows beside ours, where our grid has the same student, T and alpha; accuracies as fractions."""
    printed, nan = published(), float("nan")
    by_point = list(zip(printed.index, printed.to_dict("records"), strict=True))
    baseline = {point.student: row["val_acc_pct"] / 100 for point, row in by_point if point.T is None}
    rows = []
    for point, row in by_point:
        there, ours = row["val_acc_pct"] / 100, results.row(point)
        rows.append(
            {
                "student": point.student,
                "role": row["role"],
                "T": row["T"],
                "alpha": row["alpha"],
                "there": there,
                "gain_there": there - baseline[point.student],
                "here": nan if ours is None else ours["top1_best"],
                "gain_here": nan if ours is None else ours["gain"],
            }
        )
    columns = {
        "Student": words("student"),
        "Role there": words("role"),
        **PLACE,
        "Published, %": number(percent, "there"),
        "Gain there": number(points, "gain_there"),
        "Here, %": number(percent, "here"),
        "Gain here": number(points, "gain_here"),
    }
    caption = (
        "The published figures (TinyImageNet-200, pretrained students) beside those of this study "
        f"({results.study.data.name}, {len(results.dataset['classes'])} classes). A dash: not in this grid."
    )
    return Table(pd.DataFrame(rows), caption, "published", columns)


def runs(results: Results) -> Table:
    """Every record that the report rests on, numbered."""
    rows = []
    for name, record in _numbered(results).items():
        made = record.provenance
        rows.append(
            {
                "No.": name,
                "Record": record.id,
                "Commit": made.git or "–",
                "Finished": made.finished[:16].replace("T", " "),
                "Device": f"{made.device}, {made.precision}",
            }
        )
    caption = "The records, by their folders' names. A + after a commit: files of the project differed from it."
    return Table(pd.DataFrame(rows), caption, "records")


def sources(results: Results) -> Mapping[str, Sequence[Record]]:
    """The records that each figure and table of the report is made from, by its label, in the order of the report."""
    grid = [record for record in results.students if record.method == "kd"]
    grid_of = {student: [record for record in grid if record.student == student] for student in results.labels}
    telling = [record for runs in _runs_of_roles(results, ["best", "standard", "baseline"]) for record in runs]
    first_runs = [runs[0] for runs in _runs_of_roles(results, ["best", "standard", "worst", "baseline"])]
    by_label: dict[str, Sequence[Record]] = {
        "tbl-teachers": results.teachers,
        "fig-accuracy": grid,
        "fig-gain": grid,
        "fig-temperature": grid,
    }
    by_label |= {label("tbl-summary", student): runs for student, runs in grid_of.items()}
    if choice(results) is not None:
        by_label["tbl-choice"] = grid
    by_label |= {"tbl-claims": grid, "tbl-published": grid}
    by_label["fig-softened"] = [results.teacher, results.records_of(results.example.point)[0]]
    by_label |= {"fig-mix": grid, "fig-learning": first_runs}
    by_label |= {"fig-agreement": grid, "fig-calibration": telling, "fig-classes": telling}
    if further(results) is not None:
        by_label["tbl-further"] = results.students
    by_label["tbl-cost"] = [results.teacher, *results.students]
    return by_label | {label("tbl-grid", student): runs for student, runs in grid_of.items()}


def _runs_of_roles(results: Results, names: list[str]) -> list[list[StudentRecord]]:
    """The runs of each student's cells in these roles, a list a cell."""
    roles = [results.roles(student) for student in results.labels]
    return [results.records_of(cells[name].point) for cells in roles for name in names if name in cells]


def provenance(results: Results) -> Table:
    """What each figure and table is made from: records, study file, data, versions."""
    names = {record.id: name for name, record in _numbered(results).items()}
    rows = [
        {"Shown": f"@{shown}", "Records": _ranges([names[record.id] for record in used])}
        for shown, used in sources(results).items()
    ]
    study = Path(results.study.file)
    digest = hashlib.sha256(study.read_bytes()).hexdigest()[:12]
    installed = [record.provenance.versions for record in results.students]
    versions = sorted({f"{package} {version}" for packages in installed for package, version in packages.items()})
    caption = (
        "What each figure and table is made from: records by their numbers in @tbl-records. Study file: "
        f"{in_markdown(paths.shown(study))}, SHA-256 {digest}. Data: fingerprint "
        f"{results.dataset['fingerprint'][:12]}. Versions: {in_markdown(', '.join(versions))}."
    )
    columns = {"Shown": references("Shown"), "Records": words("Records")}
    return Table(pd.DataFrame(rows), caption, "provenance", columns)


def _numbered(results: Results) -> Mapping[str, Record]:
    """T1, T2, ... the teachers, best first; R1, R2, ... the runs, sorted as results.csv is."""
    teachers: dict[str, Record] = {f"T{k}": record for k, record in enumerate(results.teachers, 1)}
    return teachers | {f"R{k}": record for k, record in enumerate(results.students, 1)}


def _ranges(names: list[str]) -> str:
    """R1, R2, R3, R7 as 'R1–R3, R7'."""
    runs: list[list[str]] = []
    for name in sorted(set(names), key=lambda name: (name[0] != "T", int(name[1:]))):
        if runs and name == _next(runs[-1][-1]):
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _next(name: str) -> str:
    """The name of the record after R7 is R8."""
    return f"{name[0]}{int(name[1:]) + 1}"
