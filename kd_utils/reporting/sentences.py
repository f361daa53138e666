"""Results -> the sentences of the report. No number in them is typed: each is computed from records."""

from .. import methods
from ..sources import SOURCES
from ..study import STANDARD, Augment, Model, Study
from . import claims, tables
from .results import LEAST_P, CellRow, Results
from .shown import Front, Text, half, in_markdown, label, percent, points, seeds_a_cell

REFERENCES = [  # beside those of methods.py and sources.py
    "Guo, C. et al. (2017). On calibration of modern neural networks. ICML. arXiv:1706.04599.",
    "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian J. of Statistics 6, 65–70.",
    "McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or percentages. "
    "Psychometrika 12, 153–157.",
    "Stanton, S. et al. (2021). Does knowledge distillation really work? NeurIPS. arXiv:2106.05945.",
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
    lines += [_reached(results, student) for student in results.labels]
    lines.append(_claims_together(results))
    planned, done = len(study.cells()), len(results.students)
    if done < planned:
        lines.append(f"This report is of an unfinished study: {done} of {planned} runs are done.")
    return Front(in_markdown(study.title), f"Study {in_markdown(study.name)}", " ".join(line for line in lines if line))


def _reached(results: Results, student: str) -> str:
    """One sentence on a student's best and standard cell; '' before it has a baseline and a distilled cell."""
    roles = results.roles(student)
    if "baseline" not in roles or "best" not in roles:
        return ""
    best, standard = roles["best"], roles.get("standard")
    line = (
        f"{in_markdown(student)} reaches {percent(best['top1_best'])} % at {best.point.words}, {_gain(best)} points "
        f"over its baseline{_flattered(results, best)}"
    )
    if standard is not None and standard.point != best.point:
        line += f"; at the customary T = {STANDARD[0]:g}, alpha = {STANDARD[1]:g} it gains {_gain(standard)}"
    return line + "."


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
        f"chosen on {chosen_on}; the accuracy at the last epoch, which involves no choice, stands beside it.\n\n"
        f"{_statistics(results)}\n"
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


def _statistics(results: Results) -> str:
    """How intervals and tests are made."""
    mcnemar = "McNemar's exact test (McNemar, 1947)"
    if max(results.seed_counts()) > 1:
        varies = (
            ", and over seeds where a cell has several; two or three seeds say little of their own spread, and such an "
            "interval is rather one of 90 %"
        )
        test = f"a paired bootstrap, or with {mcnemar} where they share one seed"
    else:
        varies, test = "; with one seed a cell they say nothing of other seeds", mcnemar
    return (
        f"Intervals are of 95 %, by a bootstrap over validation images{varies}. Cells are compared on the same "
        f"images, with {test}, and p-values are corrected for the number of cells by Holm's method (Holm, 1979); a "
        f"difference counts below {LEAST_P:g}."
    )


def grid(results: Results) -> Text:
    """What the grid shows, student by student."""
    lines = ["@fig-accuracy shows the accuracy of each cell, @fig-gain its gain, @fig-temperature how it follows T."]
    for student in results.labels:
        distilled = results.distilled_of(student)
        roles = results.roles(student)
        if distilled.empty or "baseline" not in roles:
            continue
        real = distilled.loc[distilled["p_holm"] < LEAST_P, "gain"]
        tied = results.cells_of(student)["tied"].sum() - 1  # the best is no tie of its own
        best, worst = roles["best"], roles["worst"]
        lines.append(
            f"**{in_markdown(student)}**: of {len(distilled)} distilled cells {(real > 0).sum()} are better than the "
            f"baseline ({percent(roles['baseline']['top1_best'])} %) and {(real < 0).sum()} worse. The best is "
            f"{best.point.words}{_flattered(results, best)}; of the others {tied} cannot be told from it. The worst, "
            f"{worst.point.words}, differs from the baseline by "
            f"{_gain(worst)} points (@{label('tbl-summary', student)})."
        )
    return Text(" ".join(lines) + "\n")


def choice(results: Results) -> Text:
    """What choosing T and alpha honestly costs; nothing where the study holds no images out."""
    table = tables.choice(results)
    if table is None:
        return Text(
            "The study holds no training images out, so the best cell is the best of many on the very images that it "
            "is reported on: its accuracy is flattered by the choice.\n"
        )
    lines = []
    for row in table.frame.to_dict("records"):
        price = row["price"]
        same = "which is also the best on val" if price == 0 else f"{points(price)} points from the best on val"
        lines.append(f"for {in_markdown(row['student'])} they choose {row['chosen'].words}, {same}")
    return Text(
        "The best of many cells on val is flattered by being chosen there. Held-out training images can choose T and "
        f"alpha instead (@tbl-choice): {'; '.join(lines)}.\n"
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
                by_student = [f"{verdict.answer} for {in_markdown(verdict.student)}" for verdict in of_source]
                told.append(f"{who}: {_join(by_student)}")
        answers = "; ".join(told)
        lines.append(f"- **{name}.** {claim} *{answers[:1].upper()}{answers[1:]}.*")
    printed = [verdict for verdict in verdicts if verdict.source == "published"]
    against = sorted({(verdict.claim, verdict.student) for verdict in printed if verdict.answer == "contradicted"})
    tail = ""
    if against:
        where = _join([f"{claim} for {in_markdown(student)}" for claim, student in against])
        tail = f"\n\nThe published rows themselves contradict claim {where}."
    twice = percent(claims.printed_gap())
    return Text(
        "\n".join(lines)
        + tail
        + f" One of their cells is printed twice with values {twice} points apart, a misprint or the size of chance. "
        "@tbl-claims has the statistics.\n"
    )


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
        if "best" in roles and "baseline" in roles:
            best, base = roles["best"], roles["baseline"]
            lines.append(
                f"{in_markdown(student)}, best cell against baseline: it agrees with the teacher on "
                f"{percent(best['agreement'], 1)} % of the images against {percent(base['agreement'], 1)} %, its "
                f"expected calibration error is {best['ece']:.3f} against {base['ece']:.3f}, its "
                f"negative log-likelihood {best['nll']:.3f} against {base['nll']:.3f} nats."
            )
    return Text(" ".join(lines) + "\n")


def references(results: Results) -> Text:
    """The works that the report speaks of."""
    study = results.study
    lines = {*REFERENCES, methods.KD.reference, SOURCES[study.data.name].reference} - {""}
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
    """One sentence on the claims; students that answer a claim differently leave it undecided."""
    by_answer: dict[str, list[str]] = {"supported": [], "contradicted": [], "undecided": []}
    verdicts = [verdict for verdict in claims.verdicts(results) if verdict.source == "here"]
    for name in claims.CLAIMS:
        answers = {verdict.answer for verdict in verdicts if verdict.claim == name} - {"no data"}
        if answers:
            by_answer[answers.pop() if len(answers) == 1 else "undecided"].append(name)
    verbs = {"supported": "support {}", "contradicted": "contradict {}", "undecided": "leave {} undecided"}
    said = [verbs[answer].format(_join(names)) for answer, names in by_answer.items() if names]
    return f"Of the published study's claims (@tbl-claims) our records together {_join(said)}." if said else ""


def _gain(cell: CellRow) -> str:
    """+2.10 ± 0.90"""
    return points(cell["gain"]) + half(cell["gain_low"], cell["gain_high"])


def _flattered(results: Results, best: CellRow) -> str:
    """A best cell with fewer seeds than others owes more to chance, which more seeds would take back."""
    most = results.cells_of(best.point.student)["n"].max()
    return f" ({best['n']} of up to {most} seeds, which flatters it)" if best["n"] < most else ""


def _range(fractions: list[float]) -> str:
    """92.80 to 96.85, or one number where they are the same."""
    return " to ".join(dict.fromkeys(percent(x) for x in (min(fractions), max(fractions))))


def _join(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
