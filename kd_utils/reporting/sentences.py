"""Results -> the sentences of the report. No number in them is typed: each is computed from records."""

import numpy as np
import pandas as pd

from .. import methods
from ..sources import SOURCES
from ..study import STANDARD, Augment, Model, Study
from . import claims, tables
from .results import CellRow, Point, Results
from .shown import Front, Text, half, in_markdown, label, percent, points, seeds_a_cell, width
from .stats import LEVEL

REFERENCES = [  # beside those of claims.py, methods.py and sources.py
    "Guo, C. et al. (2017). On calibration of modern neural networks. ICML. arXiv:1706.04599.",
    "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian J. of Statistics 6, 65–70.",
    "Hsu, J. C. (1984). Constrained simultaneous confidence intervals for multiple comparisons with the best. Annals "
    "of Statistics 12, 1136–1144.",
    "Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance components. Biometrics Bulletin "
    "2, 110–114.",
    "Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power approach for assessing "
    "the equivalence of average bioavailability. J. of Pharmacokinetics and Biopharmaceutics 15, 657–680.",
]


def front(results: Results) -> Front:
    """Title, subtitle and abstract."""
    study, dataset = results.study, results.dataset
    counts = dataset["counts"]
    teacher, students = results.teacher, [in_markdown(student) for student in results.labels]
    lines = [
        f"We distil a {in_markdown(teacher.teacher)} teacher ({percent(teacher.metrics.top1_best)} % top-1, "
        f"the best of {len(results.teachers)} candidates) into {_join(students)} at {len(study.grid.temperatures)} "
        f"temperatures and {len(study.grid.alphas)} weights of the cross-entropy, on {study.data.name} with "
        f"{len(dataset['classes'])} classes, {counts['train']:,} training and {counts['val']:,} validation images."
    ]
    lines += [_asked(results, student) for student in results.labels]
    lines.append(_claims_together(results))
    planned, done = len(study.cells()), len(results.students)
    if done < planned:
        lines.append(f"This report is of an unfinished study: {done} of {planned} runs are done.")
    return Front(in_markdown(study.title), f"Study {in_markdown(study.name)}", " ".join(line for line in lines if line))


def _asked(results: Results, student: str) -> str:
    """One sentence on the study's contrasts; '' before one can be told."""
    told = []
    for row in results.contrasts(student):
        against = "the baseline" if row.against == [Point.baseline(student)] else "those it is set against"
        cells = in_markdown(row.name) + (f" (mean of {len(row.cells)} cells)" if len(row.cells) > 1 else "")
        difference = f"{points(row.effect.value)} points [{' to '.join(map(points, row.effect.interval()))}]"
        verdict = f"the same within {width(results.study.margin)}" if row.verdict == "same" else row.verdict
        told.append(f"{cells} against {against}: {difference}, {verdict}")
    if not told:
        return ""
    one_seed = "" if results.varied else " (with one run a cell nothing is known of other seeds)"
    return f"For {in_markdown(student)}, {'; '.join(told)}{one_seed}."


def setting(results: Results) -> Text:
    """What was done, in words."""
    study, dataset = results.study, results.dataset
    counts = dataset["counts"]
    held_out = f", {counts['holdout']:,} held out of the training images" if counts["holdout"] else ""
    chosen_on = "held-out training images" if counts["holdout"] else "the validation images themselves"
    devices = sorted({in_markdown(record.provenance.device_name) for record in results.students})
    reference = SOURCES[study.data.name].cited
    cited = f" ({reference})" if reference else ""
    return Text(
        f"The data are {study.data.name}{cited}, {len(dataset['classes'])} classes at "
        f"{dataset['image_size']} px: {counts['train']:,} images for training, {counts['val']:,} for validation"
        f"{held_out}. We train {_join([_trained(study, student) for student in study.students])}, with "
        f"{seeds_a_cell(results.seed_counts())}, on {_join(devices)}. The view of an image is {_view(study.augment)}, "
        f"a pure function of the seed, the epoch and the image's index; the teacher's logits for {study.view_count()} "
        f"views a seed were computed once and serve every cell exactly{_soft_targets(results)}. The best epoch is "
        f"chosen on {chosen_on}; the accuracy at the last epoch, which involves no choice, is in the tables of all "
        "cells.\n"
    )


def _trained(study: Study, student: Model) -> str:
    """How a student was trained: 'resnet18 from scratch for 20 epochs (...)'."""
    train = study.training(student, teacher=False)
    weights = "pretrained" if student.pretrained else "from scratch"
    precision = student.precision or study.precision
    how = [
        train.optimizer.capitalize(),
        f"learning rate {train.lr:g}",
        f"batch size {train.batch_size}",
        f"{train.schedule} schedule"
        if train.schedule != "step"
        else f"times {train.gamma:g} after {_join([str(epoch) for epoch in train.milestones])} epochs",
    ]
    if student.stem == "small":
        how.append("a first convolution of stride 1 without pooling")
    if precision != "auto":
        how.append(f"in {precision}")
    if student.compile:
        how.append("compiled")
    return f"{in_markdown(student.label)} {weights} for {train.epochs} epochs ({', '.join(how)})"


def _view(augment: Augment) -> str:
    """What the training view of an image is."""
    crop = {
        "none": "no crop",
        "shift": f"a shift of up to {augment.shift} pixels",
        "resized": f"a resized crop of at least {augment.scale:.0%} of the area",
    }[augment.crop]
    crop += f" and a turn of up to {augment.rotate:g} degrees" if augment.rotate else ""
    return f"a left-right flip with probability one half and {crop}" if augment.flip else crop


def _soft_targets(results: Results) -> str:
    """How right the teacher's soft targets are, and whether it was trained on the views that they are of."""
    study = results.study
    taught = [record for record in results.students if study.taught_by(record.cell) == "teacher"]
    shares = (record.provenance.soft_targets_top1 for record in taught)
    right = [share for share in shares if share is not None]
    said = f"; in a seed's first view they name the right class of {_range(right)} % of the images" if right else ""
    if study.teacher.seed in {record.cell.seed for record in results.students}:
        seen = min(len(results.teacher.history), study.view_count())
        views = f"the first {seen} views of seed {study.teacher.seed}"
        said += f" (the teacher was trained on {views}, and may know these better)"
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
                f"{percent(np.sqrt(model.variance))} points for {in_markdown(student)} ({model.freedom} degrees of "
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
            "trained models, and no verdict on T and alpha is given."
        )
    lacking = ""
    if len(set(results.seed_counts())) > 1:
        lacking = " A cell that lacks a seed is brought to the mean of all seeds by what that seed does to other cells."
    return Text(
        "Two runs of one cell differ by their seed alone, and by how far they do a difference between cells is to be "
        "measured. The accuracy $y_{cs}$ of the run of cell $c$ with seed $s$ is taken to be the cell's own, plus "
        "what the seed does to all cells alike, plus a residual:\n\n"
        f"{_MODEL}\n\n"
        f"@eq-model is fitted by least squares, student by student; $\\nu_s$ cancels between cells.{lacking} {known}"
        f"{_judged(results) if estimated else ''}\n"
    )


def _judged(results: Results) -> str:
    """How intervals, tests and verdicts come of the model."""
    return (
        " A sum of cells $\\sum_c w_c \\mu_c$ with $\\sum_c w_c = 0$, such as a gain, is estimated by a weighted sum "
        "$\\sum_{cs} a_{cs} y_{cs}$. Its variance is $(\\sigma^2 - \\sigma_I^2) \\sum a_{cs}^2$, what seeds do beyond "
        "the choice of images ($\\sigma_I^2$), plus that of the same sum taken image by image, divided by the "
        "number of images: the variance of a paired bootstrap over images, in closed form. Intervals are Student's, of "
        "95 %, with Satterthwaite's (1946) degrees of freedom. Among the cells of a student, p-values of a gain are "
        "corrected by Holm's method (1979): the probability that any cell without a gain or loss is called better or "
        f"worse is {LEVEL:g} at most. Cells are the same where two one-sided tests (Schuirmann, 1987) find their "
        f"difference within {width(results.study.margin)}, a margin that the study fixes. A set of cells that no other "
        "is clearly above holds the best one with 95 % confidence (Hsu, 1984). No test here compares two trained "
        "models: such a test calls runs of one cell different."
    )


def grid(results: Results) -> Text:
    """What the grid shows, student by student: what was asked beforehand, then the cells."""
    lines = []
    if tables.contrasts(results) is not None:
        fixed = "asked beforehand, in the study file" if results.study.contrasts else "asked of every study"
        lines.append(f"@tbl-contrasts answers what is {fixed}.")
    lines.append(
        "@fig-accuracy shows the accuracy of each cell, @fig-gain its gain, @fig-temperature how it follows T."
    )
    for student in results.labels:
        distilled = results.distilled_of(student)
        roles = results.roles(student)
        if distilled.empty or "baseline" not in roles:
            continue
        best, worst = roles["best"], roles["worst"]
        lines.append(
            f"**{in_markdown(student)}**: {_counted(distilled)} the baseline ({percent(roles['baseline']['top1'])} %). "
            f"The highest accuracy is that of {best.point.words}, a gain of {_gain(best)} points"
            f"{_flattered(results, best)}. {_among(results, student)}The lowest is that of {worst.point.words}, "
            f"{_gain(worst)} points (@{label('tbl-summary', student)})."
        )
    return Text(" ".join(lines) + "\n")


def _counted(distilled: pd.DataFrame) -> str:
    """'of 24 distilled cells 16 are better, none worse and 8 undecided against', from the rows of Results.cells."""
    verdicts = list(distilled["verdict"])
    better, worse, same = (verdicts.count(name) for name in ("better", "worse", "same"))
    told = [f"{better or 'none'} {'is' if better < 2 else 'are'} better than", f"{worse or 'none'} worse than"]
    told += [f"{same} the same as"] if same else []
    rest = len(distilled) - better - worse - same
    return f"of {len(distilled)} distilled cells {', '.join(told)}, and {rest or 'none'} undecided against"


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
                f"for {in_markdown(student)} a winner's gain of {points(chosen.before)} points on the seeds it was "
                f"chosen by came to {points(chosen.after)} on the seed left out ({chosen.rounds} seeds, {chosen.cells} "
                "cells)"
            )
    held_out = (
        "Held-out training images do not cure this: they score the same trained models, and the luck of a seed stays."
        if results.dataset["counts"]["holdout"]
        else "The study holds no training images out, so a cell is chosen on the very images that it is reported on."
    )
    if lines:
        said = f"Leaving each seed out in turn (@tbl-choice), {'; '.join(lines)}."
    else:
        said = "What that costs cannot be told: it takes a baseline and two other cells with two seeds each."
    return Text(
        "The best of many cells owes its place to luck in part, and tends to be worse when it is run again. "
        f"{said} {held_out}\n"
    )


def claimed(results: Results) -> Text:
    """The claims, one by one, with their verdicts."""
    verdicts = claims.verdicts(results)
    lines = []
    for name, claim in claims.CLAIMS.items():
        told = []
        for source, who in (("here", "our records"), ("published", "the published rows")):
            of_source = [verdict for verdict in verdicts if (verdict.claim, verdict.source) == (name, source)]
            if of_source:
                told.append(f"{who}: {_answers(of_source, results)}")
        if told:
            said = "; ".join(told)
            lines.append(f"- **{name}.** {claim.says} ({claim.by}) *{said[:1].upper()}{said[1:]}.*")
    open_claims = claims.unanswered(results)
    tail = ""
    if open_claims:
        asked = sorted({f"`{method}`" for claim in open_claims for method in claim.needs})
        needed = f"; they need cells of the methods {_join(asked)}" if asked else ""
        said = _join([f"{claim.name} ({_lower(claim.says).rstrip('.')}; {claim.by})" for claim in open_claims])
        tail = f"\n\nWithout data here: {said}{needed}."
    twice = percent(claims.printed_gap())
    return Text(
        "\n".join(lines)
        + tail
        + f"\n\nOne published cell is printed twice with values {twice} points apart, a misprint or the size of chance."
        " @tbl-claims has the statistics.\n"
    )


def _answers(verdicts: list[claims.Verdict], results: Results) -> str:
    """'supported for a and b and undecided for c'; single cells that are undecided are counted."""
    words = {"same": f"no difference within {width(results.study.margin)}"}
    answers: dict[str, list[str]] = {}
    for verdict in verdicts:
        where = f" ({verdict.where})" if verdict.where else ""
        answers.setdefault(words.get(verdict.answer, verdict.answer), []).append(in_markdown(verdict.student) + where)
    open_cells = [verdict for verdict in verdicts if verdict.answer == "undecided" and verdict.where]
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
        "other T and alpha might do best with others."
    ]
    chance = np.log(classes)
    for student in results.labels:
        baseline = results.row(Point.baseline(student))
        if baseline is not None and baseline["nll"] > chance:
            lines.append(
                f"The baseline of {in_markdown(student)} is overconfident: its negative log-likelihood of "
                f"{baseline['nll']:.2f} nats is above the {chance:.2f} of a guess among {classes} classes."
            )
    gaps = [
        f"{100 * (results.teacher.metrics.top1_best - baseline['top1']):.0f} ({in_markdown(student)})"
        for student in results.labels
        if (baseline := results.row(Point.baseline(student))) is not None
    ]
    if gaps:
        lines.append(
            f"The teacher is {_join(gaps)} points above its students' baselines; the published study's was "
            f"{_join([f'{gap:.0f} ({in_markdown(student)})' for student, gap in claims.published_teacher_gaps()])}."
        )
    starts = {"pretrained" if student.pretrained else "from scratch" for student in study.students}
    lines.append(f"Students start {_join(sorted(starts))}; the published study's were pretrained.")
    return Text(" ".join(lines) + "\n")


def softening(results: Results) -> Text:
    """What the temperature does to single images and to the gradient."""
    lines = ["@fig-softened shows what teacher and student say of single images as they are softened."]
    shares = []
    for student in results.labels:
        cells = results.cells_of(student)
        mix = cells.loc[cells["alpha"] == STANDARD[1], "mix"]
        if len(mix):
            shares.append(f"{percent(mix.min(), 0)} to {percent(mix.max(), 0)} % for {in_markdown(student)}")
    if shares:
        lines.append(
            f"Equal weights are not an equal mix (@fig-mix): at alpha = {STANDARD[1]:g} the teacher's share of the "
            f"gradient is {_join(shares)}, depending on T."
        )
    return Text(" ".join(lines) + "\n")


def changes(results: Results) -> Text:
    """What distillation changes beside the accuracy."""
    lines = [
        "Beside accuracy, distillation may change how a student learns (@fig-learning), how often it agrees with its "
        "teacher (@fig-agreement; Stanton et al., 2021), how true its confidence is (@fig-calibration; Guo et al., "
        "2017) and which classes it knows (@fig-classes)."
    ]
    for student in results.labels:
        roles = results.roles(student)
        cell = roles.get("standard", roles.get("best"))
        pairs = results.pairs_of(cell.point, Point.baseline(student)) if cell else []
        if cell and pairs:
            agreement, ece, nll = (
                [float(np.mean([getattr(run.metrics, metric) for run in runs])) for runs in zip(*pairs, strict=True)]
                for metric in ("agreement", "ece", "nll")
            )
            lines.append(
                f"{in_markdown(student)} at {cell.point.words} against its baseline: it agrees with the teacher on "
                f"{percent(agreement[0], 1)} % of the images against {percent(agreement[1], 1)} %, its expected "
                f"calibration error is {ece[0]:.3f} against {ece[1]:.3f}, its negative log-likelihood {nll[0]:.3f} "
                f"against {nll[1]:.3f} nats."
            )
    return Text(" ".join(lines) + "\n")


def references(results: Results) -> Text:
    """The works that the report speaks of."""
    study = results.study
    cited = {claim.reference for claim in claims.CLAIMS.values()}
    lines = {*REFERENCES, *cited, methods.KD.reference, SOURCES[study.data.name].reference} - {""}
    if any(point.method != "kd" for point in results.cells.index):
        lines |= {m.teaching.reference for m in study.methods}
    return Text("\n".join(f"- {line}" for line in sorted(lines)) + "\n")


def further(results: Results) -> Text:
    """Is it the teacher? Nothing where the study has no further methods."""
    if tables.further(results) is None:
        return Text("")
    lines = []
    for student in results.labels:
        for cell in results.rows(results.further_of(student)):
            method, who = in_markdown(cell.point.method), in_markdown(student)
            lines.append(f"{method} at {cell.point.words} gains {who} {_gain(cell)} points")
    return Text(
        f"Is it the teacher? @tbl-further sets further methods beside plain distillation: {'; '.join(lines)}.\n"
    )


def _claims_together(results: Results) -> str:
    """One sentence on the published study's claims; where cells or students differ, a claim is left undecided."""
    by_answer: dict[str, list[str]] = {"supported": [], "contradicted": [], "same": [], "undecided": []}
    ours = [verdict for verdict in claims.verdicts(results) if verdict.source == "here"]
    for name, claim in claims.CLAIMS.items():
        answers = {verdict.answer for verdict in ours if verdict.claim == name}
        if answers and claim.by.startswith(claims.SOURCE):
            by_answer[answers.pop() if len(answers) == 1 else "undecided"].append(name)
    verbs = {
        "supported": "support {}",
        "contradicted": "contradict {}",
        "same": "find no difference in {}",
        "undecided": "leave {} undecided, or one student or cell against another",
    }
    said = [verbs[answer].format(_join(names)) for answer, names in by_answer.items() if names]
    return f"Of the published study's claims (@tbl-claims) our records together {_join(said)}." if said else ""


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


def _join(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
