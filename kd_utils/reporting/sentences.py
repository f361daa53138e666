"""Results -> the sentences of the report. No figure in them is typed: each is computed from records."""

from .. import methods
from ..sources import SOURCES
from ..study import STANDARD
from . import claims, tables
from .results import LEAST_P, Results
from .shown import Front, Text, half, percent, point, points

REFERENCES = [  # beside those of methods.py and sources.py
    "Guo, C. et al. (2017). On calibration of modern neural networks. ICML. arXiv:1706.04599.",
    "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian J. of Statistics 6, 65–70.",
    "McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or percentages. "
    "Psychometrika 12, 153–157.",
    "Stanton, S. et al. (2021). Does knowledge distillation really work? NeurIPS. arXiv:2106.05945.",
]


def front(results: Results) -> Front:
    """Title, subtitle and abstract."""
    study, noted = results.study, results.dataset
    counts = noted["counts"]
    lines = [
        f"We distil a {results.teacher['teacher']} teacher ({percent(results.teacher.metrics['top1_best'])} % top-1, "
        f"the best of {len(results.teachers)} candidates) into {_join(results.labels)} at {len(study.grid.T)} "
        f"temperatures and {len(study.grid.alpha)} weights of the cross-entropy, on {study.data.name} with "
        f"{len(noted['classes'])} classes, {counts['train']:,} training and {counts['val']:,} validation images."
    ]
    for student in results.labels:
        roles = results.roles(student)
        if "baseline" not in roles or "best" not in roles:
            continue
        best, standard = roles["best"], roles.get("standard")
        line = (
            f"{student} reaches {percent(best['top1_best'])} % at {point(best)}, {_gain(best)} points over its "
            f"baseline{_flattered(results, best)}"
        )
        if standard is not None and not (standard["T"] == best["T"] and standard["alpha"] == best["alpha"]):
            line += f"; at the customary T = {STANDARD[0]:g}, alpha = {STANDARD[1]:g} it gains {_gain(standard)}"
        lines.append(line + ".")
    lines.append(_of_claims(results))
    planned, done = len(study.cells()), len(results.students)
    if done < planned:
        lines.append(f"This report is of an unfinished study: {done} of {planned} runs are done.")
    return Front(study.title, f"Study {study.name}", " ".join(lines))


def setting(results: Results) -> Text:
    """What was done, in words."""
    study, noted = results.study, results.dataset
    counts = noted["counts"]
    chosen = "held-out training images" if counts["holdout"] else "the validation images themselves"
    how = []
    for student in study.students:
        t = study.training(student, teacher=False)
        weights = "pretrained" if student.pretrained else "from scratch"
        precision = student.precision or study.precision
        extras = [f"in {precision}"] if precision != "auto" else []
        extras += ["compiled"] if student.compile else []
        how.append(
            f"{student.label} {weights} for {t.epochs} epochs ({t.optimizer.capitalize()}, learning rate {t.lr:g}, "
            f"batch size {t.batch_size}, {t.schedule} schedule{''.join(', ' + e for e in extras)})"
        )
    named = [r["provenance"]["soft_targets_top1"] for r in results.students if study.taught_by(r.cell) == "teacher"]
    n = results.cells["n"]
    seeds = "one seed a cell" if n.max() == 1 else f"{n.max()} seeds a cell"
    seeds = f"{n.min()} to {n.max()} seeds a cell" if n.min() < n.max() else seeds
    mcnemar = "McNemar's exact test (McNemar, 1947)"
    varies, test = "; with one seed a cell they say nothing of other seeds", mcnemar
    if n.max() > 1:
        varies = (
            ", and over seeds where a cell has several; two or three seeds say little of their own spread, and such an "
            "interval is rather one of 90 %"
        )
        test = f"a paired bootstrap, or with {mcnemar} where they share one seed"
    augment = study.augment
    crop = {
        "none": "no crop",
        "shift": f"a shift of up to {augment.shift} pixels",
        "resized": f"a resized crop of at least {augment.scale:.0%} of the area",
    }[augment.crop]
    flip = "a left-right flip with probability one half and " if augment.flip else ""
    devices = sorted({r["provenance"]["device_name"] for r in results.students})
    right = f"; in a seed's first view they name the right class of {_range(named)} % of the images" if named else ""
    if study.teacher.seed in {r["seed"] for r in results.students}:
        seen = min(len(results.teacher["history"]), study.view_count())
        views = f"the first {seen} views of seed {study.teacher.seed}"
        right += f" (the teacher was trained on {views}, and may know these better)"
    reference = SOURCES[study.data.name].cited
    return Text(
        f"The data are {study.data.name}{f' ({reference})' if reference else ''}, {len(noted['classes'])} classes at "
        f"{noted['image_size']} px: {counts['train']:,} images for training, {counts['val']:,} for validation"
        + (f", {counts['holdout']:,} held out of the training images" if counts["holdout"] else "")
        + f". We train {_join(how)}, with {seeds}, on {_join(devices)}. The view of an image is {flip}{crop}, a pure "
        f"function of the seed, the epoch and the image's index; the teacher's logits for {study.view_count()} views a "
        f"seed were computed once and serve every cell exactly{right}. The best epoch is chosen on {chosen}; the "
        "accuracy at the last epoch, which involves no choice, stands beside it.\n\n"
        f"Intervals are of 95 %, by a bootstrap over validation images{varies}. Cells are compared on the same "
        f"images, with {test}, and p-values are corrected for the number of cells by Holm's method (Holm, 1979); a "
        f"difference counts below {LEAST_P:g}.\n"
    )


def grid(results: Results) -> Text:
    """What the grid shows, student by student."""
    lines = ["@fig-accuracy shows the accuracy of each cell, @fig-gain its gain, @fig-temperature how it follows T."]
    for student in results.labels:
        distilled = results.of(student).dropna(subset="T")
        roles = results.roles(student)
        if not len(distilled) or "baseline" not in roles:
            continue
        real = distilled[distilled["p_holm"] < LEAST_P]
        up, down = (real["gain"] > 0).sum(), (real["gain"] < 0).sum()
        tied, worst = results.of(student)["tied"].sum() - 1, roles["worst"]  # the best is no tie of its own
        lines.append(
            f"**{student}**: of {len(distilled)} distilled cells {up} are better than the baseline "
            f"({percent(roles['baseline']['top1_best'])} %) and {down} worse. The best is {point(roles['best'])}"
            f"{_flattered(results, roles['best'])}; of the others {tied} cannot be told from it. The worst, "
            f"{point(worst)}, differs from the baseline by "
            f"{_gain(worst)} points (@tbl-summary-{student})."
        )
    return Text(" ".join(lines) + "\n")


def choice(results: Results) -> Text:
    """What choosing T and alpha honestly costs; nothing where the study holds no images out."""
    lines = []
    for student in results.labels:
        chosen, best = results.chosen(student), results.of(student).iloc[0]
        if chosen is not None:
            price = points(chosen["top1_best"] - best["top1_best"])
            same = "which is also the best on val" if price == points(0) else f"{price} points from the best on val"
            lines.append(f"for {student} they choose {point(chosen)}, {same}")
    if not lines:
        return Text(
            "The study holds no training images out, so the best cell is the best of many on the very images that it "
            "is reported on: its accuracy is flattered by the choice.\n"
        )
    return Text(
        "The best of many cells on val is flattered by being chosen there. Held-out training images can choose T and "
        f"alpha instead (@tbl-choice): {'; '.join(lines)}.\n"
    )


def claimed(results: Results) -> Text:
    """The claims, one by one, with their verdicts."""
    found = claims.verdicts(results)
    lines = []
    for name, claim in claims.CLAIMS.items():
        own = [v for v in found if v.claim == name]
        said = {
            source: _join([f"{v.answer} for {v.student}" for v in own if v.source == source])
            for source in ("here", "published")
        }
        said = {source: words for source, words in said.items() if words}
        told = "; ".join(f"{'our records' if s == 'here' else 'the published rows'}: {w}" for s, w in said.items())
        lines.append(f"- **{name}.** {claim} *{told[:1].upper()}{told[1:]}.*")
    against = sorted({(v.claim, v.student) for v in found if v.source == "published" and v.answer == "contradicted"})
    tail = ""
    if against:
        where = _join([f"{claim} for {student}" for claim, student in against])
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
        own = results.of(student)
        mix = own[own["alpha"] == STANDARD[1]]["mix"]
        if len(mix):
            shares.append(f"{percent(mix.min(), 0)} to {percent(mix.max(), 0)} % for {student}")
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
                f"{student}, best cell against baseline: it agrees with the teacher on {percent(best['agreement'], 1)} "
                f"% of the images against {percent(base['agreement'], 1)} %, its expected calibration error "
                f"is {best['ece']:.3f} against {base['ece']:.3f}, its negative log-likelihood {best['nll']:.3f} "
                f"against {base['nll']:.3f} nats."
            )
    return Text(" ".join(lines) + "\n")


def references(results: Results) -> Text:
    """The works that the report speaks of."""
    study = results.study
    lines = {*REFERENCES, methods.KD.reference, SOURCES[study.data.name].reference} - {""}
    if results.cells["method"].ne("kd").any():
        lines |= {m.teaching.reference for m in study.methods}
    return Text("\n".join(f"- {line}" for line in sorted(lines)) + "\n")


def further(results: Results) -> Text:
    """Is it the teacher? Nothing where the study has no further methods."""
    if tables.further(results) is None:
        return Text("")
    lines = []
    for student in results.labels:
        cells = results.further(student)
        for c in cells.to_dict("records"):
            lines.append(f"{c['method']} at {point(c)} gains {student} {_gain(c)} points")
    return Text(
        f"Is it the teacher? @tbl-further sets further methods beside plain distillation: {'; '.join(lines)}.\n"
    )


def _of_claims(results: Results) -> str:
    """One sentence on the claims."""
    answers: dict[str, list[str]] = {"supported": [], "contradicted": [], "undecided": []}
    found = [v for v in claims.verdicts(results) if v.source == "here"]
    for name in claims.CLAIMS:
        own = {v.answer for v in found if v.claim == name} - {"no data"}
        if own:
            answers[own.pop() if len(own) == 1 else "undecided"].append(name)
    verbs = {"supported": "support {}", "contradicted": "contradict {}", "undecided": "leave {} undecided"}
    words = [verbs[answer].format(_join(names)) for answer, names in answers.items() if names]
    return f"Of the published study's claims (@tbl-claims) our records together {_join(words)}." if words else ""


def _gain(cell) -> str:
    """+2.10 ± 0.90"""
    return points(cell["gain"]) + half(cell["gain_low"], cell["gain_high"])


def _flattered(results: Results, best) -> str:
    """A best cell with fewer seeds than others owes more to chance, which more seeds would take back."""
    most = results.of(best["student"])["n"].max()
    return f" ({best['n']} of up to {most} seeds, which flatters it)" if best["n"] < most else ""


def _range(fractions: list[float]) -> str:
    """92.80 to 96.85, or one number where they are the same."""
    return " to ".join(dict.fromkeys(percent(x) for x in (min(fractions), max(fractions))))


def _join(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
