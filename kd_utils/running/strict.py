"""A papermill engine that refuses what our notebooks do not know, and whose bar tells how a training goes.

papermill itself only warns of an unknown parameter and runs on with the defaults: `-p alhpa 0.1` would cost a night.
Its bar counts cells, and stands still while one of them trains.
With this package installed it is papermill's default engine; notebooks other than ours run as ever.
"""

import difflib

from click import ClickException
from papermill import engines
from papermill.engines import NBClientEngine
from papermill.exceptions import PapermillException
from papermill.inspection import _infer_parameters

TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


BAR = "cell {n_fmt} of {total_fmt}, {elapsed}{postfix}"


class ParameterError(PapermillException, ClickException):
    """Parameters that a notebook does not take; papermill's command says so in a line."""


class StrictEngine(NBClientEngine):
    """papermill's own engine, after a check of the parameters against the notebook's `parameters` cell."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, *args, **kwargs):
        if "kd_utils" in nb.metadata:
            check(nb.metadata.get("papermill", {}).get("parameters", {}), _infer_parameters(nb, name=kernel_name))
        return super().execute_notebook(nb, kernel_name, *args, **kwargs)

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        if nb_man.pbar and "kd_utils" in nb_man.nb.metadata:
            _tell_training(nb_man)
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


def _tell_training(nb_man) -> None:
    """Let the bar of a notebook end in the latest line of its training (reporting/live.py)."""
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


# papermill looks up its default engine under None, which no entry point can be called
engines.papermill_engines.register(None, StrictEngine)
