"""A papermill engine that refuses what our notebooks do not know, before anything is computed.

papermill itself only warns of an unknown parameter and runs on with the defaults: `-p alhpa 0.1` would cost a night.
With this package installed it is papermill's default engine; notebooks other than ours run as ever.
"""

import difflib

from papermill import engines
from papermill.engines import NBClientEngine
from papermill.exceptions import PapermillException
from papermill.inspection import _infer_parameters

TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


class StrictEngine(NBClientEngine):
    """papermill's own engine, after a check of the parameters against the notebook's `parameters` cell."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, *args, **kwargs):
        if "kd_utils" in nb.metadata:
            check(nb.metadata.get("papermill", {}).get("parameters", {}), _infer_parameters(nb, name=kernel_name))
        return super().execute_notebook(nb, kernel_name, *args, **kwargs)


def check(given: dict, known: list) -> None:
    """Raise PapermillException, naming each parameter of `given` that is not in `known` or is of another type."""
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
        raise PapermillException("; ".join(wrong))


# papermill looks up its default engine under None, which no entry point can be called
engines.papermill_engines.register(None, StrictEngine)
