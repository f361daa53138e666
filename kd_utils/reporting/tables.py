"""Results -> the tables of the report. Accuracies are shown in percent, gains in percentage points. Loads no torch.

± is half the width of a 95 % interval.
"""

import hashlib
from pathlib import Path

import pandas as pd

from .. import paths
from ..records import Record
from . import claims, stats
from .results import LEAST_P, Results, key, published
from .shown import Table, duration, half, p_value, percent, point, points, signed, temperature


def leaderboard(results: Results) -> Table:
    """The teacher candidates, best first."""
    rows = [
        {
            "": str(rank),
            "Candidate": r["teacher"],
            "Weights from": r["provenance"]["weights_from"],
            "Parameters, M": f"{r['provenance']['parameters'] / 1e6:.2f}",
            "Input, px": str(r["settings"]["model"]["input_size"] or results.dataset["image_size"]),
            "Top-1, %": percent(r.metrics["top1_best"]),
            "NLL": f"{r.metrics['nll']:.3f}",
            "Epochs": str(r.metrics["epochs"]),
            "Training, s": f"{r['cost']['train_seconds']:.0f}",
        }
        for rank, r in enumerate(results.teachers, 1)
    ]
    chosen = "held-out training images" if results.dataset["counts"]["holdout"] else "the validation images"
    caption = f"The teacher candidates, ranked by their accuracy on {chosen}. The first is the teacher."
    return Table(pd.DataFrame(rows), caption, "teachers")


def summary(results: Results, student: str, most: int = 3) -> Table:
    """The best and the worst cells of a student, the standard cell and the baseline."""
    ranked = results.of(student)
    distilled = ranked.dropna(subset="T")
    roles = results.roles(student)
    parts = [
        ("best", distilled.head(most).to_dict("records")),
        ("worst", distilled.iloc[most:].tail(most).to_dict("records")),
        *((role, [roles[role].to_dict()]) for role in ("standard", "baseline") if role in roles),
    ]
    rows = [{"Role": role, **_row(cell)} for role, cells in parts for cell in cells]
    caption = f"{student}: the best and the worst cells, the standard cell and the baseline. {_reading(results)}"
    return Table(pd.DataFrame(rows), caption, f"summary-{student}")


def grid(results: Results, student: str) -> Table:
    """Every cell of a student, best first."""
    rows = [_row(cell) | _more(cell) for cell in results.of(student).to_dict("records")]
    frame = pd.DataFrame(rows)
    if not results.dataset["counts"]["holdout"]:
        frame = frame.drop(columns="Held-out, %")
    return Table(
        frame,
        f"{student}: every cell, best first; s: seconds of training, a run. {_reading(results)}",
        f"grid-{student}",
    )


def further(results: Results) -> Table | None:
    """The cells of further methods beside plain distillation at the same T and alpha; None where there are none."""
    rows = []
    for student in results.labels:
        cells = results.further(student).to_dict("records")
        plain = [results.cell(student, c["T"], c["alpha"]) for c in cells]
        beside = {key(c): c.to_dict() for c in plain if c is not None}
        baseline = results.roles(student).get("baseline") if cells else None
        extra = [*beside.values(), *([] if baseline is None else [baseline.to_dict()])]
        for cell in [*cells, *extra]:
            name = "baseline" if pd.isna(cell["T"]) else cell["method"]
            rows.append({"Student": student, "Method": name, **_row(cell)})
    if not rows:
        return None
    caption = (
        "Further methods, plain distillation (kd) at the same points, and the baseline. `self` learns from the "
        "student's own baseline and `label_smoothing` from nobody: what they gain is not the teacher's doing."
    )
    return Table(pd.DataFrame(rows), caption, "further")


def _row(cell: dict) -> dict:
    return {
        "T": temperature(cell["T"]),
        "alpha": f"{cell['alpha']:g}",
        "Top-1, %": percent(cell["top1_best"]) + half(cell["low"], cell["high"]) + (" =" if cell["tied"] else ""),
        "Gain": points(cell["gain"]) + ("" if pd.isna(cell["T"]) else half(cell["gain_low"], cell["gain_high"])),
        "p": p_value(cell["p_holm"]),
        "Last, %": percent(cell["top1_last"]),
        "NLL": f"{cell['nll']:.3f}",
        "ECE": f"{cell['ece']:.3f}",
        "Agree, %": percent(cell["agreement"], 1),
        "n": str(cell["n"]),
    }


def _more(cell: dict) -> dict:
    return {
        "Top-5, %": percent(cell["top5"], 1),
        "Held-out, %": percent(cell["top1_holdout"], 1),
        "s": f"{cell['train_seconds']:.0f}",
        "Images/s": f"{cell['images_per_second']:.0f}",
    }


def _reading(results: Results) -> str:
    """How to read a table of cells."""
    several = results.cells["n"].max() > 1
    varies = "images and seeds" if several else "images (one seed: not what another seed would do)"
    test = "a paired bootstrap, or McNemar's exact test where n = 1" if several else "McNemar's exact test"
    uneven = results.cells["n"].min() < results.cells["n"].max()
    shared = ", and a cell is compared with another over the seeds that both have" if uneven else ""
    return (
        f"± is a 95 % interval over {varies}; p is against the baseline, of {test}, Holm-corrected; = marks cells that "
        f"cannot be told from the best (corrected p of at least {LEAST_P:g}); n is the number of seeds{shared}."
    )


def choice(results: Results) -> Table | None:
    """T and alpha chosen on held-out images, and what that costs on val; None where the study holds nothing out."""
    rows = []
    for student in results.labels:
        chosen, best = results.chosen(student), results.of(student).iloc[0]
        if chosen is None:
            continue
        price = points(chosen["top1_best"] - best["top1_best"])
        if key(chosen) != key(best):
            price += half(*stats.interval(results.bootstrap.difference(key(chosen), key(best))))
        rows.append(
            {
                "Student": student,
                "Chosen on held-out": point(chosen),
                "Held-out, %": percent(chosen["top1_holdout"]),
                "Val, %": percent(chosen["top1_best"]) + half(chosen["low"], chosen["high"]),
                "Best on val": point(best),
                "Its val, %": percent(best["top1_best"]),
                "Price": price,
            }
        )
    if not rows:
        return None
    caption = (
        "The cell that would be chosen on held-out training images, which val has no part in, and its price: how far "
        "it stays behind the cell that happens to be best on val."
    )
    return Table(pd.DataFrame(rows), caption, "choice")


def verdicts(results: Results) -> Table:
    """The published study's claims, put to our records and to its own rows."""
    rows = []
    for v in claims.verdicts(results):
        shown = {"gamma": signed, "gain": points, "gap": percent}[v.statistic]
        figure = "–" if v.answer == "no data" else f"{shown(v.value)} [{shown(v.low)}, {shown(v.high)}]"
        rows.append(
            {
                "Claim": v.claim,
                "Student": v.student,
                "Figures": v.source,
                "Statistic": v.statistic,
                "Value [95 %]": figure,
                "Basis": v.basis,
                "Verdict": v.answer,
            }
        )
    alone = "" if results.cells["n"].max() > 1 else " Here each cell has one seed, and intervals are over images alone."
    caption = (
        "The claims, put to our records (here) and to the published rows. gamma: Goodman and Kruskal's, of all pairs "
        "of cells that differ in that one setting, how many more agree with the claim than not; gain: accuracy less "
        f"the baseline's, in points; gap: points between two runs of a cell.{alone} For the published rows, single "
        "runs without predictions, the interval is what other images alone would have done."
    )
    return Table(pd.DataFrame(rows), caption, "claims")


def cost(results: Results) -> Table:
    """What the cells took, and what storing the soft targets saved."""
    teacher = results.teacher["cost"]["inference_images_per_second"]
    count, study = results.dataset["counts"]["train"], results.study
    seeds = len({r["seed"] for r in results.students})
    rows = []
    for student in results.labels:
        runs = results.runs[results.runs["student"] == student]
        taught = [r for r in results.students if r["student"] == student and study.taught_by(r.cell) == "teacher"]
        live = sum(r.metrics["epochs"] for r in taught) * count  # images that a live teacher would have classified
        rows.append(
            {
                "Student": student,
                "Runs": str(len(runs)),
                "Seconds a run": f"{runs['train_seconds'].median():.0f}",
                "Images/s": f"{runs['images_per_second'].median():,.0f}",
                "All runs": duration(runs["train_seconds"].sum()),
                "Teacher live": duration(live / teacher),
            }
        )
    views = study.view_count() * seeds
    caption = (
        "Cost: medians and sums of training alone, each run beside others on the machine. Teacher live: what its "
        f"forward passes would have taken in these runs, at its own measured pace; the stored soft targets took "
        f"{duration(views * count / teacher)} for {views} views, once for all."
    )
    return Table(pd.DataFrame(rows), caption, "cost")


def beside_published(results: Results) -> Table:
    """The published rows beside ours, where our grid has the same student, T and alpha."""
    rows = []
    for student, own in published().groupby("student", sort=False):
        base = own.loc[own["role"] == "baseline", "val_acc_pct"].iloc[0] / 100
        for row in own.to_dict("records"):
            ours = results.cell(student, None if pd.isna(row["T"]) else row["T"], row["alpha"])
            rows.append(
                {
                    "Student": student,
                    "Role there": row["role"],
                    "T": temperature(row["T"]),
                    "alpha": f"{row['alpha']:g}",
                    "Published, %": percent(row["val_acc_pct"] / 100),
                    "Gain there": points(row["val_acc_pct"] / 100 - base),
                    "Here, %": "–" if ours is None else percent(ours["top1_best"]),
                    "Gain here": "–" if ours is None else points(ours["gain"]),
                }
            )
    caption = (
        "The published figures (TinyImageNet-200, pretrained students) beside those of this study "
        f"({results.study.data.name}, {len(results.dataset['classes'])} classes). A dash: not in this grid."
    )
    return Table(pd.DataFrame(rows), caption, "published")


def runs(results: Results) -> Table:
    """Every record that the report rests on, numbered."""
    rows = [
        {
            "No.": number,
            "Record": r.id,
            "Commit": r["provenance"]["git"] or "–",
            "Finished": r["provenance"]["finished"][:16].replace("T", " "),
            "Device": f"{r['provenance']['device']}, {r['provenance']['precision']}",
        }
        for number, r in _numbered(results).items()
    ]
    caption = "The records, by their folders' names. A + after a commit: files of the project differed from it."
    return Table(pd.DataFrame(rows), caption, "records")


def sources(results: Results) -> dict[str, list[Record]]:
    """The records that each figure and table of the report is made from, by its label."""
    grid = [r for r in results.students if r.method == "kd"]
    roles = {s: results.roles(s) for s in results.labels}

    def of(*names: str, first: bool = False) -> list[Record]:
        found = [results.records_of(own[n]) for own in roles.values() for n in names if n in own]
        return [r for runs in found for r in (runs[:1] if first else runs)]

    shown = {"tbl-teachers": results.teachers}
    shown |= dict.fromkeys(["fig-accuracy", "fig-gain", "fig-temperature"], grid)
    for s in results.labels:
        shown[f"tbl-summary-{s}"] = [r for r in grid if r["student"] == s]
    if choice(results) is not None:
        shown["tbl-choice"] = grid
    shown |= {"tbl-claims": grid, "tbl-published": grid}
    shown["fig-softened"] = [results.teacher, *of("best", first=True)[:1]]
    shown |= {"fig-mix": grid, "fig-learning": of("best", "standard", "worst", "baseline", first=True)}
    shown |= {"fig-agreement": grid, "fig-calibration": of("best", "standard", "baseline")}
    shown["fig-classes"] = of("best", "standard", "baseline")
    if further(results) is not None:
        shown["tbl-further"] = results.students
    shown["tbl-cost"] = [results.teacher, *results.students]
    for s in results.labels:
        shown[f"tbl-grid-{s}"] = [r for r in grid if r["student"] == s]
    return shown


def provenance(results: Results) -> Table:
    """What each figure and table is made from: records, study file, data, versions."""
    numbers = {r.id: number for number, r in _numbered(results).items()}
    rows = [
        {"Shown": f"@{label}", "Records": _runs_of([numbers[r.id] for r in own])}
        for label, own in sources(results).items()
    ]
    study = Path(results.study.file)
    digest = hashlib.sha256(study.read_bytes()).hexdigest()[:12]
    versions = sorted({f"{k} {v}" for r in results.students for k, v in r["provenance"]["versions"].items()})
    caption = (
        f"What each figure and table is made from: records by their numbers in @tbl-records. Study file: "
        f"{paths.shown(study)}, SHA-256 {digest}. Data: fingerprint {results.dataset['fingerprint'][:12]}. "
        f"Versions: {', '.join(versions)}."
    )
    return Table(pd.DataFrame(rows), caption, "provenance")


def _numbered(results: Results) -> dict[str, Record]:
    """T1, T2, ... the teachers, best first; R1, R2, ... the runs, sorted as results.csv is."""
    teachers = {f"T{k}": r for k, r in enumerate(results.teachers, 1)}
    return teachers | {f"R{k}": r for k, r in enumerate(results.students, 1)}


def _runs_of(numbers: list[str]) -> str:
    """R1, R2, R3, R7 as 'R1–R3, R7'."""
    parts: list[list[str]] = []
    for number in sorted(set(numbers), key=lambda x: (x[0] != "T", int(x[1:]))):
        last = parts[-1][-1] if parts else None
        if last and last[0] == number[0] and int(number[1:]) == int(last[1:]) + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(p[0] if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in parts)
