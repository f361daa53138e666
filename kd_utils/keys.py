"""What the outcome of a run depends on, and the run's key, which is the hash of that.

`teacher_settings` and `student_settings` gather it for one run. A record answers a study if and only if the keys are
equal. A file that a model is made of counts by the hash of its content. Loads no torch.
"""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from . import files, paths
from .cells import Cell
from .schema import Candidate, Model, Train
from .study import Study
from .validation import StudyError


def teacher_settings(study: Study, candidate: Model, fingerprint: str) -> dict[str, Any]:
    """All that the outcome of a teacher depends on."""
    return {
        "kind": "teacher",
        **_common(study, candidate, study.training(candidate, teacher=True), study.teacher.seed, fingerprint),
    }


def student_settings(study: Study, cell: Cell, fingerprint: str, teacher_sha256: str) -> dict[str, Any]:
    """All that a cell's outcome depends on; the teacher by its weights (the baseline too: `agreement` needs it)."""
    model = study.student(cell.student)
    settings = {
        "kind": "student",
        **_common(study, model, study.training(model, teacher=False), cell.seed, fingerprint),
        "T": cell.T,
        "alpha": cell.alpha,
        "teacher_sha256": teacher_sha256,
    }
    if cell.method != "kd":
        method = study.method(cell.method)
        settings["method"] = {"method": method.method, **method.weights}
    return settings


def _common(study: Study, model: Model, train: Train, seed: int, fingerprint: str) -> dict[str, Any]:
    settings = {
        "data": fingerprint,
        "augment": study.augment.settings(),
        "views": study.views,
        "model": _architecture(study, model, fingerprint),
        "train": train.settings(),
        "seed": seed,
        "threads": study.threads_of(model),
        "precision": study.precision_of(model),
    }
    return settings | ({"data_parallel": study.data_parallel} if study.data_parallel > 1 else {})


def _architecture(study: Study, model: Model, fingerprint: str) -> dict[str, Any]:
    """What a model is and starts from; an ensemble by its members' keys. fingerprint: of the data."""
    if isinstance(model, Candidate) and model.ensemble:
        members = [teacher_settings(study, study.candidate(member), fingerprint) for member in model.ensemble]
        return {"ensemble": [key(member) for member in members]}
    if isinstance(model, Candidate) and model.logits:
        return {"logits": _content(study, model, "logits", model.logits)}
    pretrained = model.pretrained
    if isinstance(pretrained, str):
        pretrained = _content(study, model, "pretrained", pretrained)
    settings = model.model_dump(include={"model", "input_size"}) | {"pretrained": pretrained}
    if model.code:
        settings |= {"model": model.function, "code": _content(study, model, "model", str(model.code))}
    settings |= {"stem": model.stem} if model.stem != "default" else {}
    settings |= {"compile": True} if model.compile else {}
    return settings | {name: value for name in ("mean", "std") if (value := getattr(model, name)) is not None}


def _content(study: Study, model: Model, what: str, file: str) -> dict[str, str]:
    """A file that a model is made of, by the hash of its content, which is noted beside the results for clones."""
    path = Path(file)
    noted = noted_files(study)
    here = files.sha256(path) if path.is_file() else None
    known = here or next((noted[name] for name in noted_names(study, path) if name in noted), None)
    if known is None:
        hint = f"; `kd data {study.name} --list` prints the images in their order" if what == "logits" else ""
        raise StudyError(f"{what} of {model.label}: there is no file {path}{hint}")
    return {"sha256": known}


def noted_names(study: Study, path: Path) -> list[str]:
    """How a file that models are made of is noted: by its path from the study file, with '/'.

    One outside the root is noted by its full path too, which stays what a study file names where the root is moved.
    """
    relative = Path(os.path.relpath(path, Path(study.file).parent if study.file else None)).as_posix()
    return [relative] if path.is_relative_to(paths.root()) else [relative, path.as_posix()]


def noted_files(study: Study) -> dict[str, str]:
    """The SHA-256 of files that models are made of, as noted beside the results: a clone may not have them."""
    path = paths.results(study.name) / paths.DATA
    try:
        about = path.stat()
    except OSError:
        return {}
    return _noted_files(path, about.st_size, about.st_mtime_ns)


@cache
def _noted_files(path: Path, size: int, changed: int) -> dict[str, str]:
    return (files.read_json(path, pretrained=dict) or {}).get("pretrained", {})


def key(settings: dict[str, Any]) -> str:
    """A run's key: the hash of its settings, which are all that its metrics depend on.

    Keys call fp32 'auto', as the first records did: that was what 'auto' came to on a CPU.
    """
    return digest({**settings, "precision": "auto"} if settings["precision"] == "fp32" else settings)


def digest(value: dict[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 of a value in canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
