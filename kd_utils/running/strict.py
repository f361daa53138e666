"""A papermill engine that refuses what our notebooks cannot do, and whose bar tells how a training goes.

papermill itself only warns of an unknown parameter and runs on with the defaults: `-p alhpa 0.1` would cost a night. A
student that the study does not have would be told of in a traceback, once a kernel has started and loaded torch.
Its bar counts cells, and stands still while one of them trains. It writes the notebook twice a cell, which for many
figures takes longer than to draw them.
With this package installed it is papermill's default engine; notebooks other than ours run as ever.
"""

import ast
import difflib
import time
from typing import Any

from click import ClickException
from nbformat import NotebookNode
from papermill import engines
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.exceptions import PapermillException
from papermill.inspection import _infer_parameters

from .kernels import private_connection
from .pool import FORKS

TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


WRITE_SHARE = 0.05  # of the time, at most, goes into writing the notebook while it is executed
BAR = "cell {n_fmt} of {total_fmt}, {elapsed}{postfix}"


class ParameterError(PapermillException, ClickException):
    """Parameters that a notebook does not take; papermill's command says so in a line."""


class StrictEngine(NBClientEngine):
    """papermill's own engine, after a check of the parameters against the notebook's `parameters` cell."""

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, *args: Any, **kwargs: Any) -> NotebookNode:
        if "kd_utils" in nb.metadata:
            given, known = (
                nb.metadata.get("papermill", {}).get("parameters", {}),
                _infer_parameters(nb, name=kernel_name),
            )
            check(given, known)
            check_values({p.name: ast.literal_eval(p.default) for p in known} | given)
        return super().execute_notebook(nb, kernel_name, *args, **kwargs)

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **kwargs: Any) -> Any:
        if "kd_utils" in nb_man.nb.metadata:
            _write_seldom(nb_man)
            if nb_man.pbar:
                _tell_training(nb_man)
            if FORKS and "config" not in kwargs:  # else ports are opened, and ipykernel warns of them
                with private_connection() as config:
                    return super().execute_managed_notebook(nb_man, kernel_name, config=config, **kwargs)
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


def _write_seldom(nb_man: NotebookExecutionManager) -> None:
    """Write the notebook while it is executed only as often as WRITE_SHARE lets, and when it is over."""
    write, complete, due = nb_man.save, nb_man.notebook_complete, 0.0

    def save(**kwargs: Any) -> None:
        nonlocal due
        if (began := time.monotonic()) >= due:
            write(**kwargs)
            due = began + (time.monotonic() - began) / WRITE_SHARE

    def notebook_complete(**kwargs: Any) -> None:
        nb_man.save = write
        complete(**kwargs)

    nb_man.save, nb_man.notebook_complete = save, notebook_complete


def _tell_training(nb_man: NotebookExecutionManager) -> None:
    """Let the bar of a notebook end in the latest line of its training (reporting/live.py)."""
    assert nb_man.pbar is not None
    nb_man.pbar.bar_format = BAR
    save = nb_man.autosave_cell  # called after every message of the kernel

    def save_and_show() -> None:
        save()
        outputs = [o for cell in nb_man.nb.cells for o in cell.get("outputs", []) if is_progress(o)]
        if outputs and nb_man.pbar:
            nb_man.pbar.set_postfix_str(outputs[-1]["data"]["text/plain"])

    nb_man.autosave_cell = save_and_show


def is_progress(output: dict) -> bool:
    """Whether a cell's output is the line and the curve of a training."""
    return output.get("metadata", {}).get("kd_utils", {}).get("progress", False)


def check(given: dict, known: list) -> None:
    """Raise ParameterError, naming each parameter of `given` that is not in `known` or is of another type."""
    types = {p.name: p.inferred_type_name for p in known}
    wrong = []
    for name, value in given.items():
        if name not in types:
            close = difflib.get_close_matches(name, types, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(types)}"
            wrong.append(f"unknown parameter '{name}'; {hint}")
            continue
        allowed = TYPES.get(types[name])
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
            wrong.append(f"parameter '{name}' is {types[name]}, not {value!r}")
    if wrong:
        raise ParameterError("; ".join(wrong))


def check_values(values: dict) -> None:
    """Raise ParameterError for what the study of these parameters does not have, or has not done yet.

    values: of all parameters that the notebook has, by their names; one without a study has nothing to check. Loads no
    torch.
    """
    if "study" not in values:
        return
    from ..machine import MachineError, one_device  # other notebooks do without these
    from ..records import RecordError
    from ..shelf import Shelf, ShelfError
    from ..study import load
    from ..validation import StudyError

    try:
        one_device(values.get("device", "auto"))
        study = load(values["study"])
        if "candidate" in values:
            study.candidate(values["candidate"] or study.teacher.candidates[0].label)
            Shelf(study).fingerprint  # noqa: B018 - raises where there are no data yet
        elif "student" in values:
            study.asked_for(**{k: values[k] for k in ("student", "T", "alpha", "method", "seed", "epochs")})
            Shelf(study).chosen_teacher()
    except (MachineError, RecordError, StudyError, ShelfError) as e:
        raise ParameterError(str(e)) from None


# papermill looks up its default engine under None, which no entry point can be called
engines.papermill_engines.register(None, StrictEngine)
