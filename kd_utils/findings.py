"""Results -> the sentences of the report. No figure in them is typed: each is computed from records."""

from . import tables
from .display import Front, Text
from .tables import Results


def front(results: Results) -> Front:
    """Title, subtitle and abstract."""
    study, noted = results.study, results.dataset
    counts = noted["counts"]
    lines = [
        f"We distil a {results.teacher['teacher']} teacher ({results.teacher.metrics['top1_best']:.2%} top-1, the best "
        f"of {len(results.teachers)} candidates) into {_join(results.labels)} at {len(study.grid.T)} temperatures "
        f"and {len(study.grid.alpha)} weights of the cross-entropy, on {study.data.name} with "
        f"{len(noted['classes'])} classes, {counts['train']:,} training and {counts['val']:,} validation images."
    ]
    for student in results.labels:
        ranked = results.of(student)
        distilled, base = ranked.dropna(subset="T"), ranked[ranked["T"].isna()]
        if len(distilled) and len(base):
            best, worst, base = distilled.iloc[0], distilled.iloc[-1], base.iloc[0]
            lines.append(
                f"{student} gains {tables.points(best['gain'])} points over its baseline of {base['top1_best']:.2%} "
                f"at T = {best['T']:g}, alpha = {best['alpha']:g}; its worst cell, T = {worst['T']:g} and "
                f"alpha = {worst['alpha']:g}, differs from the baseline by {tables.points(worst['gain'])}."
            )
    planned = len(study.cells())
    done = len(results.students)
    if done < planned:
        lines.append(f"This report is of an unfinished study: {done} of {planned} runs are done.")
    subtitle = f"Study {study.name}"
    return Front(study.title, subtitle, " ".join(lines))


def setting(results: Results) -> Text:
    """What was done, in words."""
    study, noted = results.study, results.dataset
    counts = noted["counts"]
    chosen = "held-out training images" if counts["holdout"] else "the validation images themselves"
    train = {s.label: study.training(s, teacher=False) for s in study.students}
    how = _join(
        [
            f"{label} for {t.epochs} epochs ({t.optimizer.capitalize()}, learning rate {t.lr:g}, batch size "
            f"{t.batch_size}, {t.schedule} schedule)"
            for label, t in train.items()
        ]
    )
    seeds = f"{len(study.seeds)} seeds a cell" if len(study.seeds) > 1 else "one seed a cell"
    augment = study.augment
    crop = {
        "none": "no crop",
        "shift": f"a shift of up to {augment.shift} pixels",
        "resized": f"a resized crop of at least {augment.scale:.0%} of the area",
    }[augment.crop]
    flip = "a left-right flip with probability one half and " if augment.flip else ""
    views = study.view_count()
    return Text(
        f"Images of {noted['image_size']} px: {counts['train']:,} for training, {counts['val']:,} for validation"
        + (f", {counts['holdout']:,} held out of the training images" if counts["holdout"] else "")
        + f". We train {how}, with {seeds}. The view of an image is {flip}{crop}, a pure function of the seed, the "
        f"epoch and the image's index; the teacher's logits for {views} views a seed were computed once and "
        f"serve every cell. The best epoch is chosen on {chosen}.\n"
    )


def _join(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
