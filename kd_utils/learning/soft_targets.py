"""The teacher's logits, a view at a time, on disk: computed once, they serve every T, alpha, student and process.

A store is bound to what its logits depend on: the teacher's weights and input, the data's fingerprint, the
augmentation and the seed of the views. The hash of that names the folder, and binding.json in it says it in full.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from .. import files, paths
from ..records import Record
from ..study import Study, digest
from .data import Dataset


class SoftTargetsError(ValueError):
    """Soft targets that are missing, damaged or of something else; the message names the file and what to do."""


class SoftTargets:
    """Logits of one teacher for the views of one training set: a file a view, (n, classes) float16.

    binding: what the logits depend on, JSON-able.
    """

    def __init__(self, binding: dict, n: int, classes: int):
        self.binding = binding
        self.shape = (n, classes)
        self.folder = paths.soft_targets(digest(binding))
        path = self.folder / paths.BINDING
        if not path.is_file():
            files.write_json(path, binding)
        elif json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(binding)):
            raise SoftTargetsError(
                f"{path} does not say what this folder's name stands for; delete the folder {self.folder}, "
                "the soft targets are computed again"
            )

    @classmethod
    def of(cls, study: Study, seed: int, teacher: Record, dataset: Dataset) -> "SoftTargets":
        """The store of this teacher's logits for the study's views of this seed."""
        binding = {
            "teacher_sha256": teacher.weights_sha256,
            "teacher_model": teacher.settings["model"],
            "data": dataset.fingerprint,
            "augment": study.augment.model_dump(),
            "seed": seed,
        }
        return cls(binding, dataset.meta["counts"]["train"], len(dataset.classes))

    def has(self, view: int) -> bool:
        return self._path(view).is_file()

    def __getitem__(self, view: int) -> np.ndarray:
        """The logits of a view, (n, classes) float16, mapped from disk. Raises SoftTargetsError."""
        path = self._path(view)
        try:
            logits = np.load(path, mmap_mode="c")  # copy-on-write: shared, and torch takes it
        except FileNotFoundError:
            raise SoftTargetsError(f"{path}: view {view} has no soft targets yet") from None
        except (OSError, ValueError) as e:
            raise SoftTargetsError(f"{path}: damaged ({e}); delete it, it is computed again") from e
        if logits.shape != self.shape or logits.dtype != np.float16:
            raise SoftTargetsError(
                f"{path}: {logits.dtype} {logits.shape}, expected float16 {self.shape}; delete it, it is computed again"
            )
        if not np.isfinite(logits).all():
            raise SoftTargetsError(f"{path}: damaged (not all of it is finite); delete it, it is computed again")
        return logits

    def computed_on(self, views: range | list[int]) -> list[str]:
        """The kinds of device that computed these views, each once; 'unknown' where that was not noted."""
        return sorted({self._note(view) for view in views})

    def ensure(self, views: range | list[int], compute: Callable[[int], np.ndarray], device: str) -> int:
        """Compute and store the views that are missing; returns how many. Safe from several processes at once.

        compute(view) returns the logits, (n, classes). device: the kind that computes them, which is noted: on
        another one they differ in the last bits of float16. A view that is damaged is said to be, and computed again.
        Raises SoftTargetsError if the logits do not fit float16.
        """
        made = 0
        for view in views:
            if self._whole(view):
                continue
            with FileLock(self._path(view).with_suffix(".lock")):
                if not self._whole(view):
                    self._write(view, compute(view), device)
                    made += 1
        return made

    def _whole(self, view: int) -> bool:
        """Whether a view can be read; a damaged one is removed."""
        if not self.has(view):
            return False
        try:
            self[view]
        except SoftTargetsError as e:
            print(e)
            files.remove(self._path(view))
            return False
        return True

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
        files.write_json(self._path(view).with_suffix(".json"), {"device": device})
        with files.whole(self._path(view)) as tmp, open(tmp, "wb") as f:
            np.save(f, half)

    def _note(self, view: int) -> str:
        path = self._path(view).with_suffix(".json")
        return json.loads(path.read_text(encoding="utf-8"))["device"] if path.is_file() else "unknown"

    def _path(self, view: int) -> Path:
        return paths.view(self.folder, view)
