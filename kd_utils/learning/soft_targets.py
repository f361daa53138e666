"""The teacher's logits, a view at a time, on disk: computed once, they serve every T, alpha, student and process.

A store is bound to what its logits depend on: the teacher's weights and input, the data's fingerprint, the
augmentation and the seed of the views. The hash of that names the folder, and binding.json in it says it in full.
A note beside each view says which view of which store it is, and the SHA-256 of its file; it is compared once a
process, when the view is first read. A view without such a note is computed again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock

from .. import files, paths
from ..keys import digest
from ..study import Study
from .data import Dataset


class SoftTargetsError(ValueError):
    """Soft targets that are missing, damaged or of something else; the message names the file and what to do."""


class TeacherIdentity(Protocol):
    """What soft targets are of: the record of a run, or a plan that stands for weights which are not trained."""

    @property
    def weights_sha256(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...


def _binding(study: Study, seed: int, teacher: TeacherIdentity, fingerprint: str) -> dict:
    return {
        "teacher_sha256": teacher.weights_sha256,
        "teacher_model": teacher.settings["model"],
        "data": fingerprint,
        "augment": study.augment.settings(),
        "seed": seed,
    }


def views_missing(study: Study, seed: int, teacher: TeacherIdentity, fingerprint: str) -> int:
    """How many of the study's views of this seed have no soft targets; fingerprint: the data's."""
    folder = paths.soft_targets(digest(_binding(study, seed, teacher, fingerprint)))
    return sum(not paths.view_file(folder, view).is_file() for view in range(study.view_count()))


class SoftTargets:
    """Logits of one teacher for the views of one training set: a file a view, (n, classes) float16.

    binding: what the logits depend on, JSON-able.
    """

    def __init__(self, binding: dict, n: int, classes: int) -> None:
        self.binding = binding
        self.shape = (n, classes)
        self.folder = paths.soft_targets(digest(binding))
        path = self.folder / paths.BINDING
        stored = files.read_json(path)
        if stored is None:  # not there, or damaged: what it says is known, for the folder's name is its hash
            files.write_json(path, binding)
        elif stored != json.loads(json.dumps(binding)):
            raise SoftTargetsError(
                f"{path} does not say what this folder's name stands for; delete the folder {self.folder}, "
                "the soft targets are computed again"
            )

    @classmethod
    def of(cls, study: Study, seed: int, teacher: TeacherIdentity, dataset: Dataset) -> "SoftTargets":
        """The store of this teacher's logits for the study's views of this seed."""
        binding = _binding(study, seed, teacher, dataset.fingerprint)
        return cls(binding, dataset.meta["counts"]["train"], len(dataset.classes))

    def has(self, view: int) -> bool:
        return self._path(view).is_file()

    def __getitem__(self, view: int) -> np.ndarray:
        """The logits of a view, (n, classes) float16, mapped from disk. Raises SoftTargetsError."""
        path = self._path(view)
        try:
            if not path.is_file():
                raise FileNotFoundError
            note = self._note(view)
            if {k: note.get(k) for k in ("view", "store")} != self._place(view):
                raise ValueError("its note is gone, or that of another view")
            if files.sha256(path) != note.get("sha256"):
                raise ValueError("changed after it was written")
            logits = np.load(path, mmap_mode="c")  # copy-on-write: shared, and torch takes it
        except FileNotFoundError:
            raise SoftTargetsError(f"{path}: view {view} has no soft targets yet; run the same command again") from None
        except (OSError, EOFError, ValueError) as e:
            raise SoftTargetsError(f"{path}: damaged ({e}); run the same command again, it is made anew") from e
        if logits.shape != self.shape or logits.dtype != np.float16:
            raise SoftTargetsError(
                f"{path}: {logits.dtype} {logits.shape}, expected float16 {self.shape}; "
                "run the same command again, it is made anew"
            )
        if not np.isfinite(logits).all():
            raise SoftTargetsError(f"{path}: damaged (not all of it is finite); delete it, it is computed again")
        return logits

    def computed_on(self, views: range | list[int]) -> list[str]:
        """The kinds of device that computed these views, each once; 'unknown' where that was not noted."""
        return sorted({self._note(view).get("device", "unknown") for view in views})

    def ensure(self, views: range | list[int], compute: Callable[[int], np.ndarray], device: str) -> int:
        """Compute and store the views that are missing; returns how many. Safe from several processes at once.

        compute(view) returns the logits, (n, classes). device: the kind that computes them, which is noted: on
        another one they differ in the last bits of float16. A view that is damaged is said to be, and computed again.
        Raises SoftTargetsError if the logits do not fit float16.
        """
        made = 0
        for view in views:
            if not self._damage(view):
                continue
            with FileLock(self._path(view).with_suffix(".lock")):
                if damage := self._damage(view):
                    if self.has(view):
                        print(f"{damage}: computed again now")
                    for path in (self._path(view), self._path(view).with_suffix(".json")):
                        files.remove(path)
                    self._write(view, compute(view), device)
                    made += 1
        return made

    def _damage(self, view: int) -> str:
        """Why a view cannot be read, '' if it can."""
        try:
            self[view]
        except SoftTargetsError as e:
            return str(e)
        return ""

    def _write(self, view: int, logits: np.ndarray, device: str) -> None:
        if logits.shape != self.shape:
            raise SoftTargetsError(f"logits of shape {logits.shape} for a store of {self.shape}")
        with np.errstate(over="ignore"):
            half = logits.astype(np.float16)
        if not np.isfinite(half).all():
            raise SoftTargetsError(
                f"the teacher's logits of view {view} are not finite in float16 (largest: {np.abs(logits).max():g}); "
                "is the teacher trained well?"
            )
        with files.whole(self._path(view)) as tmp:
            with open(tmp, "wb") as f:
                np.save(f, half)
            # the note comes first: a view is never there without its digest
            note = {"device": device, "sha256": files.sha256(tmp), **self._place(view)}
            files.write_json(self._path(view).with_suffix(".json"), note)

    def _place(self, view: int) -> dict:
        """Which view of which store it is, as its note says it."""
        return {"view": view, "store": self.folder.name}

    def _note(self, view: int) -> dict:
        """device, the sha256 of the view's file, and its place; {} where there is none."""
        path = self._path(view).with_suffix(".json")
        note = files.read_json(path)
        if note is None and path.is_file():
            raise SoftTargetsError(f"{path}: damaged; run the same command again, it is made anew")
        return note or {}

    def _path(self, view: int) -> Path:
        return paths.view_file(self.folder, view)
