"""Writes the parts of README.md and docs/*.md that hold numbers or lists, from their sources.

    make docs                            # writes
    python docs/generate.py --check      # writes nothing; exit code 1 if a page is out of date

A part stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; NAME is a key of BLOCKS. Sources: the committed
records, the study schema, records.COLUMNS, calibration.json, soak.json, demo.json, tries.py,
benchmarks/results/*.json, and the conversions below.
"""

import ast
import inspect
import io
import itertools
import json
import os
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import calibration
import tries
from pydantic.fields import FieldInfo
from scipy.stats import spearmanr

from kd_utils import methods, records
from kd_utils.keys import student_settings
from kd_utils.reporting import claims, names, results, sentences, stats, tables
from kd_utils.reporting.shown import Table, between, p_value, percent, points, referring, width
from kd_utils.running import search
from kd_utils.shelf import Shelf
from kd_utils.sources import SOURCES, Source
from kd_utils.study import Study, load
from kd_utils.text import duration
from kd_utils.validation import Section

ROOT = Path(__file__).resolve().parent.parent
STUDY, PUBLISHED, PRETRAINED = "tiny-imagenet-20", "tiny-imagenet", "tiny-imagenet-20-pretrained"
DEMO = "digits"  # its results are not kept
STUDENTS = ("resnet18", "shufflenet_v2_x1_0")  # in the order in which the pages name them
WIDTH = 120


def pages() -> list[Path]:
    """The pages that may hold generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A page's text with each generated part made anew. Raises ValueError for a part that is unknown or not closed."""

    def part(match: re.Match) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise ValueError(f"no block is called {name!r}; there are: {', '.join(BLOCKS)}")
        return f"<!-- begin: {name} -->\n{BLOCKS[name]().strip()}\n<!-- end: {name} -->"

    block = re.compile(r"<!-- begin: (\S+) -->\n.*?<!-- end: \1 -->", re.DOTALL)
    if len(block.findall(text)) != text.count("<!-- begin:") or text.count("<!-- begin:") != text.count("<!-- end:"):
        raise ValueError("a generated part has no end, or no beginning")
    return block.sub(part, text)


# --- what was found, from the records


@cache
def kept() -> results.Results:
    """The records of the study that is kept in git."""
    return results.load(STUDY)


def students() -> list[str]:
    """Labels of the students, in the order in which the pages name them."""
    return [s for s in STUDENTS if s in kept().labels]


def setting() -> str:
    """Data, teacher, students and training in one paragraph."""
    counts, classes = kept().dataset["counts"], len(kept().dataset["classes"])
    source = SOURCES[kept().study.data.name]
    teacher, candidates = kept().teacher, len(kept().study.teacher.candidates)
    epochs = {kept().study.training(s, teacher=False).epochs for s in kept().study.students}
    return paragraph(
        f"The data are {classes} of the {source.classes} classes of {source.title}, with {counts['train']:,} training "
        f"and {counts['val']:,} validation images. The teacher is {kept().teacher_name} with ImageNet "
        f"weights, fine-tuned on these training images: {percent(teacher.metrics.top1_best, 1)} % top-1 accuracy, the "
        f"best of {candidates} candidates. The students start from {_start(kept().study)}, and are trained for "
        f"{' or '.join(map(str, sorted(epochs)))} epochs. {progress()}"
    )


def progress() -> str:
    """How much of the study is done."""
    return _progress(kept())


def _progress(outcome: results.Results) -> str:
    study, done = outcome.study, len(outcome.students)
    first = [c for c in study.cells() if c.seed == study.seeds[0]]
    missing = set(first) - {r.cell for r in outcome.students}
    if done == len(study.cells()):
        return f"All {done} planned runs are done."
    if missing or len(study.seeds) == 1:
        return f"{done} of {len(study.cells())} planned runs are done."
    return (
        f"{done} of {len(study.cells())} planned runs are done. Seed {study.seeds[0]} of the grid is complete; other "
        "seeds were run for some cells only."
    )


def summary() -> str:
    """The study's contrasts, student by student."""
    head = ["student", "compared with the baseline", "runs", "top-1, %", "baseline, %", "gain, points", "verdict"]
    return table(head, _contrasts(kept(), students()), {0, 1, 6})


def _contrasts(outcome: results.Results, labels: list[str]) -> list[list[str]]:
    rows = []
    for student in labels:
        for contrast in outcome.contrasts(student):
            cells = [outcome.row(point) for point in contrast.cells]
            runs = sum(cell["n"] for cell in cells if cell)
            gain = between(contrast.effect.value, *contrast.effect.interval())
            means = [percent(contrast.top1), percent(contrast.top1_against)]
            rows.append([outcome.called(student), contrast.name, str(runs), *means, gain, contrast.verdict])
    return rows


@cache
def pretrained() -> results.Results:
    """The records of the study whose students start from ImageNet weights."""
    return results.load(PRETRAINED)


def pretrained_setting() -> str:
    """What that study is, and how far."""
    outcome, ((label, spec),) = pretrained(), [(s.label, s) for s in pretrained().study.students]
    train, taught = outcome.study.training(spec, teacher=False), outcome.study.candidate(outcome.teacher.teacher)
    return paragraph(
        "The published students were pretrained, and those above were not. So a study of its own asks the same of a "
        f"student that starts from ImageNet weights: {outcome.called(label)} at {outcome.dataset['image_size']} px, "
        f"trained for {train.epochs} epochs, taught by {outcome.teacher_name} at {taught.input_size} px "
        f"({percent(outcome.teacher.metrics.top1_best, 1)} %). Its classes are the same, and its comparisons were "
        f"fixed before its first run. {_progress(outcome)}"
    )


def pretrained_contrasts() -> str:
    """Its contrasts."""
    head = ["student", "comparison", "runs", "top-1, %", "against, %", "difference, points", "verdict"]
    return table(head, _contrasts(pretrained(), pretrained().labels), {0, 1, 6})


def pretrained_summary() -> str:
    """Its contrasts with the baseline that came out better, in a sentence."""
    outcome, told = pretrained(), []
    for student in outcome.labels:
        for contrast in outcome.contrasts(student):
            if contrast.verdict == "better" and [p.alpha for p in contrast.against] == [1.0]:
                gain = between(contrast.effect.value, *contrast.effect.interval())
                (point,) = contrast.cells
                alone = ", where it learns from the teacher alone" if point.alpha == 0 else ""
                told.append(f"{gain} points at {point.words}{alone}")
    (student,) = outcome.labels
    if not told:
        raise ValueError(f"{PRETRAINED} has no clear gain; this sentence needs other words")
    return paragraph(
        f"In a study of its own, a student that starts from ImageNet weights ({outcome.called(student)}) gains as "
        f"well: {'; '.join(told)} ([findings](docs/findings.md#students-that-start-from-imagenet-weights))."
    )


def without_labels() -> str:
    """Whether a student learns from the teacher alone, at the published study's T: the published cells and ours."""
    rows = claims.published().query("student == 'shufflenet_v2_x1_0'")
    there: dict[tuple[float | None, float], float] = {
        (point.T, point.alpha): percent for point, percent in zip(rows.index, rows["val_acc_pct"], strict=True)
    }
    base, ours = there[None, 1.0], {point.T for point in pretrained().cells.index if point.alpha == 0}
    T = max(T for T, alpha in there if T is not None and alpha == 0 and (T, 0.5) in there and T in ours)
    parts = []
    for outcome in (kept(), pretrained()):
        for student in outcome.labels:
            row = outcome.row(results.Point.at(student, T, 0.0))
            if row is not None:
                gain = between(row["gain"], row["gain_low"], row["gain_high"])
                parts.append(f"{gain} ({outcome.called(student)} from {_start(outcome.study)}, n = {row['n']})")
    return paragraph(
        f"**Without labels** (alpha = 0) at T = {T:g}, the published ShuffleNetV2, a single run, is "
        f"{base - there[T, 0.0]:.2f} points below its baseline, and {there[T, 0.5] - there[T, 0.0]:.2f} below its cell "
        f"with alpha = 0.5. Ours gain over their baselines, in points: {'; '.join(parts)}."
    )


def spread() -> str:
    """How far runs of a cell lie apart, and what intervals are made of."""
    return f"{paragraph(_spread())}\n\n{paragraph(_pairs())}"


def _spread() -> str:
    told = []
    for student in students():
        model = kept().models[student]
        told.append(
            f"{percent(model.variance**0.5)} points for {kept().called(student)} ({model.freedom} degrees of freedom)"
        )
    return (
        "Runs of one cell differ by their seed alone. By a model of cell + seed + residual, fitted to all runs of a "
        f"student, the residual's standard deviation is {' and '.join(told)}. Gains, their intervals and the verdicts "
        "are by this model, with the choice of validation images on top. Verdicts are better, worse, same (within "
        f"{width(kept().study.margin)}, by two one-sided tests) or undecided; differences are corrected by Holm's "
        "method. A cell that lacks a seed is brought to the mean of all seeds, so the numbers of a table can be "
        "subtracted from each other."
    )


def _pairs() -> str:
    """How often two runs of one cell are called different by a test of two trained models."""
    told = []
    for student in students():
        rights: dict[results.Point, list] = {}
        for record in kept().students:
            if record.student == student:
                predictions = record.predictions
                rights.setdefault(results.Point.of(record.cell), []).append(
                    predictions["predicted"] == predictions["label"]
                )
        p = [stats.mcnemar(*pair) for runs in rights.values() for pair in itertools.combinations(runs, 2)]
        told.append(f"{sum(x < stats.LEVEL for x in p)} of {len(p)} ({kept().called(student)})")
    return (
        "Why not compare two trained models, as McNemar's test does? Among pairs of runs of one cell, it calls "
        f"{' and '.join(told)} different at {stats.LEVEL:g}: it tells models apart, not settings."
    )


def selected() -> str:
    """The caveat that a best cell is optimistic, with what becomes of a winner on a seed that it was not chosen by."""
    parts = []
    for student in students():
        chosen = kept().leave_a_seed_out(student)
        if chosen is not None:
            parts.append(
                f"from {points(chosen.before)} to {points(chosen.after)} points for {kept().called(student)} (the best "
                f"of {chosen.cells} cells, mean of {chosen.rounds} such seeds)"
            )
    return bullet(
        "**The highest cell's accuracy is optimistic.** Part of it is the luck of its seeds. To see how much, the best "
        "cell was chosen on all seeds but one, and then looked at on that one. There its gain changes "
        f"{' and '.join(parts)}. Held-out images do not remove this luck: they score the same trained models."
    )


def not_run() -> str:
    """The caveat that the published setting was not run."""
    counts, classes = kept().dataset["counts"], len(kept().dataset["classes"])
    published = load(PUBLISHED)
    of_published = published.data.classes or SOURCES[published.data.name].classes
    return bullet(
        f"**This is not the published setting.** It has {classes} classes and {counts['train']:,} training images, "
        f"and its students start from {_start(kept().study)}. The published setting has {of_published} classes, and "
        f"its students start from {_start(published)}. It is described in "
        f"[studies/{PUBLISHED}.yaml](studies/{PUBLISHED}.yaml); {_runs_of_published()}. The code for GPUs is "
        f"written; its speed {_measured_on_gpus()}."
    )


def _runs_of_published() -> str:
    published = load(PUBLISHED)
    done, planned = len(Shelf(published).students), len(published.cells())
    return f"{done} of its {planned} runs are done" if done else "it was not run"


def _measured_on_gpus() -> str:
    measured = any(measurement["machine"]["gpu"] for _, measurement in measurements())
    return "was measured" if measured else "was not measured"


def not_tried() -> str:
    """What nothing is known of by trying."""
    return bullet(
        f"**The published setting**: {_runs_of_published()}. **The code for GPUs**: its speed {_measured_on_gpus()}."
    )


def gpu_speed() -> str:
    """Whether a GPU is among the measurements."""
    return f"**Its speed {_measured_on_gpus()}.**"


def studies() -> str:
    """The studies of the repository, and how many of their runs are kept."""
    rows = []
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        study = load(path)
        classes = study.data.classes or SOURCES[study.data.name].classes or "all"
        runs = "–" if study.name == DEMO else str(len(Shelf(study).students))
        link = f"[{path.name}](../studies/{path.name})"
        of_students = ", ".join(names.of_model(student.model) for student in study.students)
        rows.append([link, names.of_data(study), str(classes), of_students, str(len(study.cells())), runs])
    return table(["study", "data", "classes", "students", "runs planned", "runs in git"], rows, {0, 1, 3})


def _start(study: Study) -> str:
    """What a study's students start from."""
    kinds = {"pretrained weights" if student.pretrained else "random weights" for student in study.students}
    return " or ".join(sorted(kinds))


def seen_views() -> str:
    """The caveat that the teacher was trained on views that one seed's students see."""
    study = kept().study
    seen = min(len(kept().teacher.history), study.view_count())
    shared = study.teacher.seed
    right: dict[bool, list[float]] = {True: [], False: []}
    for r in kept().students:
        if study.taught_by(r.cell) == "teacher":
            right[r.seed == shared].append(r.provenance.soft_targets_top1 or 0.0)
    others = " and ".join(str(s) for s in study.seeds if s != shared)
    return bullet(
        f"**Seed {shared} shares views with the teacher.** The teacher was trained on the first {seen} of the "
        f"{study.view_count()} views of seed {shared}. In the first view the teacher's soft targets name the "
        f"right class of {percent(mean(right[True]), 0)} % of the images in seed {shared}, and of "
        f"{percent(mean(right[False]), 0)} % in seeds {others}. A new study shares no views with its teacher, by "
        "default."
    )


def gains() -> str:
    """How many cells differ from the baseline, and what cannot be told apart."""
    lines = []
    for student in students():
        distilled = kept().distilled_of(student)
        counts = {name: list(distilled["verdict"]).count(name) for name in ("better", "worse", "same", "undecided")}
        told = ", ".join(f"{count or 'none'} {name}" for name, count in counts.items() if count or name != "same")
        among = list(kept().cells_of(student)["among_best"]).count(True)
        plateau = max(kept().contrasts(student), key=lambda contrast: len(contrast.cells))
        alike = "differ" if plateau.alike < stats.LEVEL else "cannot be told from each other"
        lines.append(
            bullet(
                f"**{kept().called(student)}**: of {len(distilled)} distilled cells, against the baseline: {told}. "
                f"The best one is among {among} cells, with 95 % confidence. The {len(plateau.cells)} cells with "
                f"{plateau.name} {alike} (F test, p = {p_value(plateau.alike)})."
            )
        )
    return "\n".join(lines)


def reading() -> str:
    """How to read the tables."""
    return paragraph(referring(sentences.how_to_read(kept(), "[by this model](#what-varies)"), mark=""))


def limits() -> str:
    """What the study cannot say."""
    return paragraph(sentences.limits(kept()).markdown)


def tried() -> str:
    """What tests and soak try, and what is promised."""
    soak = tries.soaked()
    head = ["what happens", "what is promised", "cases in the tests"]
    rows = [[what, promised, f"{tries.tried(row):,}"] for what, promised, row in tries.ROWS]
    kills = sum(soak["by_stage"].values())
    told = paragraph(
        f"The latest `make soak` that was kept ({soak['date']}, {soak['cores']} cores) killed a tiny study "
        f"{kills} times at random instants in {soak['minutes']:.0f} minutes: by {_counted(soak['by_signal'])}. At that "
        f"moment the command was in: {_counted(soak['by_stage'])}. Of two Ray nodes one went and returned. "
        f"{soak['compared']} studies were compared with one left alone; {soak['failures'] or 'none'} differed."
    )
    return f"{table(head, rows, 2)}\n\n{told}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def calibrated() -> str:
    """What drawn studies say of intervals and verdicts."""
    told = calibration.kept()
    head = ["runs", "gains", "contrasts", "spread of runs", "a false star", "a false same", "best in its set"]
    rows = []
    for design, shares in told["designs"].items():
        rows.append([design, *("–" if share is None else f"{percent(share, 1)} %" for share in shares.values())])
    about = paragraph(
        f"{told['studies']:,} studies of each kind were drawn by `make calibrate` from a model whose truth is known: "
        f"{calibration.CELLS} cells and a baseline, with runs and images that vary as they do in git. The columns are "
        "shares of 95 % intervals that hold the truth (of the gain of a cell, of a contrast of "
        f"{calibration.CELLS // 2} cells, of the standard deviation of runs of a cell), of studies without any gain in "
        "which some cell is called better or worse, of gains as large as the margin that are called the same, and of "
        "sets that hold the best cell. With one seed there are intervals over images alone, and no verdicts."
    )
    return f"{about}\n\n{table(head, rows)}"


def early_rankings() -> str:
    """How well the ranking of the grid's cells after some epochs tells the one in the end."""
    trains = [kept().study.training(student, teacher=False) for student in kept().study.students]
    ((total, every),) = {(train.epochs, train.eval_every) for train in trains}
    epochs = [every, *search.stages(total, every)[:-1]]
    rows = []
    for student in students():
        runs = [r for r in kept().students if (r.student, r.seed, r.method) == (student, 0, "kd") and r.T is not None]
        last = [r.score for r in runs]
        told: list[typing.Any] = [spearmanr([search.held_out(r.history, e) for r in runs], last) for e in epochs]
        rows.append([kept().called(student), str(len(runs)), *(f"{one.statistic:.2f}" for one in told)])
    return table(["student", "cells", *(f"epoch {e}" for e in epochs)], rows)


def cost() -> str:
    """What the runs took."""
    hours = sum(r.cost.train_seconds for r in kept().students)
    teachers = sum(r.cost.train_seconds for r in kept().teachers)
    (threads,) = {r.provenance.threads for r in (*kept().students, *kept().teachers)}
    return paragraph(
        f"The {len(kept().students)} runs took {duration(hours)} of training in all, each on {threads} CPU "
        f"thread{'s' * (threads > 1)}. The {len(kept().teachers)} teacher candidates took {duration(teachers)} before "
        "that."
    )


def claims_list() -> str:
    """What is claimed, by whom."""
    return "\n".join(bullet(f"{name}: {claim.says} ({claim.by})") for name, claim in claims.CLAIMS.items())


def unanswered() -> str:
    """The claims that need cells which were not run."""
    waiting = claims.unanswered(kept())
    methods_needed = sorted({method for claim in waiting for method in claim.needs})
    if not waiting:
        return "Each claim has data."
    return paragraph(
        f"Claims {', '.join(claim.name for claim in waiting)} have no data yet. They need cells of the methods "
        f"{', '.join(f'`{method}`' for method in methods_needed)}, which a study may name under `methods`."
    )


def of_report(make: Callable[[results.Results], Table | None]) -> Callable[[], str]:
    """A table of the report, with its caption below."""

    def block() -> str:
        shown = make(kept())
        if shown is None:
            return "*The study has none.*"
        texts = shown.formatted()
        left = {k for k, column in enumerate(shown.columns.values()) if not column.right}
        head, rows = list(texts.columns), texts.values.tolist()
        return f"{table(head, rows, left)}\n\n*{referring(shown.caption, mark='')}*"

    return block


# --- what is in a run's key


def key() -> str:
    """The settings that a student's key is the hash of."""
    study = kept().study
    cell = next(c for c in study.cells() if c.method != "kd")
    return paragraph(", ".join(f"`{name}`" for name in flat(student_settings(study, cell, "", ""))))


def provenance() -> str:
    """What a record says beside its settings and metrics: noted, and in no key."""
    in_key = {"threads", "precision"}  # noted again as they were used
    names = [name for name in records.Provenance.model_fields if name not in in_key]
    return paragraph(", ".join(f"`{name}`" for name in names))


def flat(values: dict, before: str = "") -> list[str]:
    """The names in nested mappings, with dots."""
    parts = [flat(v, f"{before}{k}.") if isinstance(v, dict) else [f"{before}{k}"] for k, v in values.items()]
    return [name for part in parts for name in part]


def columns() -> str:
    """The columns of results.csv."""
    return table(["column", "meaning"], [[f"`{k}`", v] for k, v in records.COLUMNS.items()], left=2)


# --- the keys of a study, from its pydantic schema and the comments beside the fields


# of keys whose name and type were thought to say enough in the code
MEANING = {
    "Study.title": "the report's title",
    "Study.data": "the images",
    "Study.augment": "the training views",
    "Study.train": "how models are trained",
    "Study.teacher": "the teacher candidates",
    "Study.students": "the students",
    "Study.grid": "the temperatures and weights",
    "Study.seeds": "of initial weights, order and views; each is a run of every cell",
    "Data.name": "the data set; folder: one folder of images for each class, in `train/` and `val/`",
    "Augment.crop": "none; shift: moved by some pixels; resized: a part of the image, enlarged",
    "Train.epochs": "passes over the training images; 0, of a candidate: it is judged as it is",
    "Train.batch_size": "images a step",
    "Train.optimizer": "of torch.optim; sgd has a Nesterov momentum of 0.9",
    "Train.lr": "learning rate, at the start where there is a schedule",
    "Train.weight_decay": "as the optimizer takes it",
    "Train.schedule": "of the learning rate",
    "Teacher.candidates": "the models of which the best one becomes the teacher",
    "Candidate.model": "as of a student; none in an ensemble and with logits",
    "Grid.T": "temperatures",
    "Grid.alpha": "weights of the cross-entropy; 1, the baseline, is always run",
    "ListedCell.T": "temperature",
    "Method.method": "the way to teach",
}


def study_keys() -> str:
    """A table for each part of a study file."""
    parts = []
    places_of = _models(Study)
    for model, places in places_of.items():
        names = model.keys()
        more = [base for base in model.__bases__ if base in places_of]  # the keys that it shares stand there
        names = [n for n in names if not more or n in model.__annotations__]
        said = _comments(model)
        rows = []
        for name in names:
            field = model.model_fields[name]
            kind = _kind(field.annotation, field.metadata)
            if inner := _inside(field.annotation):
                part = _title(inner[0], places_of[inner[0]])
                slug = re.sub(r"[^a-z0-9 _-]", "", part.lower()).replace(" ", "-")
                kind = f"[{kind}](#{slug})"
            meaning = said.get(name) or MEANING.get(f"{model.__name__}.{name}", "")
            rows.append([f"`{name}`", kind, _default(field), meaning])
        title = _title(model, places)
        about = " ".join(inspect.cleandoc(model.__doc__ or "").split())
        about += "".join(f" The keys of `{place}`, and:" for base in more for place in places_of[base])
        parts.append(
            f"## {title}\n\n{paragraph(about)}\n\n" + table(["key", "value", "default", "meaning"], rows, left=4)
        )
    return "\n\n".join(parts)


TAUGHT_BY = {
    "": "nobody",
    "teacher": "the teacher",
    "self": "its own baseline",
    "early": "the teacher after one epoch",
    "random": "random weights",
}


def ways_to_teach() -> str:
    """The rows of methods.py that a study may name."""
    rows = []
    for row in methods.FURTHER.values():
        weights = ", ".join(f"`{name}`: {value:g}" for name, value in row.weights.items()) or "–"
        who = TAUGHT_BY[row.taught_by]
        rows.append([f"`{row.name}`", row.about, who, "yes" if row.temperature else "no", weights, row.cited or "–"])
    return table(["method", "what it does", "taught by", "T", "weights", "source"], rows, left=6)


def data_sets() -> str:
    """The rows of sources.py."""
    rows = []
    for row in SOURCES.values():
        size = f" ({row.download.bytes / 1e6:.0f} MB)" if row.download else ""
        where = {
            "none": "–",
            "optional": f"{row.given}: `--source` or `data.source`; else downloaded{size}",
            "required": f"{row.given}: `data.source`",
        }[row.path]
        shown = "yes" if row.shown else "no"
        rows.append([f"`{row.name}`", _holds(row), where, row.licence, shown, row.cited or "–"])
    return table(["data.name", "what it holds", "where it lies", "licence", "shown in reports", "source"], rows, left=6)


def _holds(row: Source) -> str:
    if row.classes is None:
        return row.about
    return f"{row.about}; {row.classes} classes, {row.train} images each to train on, {row.val} for val"


def export_limits() -> str:
    """By what an exported model is calibrated and judged."""
    from kd_utils.learning import export  # which loads torch

    off, lost = width(100 * export.MOST_OFF), width(100 * export.MOST_LOST)
    return paragraph(
        f"The ranges of an int8 version are taken from {export.CALIBRATION} training images. Each ONNX file classifies "
        f"all validation images in ONNX Runtime. A file that is more than {off} of top-1 off PyTorch is not written. "
        f"An int8 version that loses more than {lost} is written, with a warning."
    )


def _title(model: type[Section], places: list[str]) -> str:
    return "The file" if model is Study else " and ".join(f"`{p}`" for p in places)


def _models(model: type[Section], place: str = "", known: dict | None = None) -> dict[type[Section], list[str]]:
    known = {} if known is None else known
    known.setdefault(model, []).append(place)
    for name, field in model.model_fields.items():
        for inner in _inside(field.annotation):
            _models(inner, f"{place}.{name}".lstrip("."), known)
    return known


def _inside(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [m for a in typing.get_args(annotation) for m in _inside(a)]


def _kind(annotation: Any, limits: typing.Sequence[Any] = ()) -> str:
    """A type and its limits, as someone who writes YAML would say it."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0], [*args[1:], *limits])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(a, limits) for a in args if a is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin is tuple:
        return f"[{'; '.join(map(_kind, args))}]"
    if origin is list:
        return f"list: {_kind(args[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "mapping"
    words = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", typing.Any: "any"}
    return words.get(annotation, str(annotation)) + (_limits(limits) if annotation in (int, float) else "")


def _limits(metadata: typing.Sequence) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    inner = [x for m in metadata for x in (m.metadata if isinstance(m, FieldInfo) else [m])]
    said = [f"{sign} {getattr(m, name):,.10g}" for m in inner for name, sign in signs.items() if hasattr(m, name)]
    return f", {' and '.join(said)}" if said else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section) or value is None or value in ("", [], {}):
        return "–"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _comments(model: type[Section]) -> dict[str, str]:
    """The comment beside each field of a class."""
    source = textwrap.dedent(inspect.getsource(model))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    notes = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    fields = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign))
    return {ast.unparse(node.target): notes.get(node.end_lineno or 0, "") for node in fields}


# --- speed, from the JSON of `make bench`


def measurements() -> list[tuple[Path, dict[str, Any]]]:
    """The measurements that are kept, latest first."""
    kept = sorted((ROOT / "benchmarks" / "results").glob("*.json"), reverse=True)
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in kept]


def speed() -> str:
    """A table for each measurement that is kept."""
    parts = []
    for path, told in measurements():
        machine, asked = told["machine"], told["asked"]
        flags = f" with {', '.join(machine['flags'])}" if machine["flags"] else ""
        about = (
            f"**{machine['gpu'] or machine['cpu']}**, {machine['cores']} cores{flags}, {told['date']}, torch "
            f"{told['versions']['torch']}: medians of {asked['rounds']} rounds of {asked['batches']} batches of "
            f"{asked['batch_size']}, {asked['classes']} classes at {asked['size']} px, teacher `{asked['teacher']}` "
            f"([{path.name}](../benchmarks/results/{path.name}))."
        )
        rows = []
        for name, measured in told["students"].items():
            rates = measured["images_per_second"]
            pairs = [("step", "floor"), ("step", "plain"), ("grid", "plain"), ("grid", "step")]
            ratios = [median(x / y for x, y in zip(rates[a], rates[b], strict=True)) for a, b in pairs]
            parts_of = [f"{median(rates[k]):.0f}" for k in ("floor", "step", "plain", "grid")]
            rows.append([_student(name), *parts_of, *(f"{r:.2f}" for r in ratios), str(measured["private_mib"])])
        head = ["student", "floor", "step", "plain loop", "grid", "step / floor", "step / plain", "grid / plain"]
        runs = [r for measured in told["students"].values() for r in measured["images_per_second"].values()]
        spread = max((max(r) - min(r)) / median(r) for r in runs)
        below = f"Between rounds, a rate differs by up to {percent(spread, 0)} % of its median."
        parts.append(f"{paragraph(about)}\n\n{table([*head, 'grid / step', 'memory, MiB'], rows)}\n\n{below}")
    return "\n\n".join(parts) or "No measurement is kept yet."


def demo() -> str:
    """What `make demo` took when it was last measured."""
    told = json.loads((ROOT / "docs" / "demo.json").read_text(encoding="utf-8"))
    machine, took = told["machine"], {stage: duration(seconds) for stage, seconds in told["seconds"].items()}
    flags = ", ".join(flag.upper() for flag in machine["flags"])
    untimed = [told for flag, told in (("avx512f", "AVX-512"), ("amx_tile", "AMX")) if flag not in machine["flags"]]
    return paragraph(
        f"On {machine['cores']} cores ({machine['cpu']} with {flags}{' alone' * (len(machine['flags']) == 1)}, "
        f"{told['date']}) the installation took {took['installation']} and the demo {took['demo']}: teachers "
        f"{took['teachers']}, {len(load(DEMO).cells())} cells {took['cells']}, the report {took['report']}."
        + (f" It was not timed with {' or '.join(untimed)}." if untimed else "")
    )


def _student(name: str) -> str:
    model, _, option = name.partition("+")
    options = {"": "", "compile": ", `compile: true`", "bf16": ", `precision: bf16`"}
    return names.of_model(model) + options[option]


# --- other code's weights of cross-entropy and KL divergence -> our alpha


def converted(ce: float, kl: float) -> float:
    """Our alpha for the loss ce * CE + kl * T^2 * KL, KL summed over classes: ours times the factor ce + kl."""
    return ce / (ce + kl)


# name -> the weights (of CE, of T^2 KL) that a code base's settings amount to. N: classes, T: temperature.
WEIGHTS: dict[str, Callable[..., tuple[float, float]]] = {
    "sum": lambda ce, kl, N, T: (ce, kl),
    "no T^2": lambda ce, kl, N, T: (ce, kl / T**2),
    "mean over classes": lambda ce, kl, N, T: (ce, kl / N),
    "mean over classes, no T^2": lambda ce, kl, N, T: (ce, kl / (N * T**2)),
    "squared error of probabilities, large T": lambda ce, kl, N, T: (ce, 2 * kl / N**2),
}
EXAMPLES = [
    ("RepDistiller, `-r 0.1 -a 0.9`", "sum", 0.1, 0.9, 100, 4.0),
    ("RepDistiller, `-a 0.9`, `-r` left at 1", "sum", 1.0, 0.9, 100, 4.0),
    ("mdistiller, default KD weights", "sum", 0.1, 0.9, 100, 4.0),
    ("timm, no weight given", "sum", 1.0, 1.0, 1000, 1.0),
    ("`nn.KLDivLoss()` as it is, T² kept, a = 0.5", "mean over classes", 0.5, 0.5, 100, 4.0),
    ("`nn.KLDivLoss()` as it is, T² kept, a = 0.9", "mean over classes", 0.1, 0.9, 100, 4.0),
    ("`nn.KLDivLoss()` as it is, no T², a = 0.9", "mean over classes, no T^2", 0.1, 0.9, 100, 4.0),
    ("`batchmean`, no T², a = 0.9", "no T^2", 0.1, 0.9, 100, 4.0),
    ("KD_Lib, defaults (approximate)", "squared error of probabilities, large T", 0.5, 0.5, 100, 20.0),
]


def conversions() -> str:
    """Our alpha for some settings elsewhere."""
    rows = []
    for what, kind, ce, kl, N, T in EXAMPLES:
        rows.append([what, f"{ce:g}", f"{kl:g}", str(N), f"{T:g}", f"{converted(*WEIGHTS[kind](ce, kl, N, T)):.4f}"])
    head = ["code and settings", "their weight of CE", "their weight of the KL term", "N", "T", "our alpha"]
    return table(head, rows)


# --- Markdown


def table(head: list[str], rows: list[list[str]], left: int | set[int] = 1) -> str:
    """A Markdown table; the first `left` columns, or those numbered in it, are aligned left."""
    left = set(range(left)) if isinstance(left, int) else left
    line = "|" + "|".join("---" if k in left else "---:" for k in range(len(head))) + "|"
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", line, *body])


def paragraph(text: str) -> str:
    """Text in lines of at most WIDTH characters."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def bullet(text: str) -> str:
    """An item of a list, in lines of at most WIDTH characters."""
    return textwrap.fill(f"- {text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


BLOCKS: dict[str, Callable[[], str]] = {
    "setting": setting,
    "summary": summary,
    "spread": spread,
    "selected": selected,
    "not-run": not_run,
    "not-tried": not_tried,
    "gpu-speed": gpu_speed,
    "studies": studies,
    "seen-views": seen_views,
    "gains": gains,
    "pretrained-summary": pretrained_summary,
    "pretrained-setting": pretrained_setting,
    "pretrained-contrasts": pretrained_contrasts,
    "without-labels": without_labels,
    "early-rankings": early_rankings,
    "reading": reading,
    "limits": limits,
    "calibrated": calibrated,
    "tried": tried,
    "cost": cost,
    "teachers": of_report(tables.leaderboard),
    "claims-list": claims_list,
    "unanswered": unanswered,
    "claims": of_report(tables.verdicts),
    "choice": of_report(tables.choice),
    "further": of_report(tables.further),
    "cost-table": of_report(tables.cost),
    **{f"grid-{s}": of_report(lambda r, s=s: tables.grid(r, s)) for s in STUDENTS},
    "key": key,
    "provenance": provenance,
    "columns": columns,
    "study-keys": study_keys,
    "ways-to-teach": ways_to_teach,
    "data-sets": data_sets,
    "export-limits": export_limits,
    "speed": speed,
    "demo": demo,
    "conversions": conversions,
}


def main() -> int:
    """Write the pages, or with --check say which ones are out of date."""
    os.environ.pop("KD_ROOT", None)  # the records are the checkout's
    check = "--check" in sys.argv[1:]
    old = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            old.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in old:
        print(f"{path}: {'out of date; run: make docs' if check else 'written'}")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
