"""Results -> the sentences of the report. No number in them is typed: each is computed from records.

Loads no torch.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from .. import methods, paths, records
from ..schema import PLATEAU, STANDARD, Model
from ..sources import SOURCES
from ..study import Study
from ..text import duration, short
from . import claims, names, tables
from .results import CellRow, ContrastRow, Point, Results
from .shown import (
    Front,
    Text,
    fixed,
    half,
    in_markdown,
    label,
    percent,
    points,
    seeds_a_cell,
    signed,
    symbols,
    width,
)
from .stats import LEVEL

REFERENCES = [  # beside those of claims.py, methods.py and sources.py
    "Guo, C. et al. (2017). On calibration of modern neural networks. ICML. arXiv:1706.04599.",
    "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian J. of Statistics 6, 65–70.",
    "Hsu, J. C. (1984). Constrained simultaneous confidence intervals for multiple comparisons with the best. Annals "
    "of Statistics 12, 1136–1144.",
    "Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance components. Biometrics Bulletin "
    "2, 110–114.",
    claims.STANTON,
    "Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power approach for assessing "
    "the equivalence of average bioavailability. J. of Pharmacokinetics and Biopharmaceutics 15, 657–680.",
]


def front(results: Results) -> Front:
    """Title, subtitle and abstract: the question, what was done, and the answer in words."""
    study, counts = results.study, results.dataset["counts"]
    grid = f"{_counted_as(study.grid.temperatures, 'temperature')} and {_counted_as(study.grid.alphas, 'weight')}"
    best = f", the best of {len(results.teachers)} candidates" if len(results.teachers) > 1 else ""
    lines = [
        "How do the temperature $T$, which softens a teacher's answers, and the weight $\\alpha$ of the true labels "
        f"act on what a small student learns? We distil {in_markdown(results.teacher_name)} "
        f"({percent(results.teacher.metrics.top1_best, 1)} % top-1{best}) "
        f"into {_names(results, results.labels)} at {grid}, on {in_markdown(names.of_data(study))} with "
        f"{len(results.dataset['classes'])} classes, {counts['train']:,} training and {counts['val']:,} validation "
        "images."
    ]
    answers = _answers(results)
    lines += answers if study.contrasts else answers[:1]
    lines += [_effects(results), _choosing(results), _claims_together(results)]
    planned, done = len(study.cells()), len(results.students)
    if done < planned:
        lines.append(f"The study is unfinished: {done} of {planned} runs are done.")
    if results.damaged:
        lines.append(f"Left out as damaged: {results.damaged} {'records' if results.damaged > 1 else 'record'}.")
    return Front(in_markdown(study.title), f"Study {in_markdown(study.name)}", " ".join(line for line in lines if line))


def _counted_as(values: Sequence[object], what: str) -> str:
    """'6 temperatures', 'one temperature'."""
    return f"{len(values)} {what}s" if len(values) > 1 else f"one {what}"


def _name(results: Results, student: str) -> str:
    """The name of a student, as Markdown."""
    return in_markdown(results.called(student))


def _names(results: Results, students: Sequence[str]) -> str:
    """The names of students, as Markdown: 'a, b and c'."""
    return _join([_name(results, student) for student in students])


def _points(value: float) -> str:
    """A difference without its sign: '2.79 points'."""
    return f"{fixed(100 * abs(value))} points"


def _interval(low: float, high: float) -> str:
    """'1.83 to 4.01', in points; signed where it holds 0."""
    ends = (
        (points(low), points(high)) if low < 0 < high else (fixed(100 * abs(x)) for x in sorted((low, high), key=abs))
    )
    return " to ".join(ends)


def _answers(results: Results) -> list[str]:
    """A sentence a contrast: what the study asked beforehand, and for which students it holds."""
    rows = [row for student in results.labels for row in results.contrasts(student)]
    told = []
    for name in dict.fromkeys(row.name for row in rows):
        of_name = [row for row in rows if row.name == name]
        over_baseline = of_name[0].against == [Point.baseline(of_name[0].student)]
        told.append(_over_baseline(results, of_name) if over_baseline else _over_others(results, of_name))
    return told


def _over_baseline(results: Results, rows: list[ContrastRow]) -> str:
    """A contrast with the baseline: 'Distillation with ... raises the accuracy of ... by ...'."""
    name = rows[0].name
    subject = _upper(_asked(name)) if results.study.contrasts else f"Distillation with {symbols(name)}"
    clauses = []
    for verdict, says in (("better", "raises the accuracy of"), ("worse", "lowers the accuracy of")):
        of = []
        for row in (row for row in rows if row.verdict == verdict):
            interval = f"{'' if of else '95 % interval '}{_interval(*row.effect.interval())}"
            of.append(f"{_name(results, row.student)} by {_points(row.effect.value)} ({interval})")
        clauses += [f"{says} {_join(of)}"] if of else []
    margin = width(results.study.margin)
    for verdict, says in (("same", f"is within {margin} of the baseline for"), ("undecided", "is undecided for")):
        of = [f"{_name(results, r.student)} ({points(r.effect.value)} points)" for r in rows if r.verdict == verdict]
        clauses += [f"{says} {_join(of)}"] if of else []
    alike = ""
    if all(len(row.cells) > 1 and row.alike >= LEVEL for row in rows):
        alike = "; between the cells of this range no difference was detected"
    unknown = "" if results.varied else ", as with one run a cell nothing is known of other seeds"
    return f"{subject} {_join(clauses)}{alike}{unknown}."


def _over_others(results: Results, rows: list[ContrastRow]) -> str:
    """A contrast with other cells: its name, those cells where they are few, and the difference for each student."""
    words = {
        "better": "more accurate for",
        "worse": "less accurate for",
        "same": f"no difference of {width(results.study.margin)} for",
        "undecided": "no clear difference for",
    }
    told = [
        f"{words[row.verdict]} {_name(results, row.student)} ({points(row.effect.value)} points, "
        f"{' to '.join(map(points, row.effect.interval()))})"
        for row in rows
    ]
    cells = [point.math for point in rows[0].against]
    others = f", compared with {_join(cells)}" if len(cells) <= 2 else ""
    return f"{_upper(_asked(rows[0].name))}{others}: {'; '.join(told)}."


def _asked(name: str) -> str:
    """What a study calls a contrast, as Markdown in which T and alpha are those of the equations."""
    return re.sub(r"\bT\b", "$T$", re.sub(r"\balpha\b", r"$\\alpha$", in_markdown(name)))


# what the answers to the first four claims come to: T and alpha, as a threshold each and beyond it
_QUESTIONS = {
    "1a": ("softening ($T$ ≥ {T} instead of $T$ = 1)", "helps", "harms"),
    "1c": ("much weight on the labels ($\\alpha$ above {alpha})", "harms", "helps"),
    "1b": ("raising $T$ above {T}", "helps", "harms"),
    "1d": ("lowering $\\alpha$ below {alpha}", "helps", "harms"),
}


def _effect(results: Results, claim: str, *, numbers: bool) -> str:
    """What one of the claims 1a to 1d comes to in our records: '... helps A and has no clear effect on B.'"""
    asked, supported, contradicted = _QUESTIONS[claim]
    ours = [v for v in claims.rows(results) if (v.claim, v.origin) == (claim, "here")]
    sign = -1 if claim == "1c" else 1  # of the weight on the labels, where the claim is about having little of it
    clauses = []
    for answer, says in (
        ("supported", supported),
        ("contradicted", contradicted),
        ("same", f"makes no difference of {width(results.study.margin)} for"),
        ("undecided", "has no clear effect on"),
    ):
        of = []
        for v in (v for v in ours if v.answer == answer):
            ends = sorted((sign * v.low, sign * v.high))
            size = f" ({points(sign * v.value)} points, {' to '.join(map(points, ends))})" if numbers else ""
            of.append(_name(results, v.student) + size)
        whom = _join(of)
        if not numbers and len(of) == len(results.labels) > 1:
            one, every = ("either student", "both students") if len(of) == 2 else ("any student", "all students")
            whom = every if answer in ("supported", "contradicted") else one
        clauses += [f"{says} {whom}"] if of else []
    asked = asked.format(T=short(PLATEAU[0]), alpha=short(PLATEAU[1]))
    return f"{_upper(asked)} {_join(clauses)}." if clauses else ""


def _effects(results: Results) -> str:
    """What temperature and weight do, in words alone."""
    return " ".join(filter(None, (_effect(results, claim, numbers=False) for claim in _QUESTIONS)))


def _choosing(results: Results) -> str:
    """What a winner is worth on a new seed, in a sentence; '' where that is not known."""
    chosen = [(student, told) for student in results.labels if (told := results.leave_a_seed_out(student))]
    if not chosen:
        return ""
    falls = [
        f"{_points(told.after - told.before)} ({_name(results, s)})" for s, told in chosen if told.after < told.before
    ]
    if not falls:
        return ""
    return f"The best cell is partly luck: on a new seed its gain falls by {_join(falls)}."


def setting(results: Results) -> Text:
    """What was done, in words."""
    study, dataset = results.study, results.dataset
    counts = dataset["counts"]
    held_out = f", {counts['holdout']:,} held out of the training images" if counts["holdout"] else ""
    chosen_on = "held-out training images" if counts["holdout"] else "the validation images themselves"
    made = {(record.provenance.device, record.provenance.device_name) for record in results.students}
    devices = sorted(f"CPUs ({in_markdown(name)})" if device == "cpu" else in_markdown(name) for device, name in made)
    reference = SOURCES[study.data.name].cited
    cited = f" ({reference})" if reference else ""
    return Text(
        f"The data are {in_markdown(names.of_data(study))}{cited}, {len(dataset['classes'])} classes at "
        f"{dataset['image_size']} px: {counts['train']:,} images for training, {counts['val']:,} for validation"
        f"{held_out}. We train {_join([_trained(results, student) for student in study.students])}, with "
        f"{seeds_a_cell(results.seed_counts())}, on {_join(devices)}.\n\n"
        f"{_views(study)} were computed once and serve every cell.{_soft_targets(results)} The "
        f"best epoch is chosen on {chosen_on}; the accuracy at the last epoch, "
        "which involves no choice, is in the tables of all cells.\n"
    )


def teacher(results: Results) -> Text:
    """Who teaches, and how it was chosen."""
    best, counts = results.teacher, results.dataset["counts"]
    on = "held-out training images" if counts["holdout"] else "the validation images"
    if len(results.teachers) == 1:
        return Text(f"The teacher is {in_markdown(results.teacher_name)} (@tbl-teachers).\n")
    return Text(
        f"The teacher is the most accurate of {len(results.teachers)} candidates on {on} (@tbl-teachers): "
        f"{in_markdown(results.teacher_name)}, with {percent(best.metrics.top1_best)} % on the validation images.\n"
    )


def _trained(results: Results, student: Model) -> str:
    """How a student was trained: 'ResNet-18 from scratch for 20 epochs (...)'."""
    study = results.study
    train = study.training(student, teacher=False)
    weights = "pretrained" if student.pretrained else "from scratch"
    precision = student.precision or study.precision
    how = [
        {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}[train.optimizer],
        f"learning rate {train.lr:g}",
        f"batch size {train.batch_size}",
        f"{train.schedule} schedule"
        if train.schedule != "step"
        else f"times {train.gamma:g} after {_join([str(epoch) for epoch in train.milestones])} epochs",
    ]
    if student.stem == "small":
        how.append("a first convolution of stride 1 without pooling")
    how.append(f"in {precision}")
    if student.compile:
        how.append("compiled")
    return f"{_name(results, student.label)} {weights} for {train.epochs} epochs ({', '.join(how)})"


def _views(study: Study) -> str:
    """What the training views of the images are, and of how many the teacher's logits are."""
    augment, count = study.augment, study.view_count()
    if augment.none:
        return "Every epoch shows the images as they are stored. The teacher's logits of them"
    steps = ["a left-right flip with probability one half"] if augment.flip else []
    if augment.crop == "shift":
        steps.append(f"a shift of up to {augment.shift} pixels")
    if augment.crop == "resized":
        steps.append(f"a resized crop of at least {augment.scale:.0%} of the area")
    if augment.rotate:
        steps.append(f"a turn of up to {augment.rotate:g} degrees")
    return (
        f"The view of an image is {_join(steps)}, a pure function of the seed, the epoch and the image's index. The "
        f"teacher's logits for {'one view' if count == 1 else f'{count} views'} a seed"
    )


def _soft_targets(results: Results) -> str:
    """How right the teacher's soft targets are, and whether it was trained on the views that they are of."""
    study = results.study
    taught = [record for record in results.students if study.taught_by(record.cell) == "teacher"]
    shares = (record.provenance.soft_targets_top1 for record in taught)
    right = [share for share in shares if share is not None]
    said = f" In a seed's first view they name the right class of {_range(right)} % of the images." if right else ""
    if study.teacher.seed in {record.cell.seed for record in results.students}:
        seen = min(len(results.teacher.history), study.view_count())
        views = f"the first {seen} views of seed {study.teacher.seed}"
        said += f" The teacher was trained on {views}, and may know them better."
    return said


_MODEL = (
    r"""$$y_{cs} = \mu_c + \nu_s + \varepsilon_{cs}, \qquad \varepsilon_{cs} \sim N(0, \sigma^2). \label{eq-model}$$"""
)


def varies(results: Results) -> Text:
    """The model of what varies, as an equation, and what was estimated of it."""
    estimated = []
    for student in results.labels:
        model = results.models[student]
        if model.freedom:
            estimated.append(
                f"{percent(np.sqrt(model.variance))} points for {_name(results, student)} ({model.freedom} degrees of "
                f"freedom; {percent(np.sqrt(model.of_images))} points would come of the choice of images alone)"
            )
    if estimated:
        known = (
            f"$\\sigma$ is pooled over all cells of a student: {_join(estimated)}. So a cell with one seed has an "
            "interval too."
        )
    else:
        known = (
            "Here each cell has one run, so nothing is known of $\\sigma$: intervals are over images alone, of these "
            "trained models, and no verdict on $T$ and $\\alpha$ is given."
        )
    lacking = ""
    if len(set(results.seed_counts())) > 1:
        lacking = " A cell that lacks a seed is brought to the mean of all seeds by what that seed does to other cells."
    return Text(
        "Two runs of one cell differ only in their seed. How far apart they are says how large a difference between "
        "cells must be to count. The accuracy $y_{cs}$ of the run of cell $c$ with seed $s$ is taken to be the cell's "
        "own, plus what the seed does to all cells alike, plus a residual:\n\n"
        f"{_MODEL}\n\n"
        f"@eq-model is fitted by least squares, student by student; $\\nu_s$ cancels between cells.{lacking} {known}"
        f"{_judged(results) if estimated else ''}\n"
    )


def _judged(results: Results) -> str:
    """How intervals, tests and verdicts come of the model."""
    return (
        "\n\nA sum of cells $\\sum_c w_c \\mu_c$ with $\\sum_c w_c = 0$, such as a gain, is estimated by a weighted "
        "sum $\\sum_{cs} a_{cs} y_{cs}$. Its variance is $(\\sigma^2 - \\sigma_I^2) \\sum a_{cs}^2$, what seeds do "
        "beyond the choice of images ($\\sigma_I^2$), plus that of the same sum taken image by image, divided by the "
        "number of images: the variance of a paired bootstrap over images, in closed form. Intervals are Student's, of "
        "95 %, with Satterthwaite's (1946) degrees of freedom.\n\nAmong the cells of a student, p-values of a gain are "
        "corrected by Holm's method (1979): the probability that any cell without a gain or loss is called better or "
        f"worse is {LEVEL:g} at most. Cells are the same where two one-sided tests (Schuirmann, 1987) find their "
        f"difference within {width(results.study.margin)}, a margin that the study fixes. The cells that no "
        "other is clearly above are a set that holds the best one with 95 % confidence (Hsu, 1984). No test here "
        "compares two trained models alone, for that would call two runs of one cell different as well."
    )


def asked(results: Results) -> Text:
    """What was asked beforehand, and how tables and figures are to be read."""
    first = ""
    if tables.contrasts(results) is not None:
        fixed = (
            "what was asked beforehand, in the study file"
            if results.study.contrasts
            else "what is asked of every study"
        )
        default = (
            ""
            if results.study.contrasts
            else (
                " These questions are the software's defaults. The bounds of the range were chosen after the records "
                "of 20 classes of TinyImageNet were known."
            )
        )
        first = f"@tbl-contrasts answers {fixed}. {' '.join(_answers(results))}{default}\n\n"
    return Text(f"{first}{reading(results).markdown}")


def reading(results: Results) -> Text:
    """How to read the tables and figures, once for all of them."""
    return Text(f"**How to read the tables and figures.** {how_to_read(results, '@eq-model')}\n")


def how_to_read(results: Results, model: str) -> str:
    """The same in one paragraph; model: where the model of what varies is told, in Markdown."""
    if results.varied:
        told = (
            "Gain: a cell's accuracy less the baseline's, in points, ± half its 95 % interval over seeds and images. "
            "p: of no gain, corrected by Holm's method for the cells of a student. Ahead: the probability that a new "
            "run is more accurate than one of the baseline with the same seed. Verdict: better or worse where p is "
            f"below {LEVEL:g}, which * marks in figures; same where two one-sided tests find the difference to be "
            f"within {width(results.study.margin)}; else undecided. An = marks a set of cells that holds the best one "
            "with 95 % confidence."
        )
    else:
        told = (
            "Gain: a cell's accuracy less the baseline's, in points, ± half its 95 % interval over images alone, of "
            "these trained models: with one run a cell nothing is known of what another seed would do, and all "
            "verdicts are undecided."
        )
    counts = results.seed_counts()
    lacking = (
        f" Where a cell lacks a seed, its accuracies and its gain are brought to the mean of all seeds ({model}); its "
        "other numbers are means over the seeds that it has."
        if min(counts) < max(counts)
        else ""
    )
    return (
        f"Accuracies are top-1 on the validation images, in percent. {told} NLL: negative log-likelihood, in nats; "
        "ECE: expected calibration error. Agree: the share of images on which student and teacher name the same class. "
        "n, and numbers in brackets in figures, count seeds."
        f"{lacking}"
    )


def grid(results: Results) -> Text:
    """What the grid shows, student by student."""
    lines = ["@fig-accuracy shows the accuracy of each cell, @fig-gain its gain."]
    for student in results.labels:
        distilled = results.distilled_of(student)
        roles = results.roles(student)
        if distilled.empty or "baseline" not in roles:
            continue
        best, worst = roles["best"], roles["worst"]
        lines.append(
            f"{_name(results, student)}: {_counted(distilled, roles['baseline'])} The highest accuracy is that of "
            f"{best.point.math}, a gain of {_gain(best)} points{_flattered(results, best)}. {_among(results, student)}"
            f"The lowest is that of {worst.point.math}, {_gain(worst)} points (@{label('tbl-summary', student)}; every "
            f"cell is in @{label('tbl-grid', student)})."
        )
    return Text("\n\n".join(lines) + "\n")


def follows(results: Results) -> Text:
    """How accuracy follows temperature and weight."""
    told = [_effect(results, claim, numbers=True) for claim in _QUESTIONS]
    lines = ["@fig-temperature shows how the gain follows the temperature.", *filter(None, told)]
    return Text(" ".join(lines) + "\n")


def _counted(distilled: pd.DataFrame, baseline: CellRow) -> str:
    """'of 24 distilled cells, 16 are better than the baseline (40.30 %), ...', from the rows of Results.cells."""
    verdicts = list(distilled["verdict"])
    better, worse, same, open_ = (verdicts.count(name) for name in ("better", "worse", "same", "undecided"))
    told = [f"{_are(better)} better than the baseline ({percent(baseline['top1'])} %)", f"{_are(worse)} worse"]
    told += [f"{_are(same)} the same"] if same else []
    return f"of {len(distilled)} distilled cells, {', '.join(told)}, and {_are(open_)} undecided."


def _are(count: int) -> str:
    """'none is', '1 is', '16 are'."""
    return f"{count or 'none'} {'is' if count < 2 else 'are'}"


def _among(results: Results, student: str) -> str:
    """How many cells the best may be among; '' where nothing is known of seeds."""
    among = list(results.cells_of(student)["among_best"]).count(True)
    return f"The best one is among {among} cells, with 95 % confidence. " if among > 1 else ""


def choice(results: Results) -> Text:
    """What choosing T and alpha costs."""
    lines = []
    for student in results.labels:
        chosen = results.leave_a_seed_out(student)
        if chosen is not None:
            lines.append(
                f"for {_name(results, student)}, a gain of {points(chosen.before)} points where it was chosen came to "
                f"{points(chosen.after)} on the seed left out ({chosen.rounds} seeds, {chosen.cells} cells)"
            )
    held_out = (
        "Held-out training images do not cure this: they score the same trained models, and the luck of a seed stays."
        if results.dataset["counts"]["holdout"]
        else "The study holds no training images out, so a cell is chosen on the very images that it is reported on."
    )
    if lines:
        said = (
            "To see how much, we leave out each seed in turn, choose the best cell by the other seeds, and look at it "
            f"on the seed left out (@tbl-choice): {'; '.join(lines)}."
        )
    else:
        said = "What that costs cannot be told: it takes a baseline and two other cells with two seeds each."
    return Text(
        "The best of many cells is partly there by luck, and tends to be worse when it is run again. "
        f"{said} {held_out}\n"
    )


def claimed(results: Results) -> Text:
    """The published study, and the claims one by one with their verdicts; nothing where the study does not ask."""
    if not results.study.claims:
        return Text("")
    rows = claims.rows(results)
    lines = []
    for name, claim in claims.CLAIMS.items():
        told = []
        for origin, who in (("here", "our records"), ("published", "the rows of Cichor")):
            of_origin = [row for row in rows if (row.claim, row.origin) == (name, origin)]
            if of_origin:
                told.append(f"{who}: {_told(of_origin, results)}")
        if told:
            said = "; ".join(told)
            lines.append(f"- **{name}.** {symbols(claim.says)} ({claim.by}) *{said[:1].upper()}{said[1:]}.*")
    open_claims = claims.unanswered(results)
    tail = ""
    if open_claims:
        asked = sorted({methods.FURTHER[method].title for claim in open_claims for method in claim.needs})
        needed = f"; they need cells of {_join(asked)}" if asked else ""
        said = _join([f"{claim.name} ({_lower(claim.says).rstrip('.')}; {claim.by})" for claim in open_claims])
        tail = f"\n\nNeither our records nor its rows have data on these claims{needed}: {said}."
    twice = percent(claims.printed_gap())
    return Text(
        f"# Claims of the published study and of others\n\n{claims.PUBLISHED}. One cell it prints twice, with values "
        f"{twice} points apart: a misprint, or the size of chance. @tbl-published has its rows beside ours.\n\n"
        "@tbl-claims puts its claims, and some of the literature's, to our records and to its rows, by the same model. "
        "A *difference* is one of mean accuracies. A *trend* is the rise of a fitted straight line over the range of "
        "$T$ (on a logarithmic scale) or $\\alpha$. A *gap* is how far apart two runs of one cell are at most, in 95 % "
        "of cases. An *agreement* is Spearman's rank correlation with accuracy. The published rows are single runs. We "
        "take them to vary from seed to seed as our runs of the same model do; without such runs they stay "
        "undecided.\n\n" + "\n".join(lines) + tail + "\n"
    )


def _told(rows: list[claims.ClaimRow], results: Results) -> str:
    """'supported for a and b and undecided for c'; single cells that are undecided are counted."""
    in_words = {"same": f"no difference within {width(results.study.margin)}"}
    answers: dict[str, list[str]] = {}
    for row in rows:
        where = f" ({symbols(row.where)})" if row.where else ""
        here = row.origin == "here"
        called = _name(results, row.student) if here else in_markdown(names.of_model(row.student))
        answers.setdefault(in_words.get(row.answer, row.answer), []).append(called + where)
    open_cells = [row for row in rows if row.answer == "undecided" and row.where]
    if open_cells:
        answers["undecided"] = [f"{len(open_cells)} {'others' if len(answers) > 1 else 'cells, which differ in sign'}"]
    return _join([f"{answer} for {_join(of)}" for answer, of in sorted(answers.items())])


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def limits(results: Results) -> Text:
    """What the study cannot say, from its own numbers."""
    study, dataset = results.study, results.dataset
    classes, counts = len(dataset["classes"]), dataset["counts"]
    schedules = {study.training(student, teacher=False).schedule for student in study.students}
    lines = [
        f"One teacher taught, on one data set: {classes} classes, {counts['train'] / classes:.0f} training images a "
        f"class. Students were trained with a {_join(sorted(schedules))} learning rate and one set of other settings; "
        "other $T$ and $\\alpha$ might do best with others."
    ]
    chance = np.log(classes)
    for student in results.labels:
        baseline = results.row(Point.baseline(student))
        if baseline is not None and baseline["nll"] > chance:
            lines.append(
                f"The baseline of {_name(results, student)} is overconfident: its negative log-likelihood of "
                f"{baseline['nll']:.2f} nats is above the {chance:.2f} of a guess among {classes} classes."
            )
    gaps = [
        f"{100 * (results.teacher.metrics.top1_best - baseline['top1']):.0f} ({_name(results, student)})"
        for student in results.labels
        if (baseline := results.row(Point.baseline(student))) is not None
    ]
    published = [f"{gap:.0f} ({names.of_model(model)})" for model, gap in claims.published_teacher_gaps()]
    if gaps:
        there = f"; that of Cichor (2025) was {_join(published)}" if study.claims else ""
        lines.append(f"The teacher is {_join(gaps)} points above its students' baselines{there}.")
    starts = {"pretrained" if student.pretrained else "from scratch" for student in study.students}
    there = ""
    if study.claims:
        there = (
            ", as those of Cichor (2025)" if starts == {"pretrained"} else "; those of Cichor (2025) were pretrained"
        )
    lines.append(f"Students start {_join(sorted(starts))}{there}.")
    planned, done = len(study.cells()), len(results.students)
    if done < planned:
        lines.append(f"{done} of {planned} planned runs are done, so some cells have fewer seeds than others.")
    return Text(" ".join(lines) + "\n")


def softening(results: Results) -> Text:
    """What the temperature does to what is said of single images."""
    return Text("@fig-softened shows how the answers of teacher and student to single images soften as $T$ rises.\n")


def mix(results: Results) -> Text:
    """What the temperature does to the gradient."""
    shares = []
    for student in results.labels:
        cells = results.cells_of(student)
        share = cells.loc[cells["alpha"] == STANDARD[1], "mix"]
        if len(share):
            shares.append(f"{percent(share.min(), 0)} to {percent(share.max(), 0)} % for {_name(results, student)}")
    at = f" At $\\alpha$ = {STANDARD[1]:g} it is {_join(shares)}, depending on $T$." if shares else ""
    return Text(
        "Equal weights are not an equal mix (@fig-mix). The teacher's share of the gradient is "
        "$(1 - \\alpha)\\, g(T^2\\, \\mathrm{KL})$ over itself plus $\\alpha\\, g(\\mathrm{CE})$, where $g$ is the "
        f"norm of a part's gradient with respect to an image's logits.{at}\n"
    )


def learning(results: Results) -> Text:
    """How the best cell and the baseline learn."""
    told, column = [], results.score_column
    for student in results.labels:
        roles = results.roles(student)
        if {"best", "baseline"} <= set(roles):
            curves = [_curve(results, roles[role].point, column) for role in ("best", "baseline")]
            half = [float(curve.iloc[(len(curve) - 1) // 2]) for curve in curves]
            last = [float(curve.iloc[-1]) for curve in curves]
            told.append(
                f"{_name(results, student)} is at {percent(half[0], 1)} % halfway through its best cell and at "
                f"{percent(last[0], 1)} % at its end, where the baseline is at {percent(half[1], 1)} and "
                f"{percent(last[1], 1)} %"
            )
    ends = f" {_upper('; '.join(told))}." if told else ""
    return Text(f"Distillation may change how a student learns (@fig-learning).{ends}\n")


def _curve(results: Results, point: Point, column: str) -> pd.Series:
    """The accuracies of a cell's first run, an evaluation after the other."""
    return cast(pd.Series, records.history(results.records_of(point)[0])[column]).dropna()


def agreement(results: Results) -> Text:
    """How often student and teacher agree."""
    told = _beside_baseline(results, "agreement", lambda share: f"{percent(share, 1)} %")
    numbers = f" The share of images on which both agree is {_join(told)}." if told else ""
    return Text(
        "It may change how often a student agrees with its teacher, which is not the same as being right "
        f"(@fig-agreement; Stanton et al., 2021).{numbers}\n"
    )


def calibration(results: Results) -> Text:
    """How true the student's confidence is."""
    ece, nll = (_beside_baseline(results, column, partial(fixed, digits=3)) for column in ("ece", "nll"))
    numbers = f" The calibration error is {_join(ece)}. The negative log-likelihood is {_join(nll)}." if ece else ""
    return Text(f"It may change how true a student's confidence is (@fig-calibration; Guo et al., 2017).{numbers}\n")


def _beside_baseline(results: Results, metric: str, write: Callable[[float], str]) -> list[str]:
    """'0.311 for a at T = 4, α = 0.5 (baseline: 0.204)', a student each, over the seeds that both have."""
    told = []
    for student in results.labels:
        roles = results.roles(student)
        cell = roles.get("standard", roles.get("best"))
        pairs = results.pairs_of(cell.point, Point.baseline(student)) if cell else []
        if cell and pairs:
            ours, base = (
                float(np.mean([getattr(run.metrics, metric) for run in runs])) for runs in zip(*pairs, strict=True)
            )
            told.append(f"{write(ours)} for {_name(results, student)} at {cell.point.math} (baseline: {write(base)})")
    return told


def classes(results: Results) -> Text:
    """Which classes gain."""
    told = []
    for student in results.labels:
        roles = results.roles(student)
        if {"best", "baseline"} <= set(roles) and results.pairs_of(roles["best"].point, roles["baseline"].point):
            gains = results.class_gains(roles["best"].point)
            told.append(f"{int((gains > 0).sum())} of {len(gains)} classes of {_name(results, student)}")
    numbers = f" With the best cell, {_join(told)} gain." if told else ""
    return Text(f"And it may change which classes a student knows (@fig-classes).{numbers}\n")


def references(results: Results) -> Text:
    """The works that the report speaks of, with links to those on arXiv."""
    study = results.study
    lines = {*REFERENCES, methods.KD.reference, SOURCES[study.data.name].reference} - {""}
    if study.claims:
        lines |= {claim.reference for claim in claims.CLAIMS.values()} - {""}
    if any(point.method != "kd" for point in results.cells.index):
        lines |= {m.teaching.reference for m in study.methods}
    linked = (re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", line) for line in sorted(lines))
    return Text("\n".join(f"- {line}" for line in linked) + "\n")


def further(results: Results) -> Text:
    """Is it the teacher? Nothing where the study has no further methods."""
    if tables.further(results) is None:
        return Text("")
    said = ["@tbl-further sets further methods beside plain distillation.", _without_teacher(results)]
    said += [gain for student in results.labels for gain in _further_gains(results, student)]
    return Text(f"# Is it the teacher?\n\n{' '.join(filter(None, said))}\n")


_ALONE = {"self": "the student's own baseline", "": "nobody"}  # taught_by, where it is no teacher -> in words


def _without_teacher(results: Results) -> str:
    """Which of the methods that were run learn from no teacher; '' where all do."""
    study, run = results.study, set(results.cells["method"])
    told, count = "", 0
    for who, whom in _ALONE.items():
        labels = [m.label for m in study.methods if m.label in run and m.teaching.taught_by == who]
        if labels:
            called = _join([in_markdown(names.of_method(study, label)) for label in labels])
            told += f" and {called} from {whom}" if told else f"{called} learn{'s' * (len(labels) == 1)} from {whom}"
            count += len(labels)
    if not told:
        return ""
    gained = {1: "it gains", 2: "these two gain"}.get(count, "these gain")
    return f"{told[0].upper()}{told[1:]}: what {gained} is not the teacher's doing."


def _further_gains(results: Results, student: str) -> list[str]:
    """What each further method gains a student, a sentence."""
    told = []
    for cell in results.rows(results.further_of(student)):
        method = results.study.method(cell.point.method).teaching
        point = cell.point.math if method.temperature else rf"$\alpha$ = {short(cell.point.alpha)}"
        called = in_markdown(names.of_method(results.study, cell.point.method))
        told.append(f"{called} ({point}) {_gain(cell)}")
    return [f"{_name(results, student)} gains by {_join(told)} points."] if told else []


def off_grid(results: Results) -> Text:
    """That there are runs beside the grid; nothing where there are none."""
    return Text("@tbl-off-grid has the runs beside the grid.\n" if results.off_grid else "")


def cost(results: Results) -> Text:
    """What storing the soft targets saved."""
    images, rate = results.dataset["counts"]["train"], results.teacher.cost.inference_images_per_second
    said = "@tbl-cost has what the runs took."
    if rate:
        views = results.study.view_count() * len({record.cell.seed for record in results.students})
        said += (
            f" Storing the soft targets took {duration(views * images / rate)} for {views} views, once for all cells. "
            "The last column says how long the teacher would have taken if each run had asked it anew."
        )
    return Text(said + "\n")


def discussion(results: Results) -> Text:
    """What the findings mean together."""
    parts = [_shape(results), _worth(results), _whose(results), _confidence(results)]
    return Text("\n\n".join(part for part in parts if part) + "\n")


def _shape(results: Results) -> str:
    """Whether T and alpha act as thresholds or as dials."""
    ours = [v for v in claims.rows(results) if v.origin == "here"]
    answers = {name: {v.answer for v in ours if v.claim == name} for name in ("1a", "1b", "1c", "1d")}
    if not results.varied:
        return (
            "With one run a cell nothing here is decided: what looks like an effect of $T$ or $\\alpha$ may be that "
            "of a seed. The figures say where to look, and more seeds would say what is there."
        )
    if answers["1a"] == answers["1c"] == {"supported"}:
        steps = (
            "Two things matter in these records: that the teacher's answers are softened at all, and that the labels "
            "do not outweigh them."
        )
        if not {"supported", "contradicted"} & (answers["1b"] | answers["1d"]):
            return (
                f"{steps} Going further makes no difference that these runs could show: temperature and weight act "
                "like thresholds, not like dials. This fits a loss that becomes a matching of logits at high "
                "temperatures, where $T$ cancels."
            )
        return f"{steps} Beyond that, temperature or weight still make a difference for some students."
    if not {"supported", "contradicted"} & set().union(*answers.values()):
        return "Whether temperature or weight matters these runs could not show."
    one = "" if len(results.labels) == 1 else ", and what holds of one student is no advice for another"
    return f"Not all that is said of temperature and weight holds here{one}: each effect is to be read by itself."


def _worth(results: Results) -> str:
    """What tuning is worth beside distilling at all."""
    told = []
    for student in results.labels:
        standard, chosen = results.roles(student).get("standard"), results.leave_a_seed_out(student)
        if standard and chosen:
            told.append(
                f"for {_name(results, student)} the customary {standard.point.math} gains {_gain(standard)} points, "
                f"and a cell chosen by its accuracy {points(chosen.after)} on a new seed"
            )
    if not told:
        return ""
    return f"Is a search for the best cell worth its cost? {_upper('; '.join(told))}."


def _whose(results: Results) -> str:
    """Whether the gain is the teacher's, by the methods that have none."""
    told, used = [], set()
    for student in results.labels:
        without = [
            cell
            for cell in results.rows(results.further_of(student))
            if results.study.method(cell.point.method).teaching.taught_by in ("", "self")
        ]
        plain = results.roles(student).get("standard")
        if without and plain:
            best = max(without, key=lambda cell: cell["gain"])
            used |= {in_markdown(names.of_method(results.study, cell.point.method)) for cell in without}
            told.append(
                f"{signed(100 * best['gain'])} points for {_name(results, student)} (plain distillation: "
                f"{signed(100 * plain['gain'])})"
            )
    if not told:
        return ""
    return (
        f"Without the teacher's knowledge ({_join(sorted(used))}) the highest gain is {_join(told)}. Where the "
        "first number is far below the second, the gain is the teacher's."
    )


def _confidence(results: Results) -> str:
    """Whether the more accurate student is the better calibrated one."""
    truer, less = [], []
    for student in results.labels:
        roles = results.roles(student)
        if "baseline" in roles and (cell := roles.get("standard", roles.get("best"))):
            (truer if cell["ece"] < roles["baseline"]["ece"] else less).append(student)
    told = []
    if truer:
        told.append(f"lowers the calibration error of {_names(results, truer)}")
    if less:
        told.append(
            f"raises that of {_names(results, less)}"
            if truer
            else f"raises the calibration error of {_names(results, less)}"
        )
    return f"Accuracy and confidence are two matters: distillation {_join(told)}." if told else ""


def conclusion(results: Results) -> Text:
    """What a reader may take home, and how far it holds."""
    study, rows = results.study, [row for student in results.labels for row in results.contrasts(student)]
    best = [row for row in rows if len(row.cells) > 1] if not study.contrasts else []
    if best and all(row.verdict == "better" for row in best):
        advice = (
            f"In a setting like this, distil with {symbols(best[0].name)}. The gain was "
            f"{_join([f'{_points(r.effect.value)} for {_name(results, r.student)}' for r in best])}."
        )
        if all(row.alike >= LEVEL for row in best):
            advice += " Within these bounds the choice is free, as far as these runs can tell."
    elif not results.varied:
        advice = "With one run a cell, these records recommend no temperature and no weight; they show how to ask."
    else:
        advice = "No temperature and no weight can be recommended to all of these students by these records."
    starts = {"pretrained" if student.pretrained else "trained from scratch" for student in study.students}
    images = results.dataset["counts"]["train"] / len(results.dataset["classes"])
    return Text(
        f"{advice} This holds for one teacher, for students that are {_join(sorted(starts))}, and for "
        f"{len(results.dataset['classes'])} classes of {in_markdown(names.of_data(study))} with {images:.0f} training "
        "images each. Whether it holds elsewhere these records cannot say.\n"
    )


def provenance(results: Results) -> Text:
    """What the report rests on: its records as a file beside it, study file, data, versions."""
    study, digest = Path(results.study.file), results.study.sha256[:12]
    installed = [record.provenance.versions for record in results.students]
    versions = sorted({f"{package} {version}" for packages in installed for package, version in packages.items()})
    listed = tables.records(results)
    return Text(
        f"The records that this report rests on are listed in `{listed.name}` beside it (SHA-256 `{listed.sha256}`), "
        "each with its number, the name of its folder, and the commit, the time and the device of its run; a + after a "
        "commit says that files of the project differed from it. @tbl-provenance says by these numbers what each "
        f"figure and table is made from. Study file: {in_markdown(paths.shown(study))}, SHA-256 {digest}. Data: "
        f"fingerprint {results.dataset['fingerprint'][:12]}. Versions: {in_markdown(', '.join(versions))}.\n"
    )


def _claims_together(results: Results) -> str:
    """One sentence on the published study's claims; where cells or students differ, a claim is left undecided."""
    if not results.study.claims:
        return ""
    by_answer: dict[str, list[str]] = {"supported": [], "contradicted": [], "same": [], "undecided": []}
    ours = [row for row in claims.rows(results) if row.origin == "here"]
    for name, claim in claims.CLAIMS.items():
        answers = {row.answer for row in ours if row.claim == name}
        if answers and claim.brief:
            by_answer[answers.pop() if len(answers) == 1 else "undecided"].append(claim.brief)
    verbs = {"supported": "support that {}", "contradicted": "contradict that {}", "same": "see no effect where {}"}
    said = [verb.format(_join(by_answer[answer])) for answer, verb in verbs.items() if by_answer[answer]]
    if not said:
        return "Of the claims of Cichor (2025) these records decide none."
    return f"Of the claims of Cichor (2025) these records {_join(said)}; the others stay open."


def _gain(cell: CellRow) -> str:
    """+2.10 ± 0.90"""
    return points(cell["gain"]) + half(cell["gain_low"], cell["gain_high"])


def _flattered(results: Results, best: CellRow) -> str:
    """What a winner owes to having been chosen, in brackets."""
    most, chosen = results.cells_of(best.point.student)["n"].max(), results.leave_a_seed_out(best.point.student)
    told = [f"{best['n']} of up to {most} seeds"] if best["n"] < most else []
    if chosen:
        told.append(f"on a new seed a winner's gain changes by {points(chosen.after - chosen.before)}, @tbl-choice")
    else:
        told.append("chosen as the highest of many")
    return f" ({'; '.join(told)})"


def _range(fractions: list[float]) -> str:
    """92.80 to 96.85, or one number where they are the same."""
    return " to ".join(dict.fromkeys(percent(x) for x in (min(fractions), max(fractions))))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
