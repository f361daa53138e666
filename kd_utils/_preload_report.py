"""What the report imports, imported once: the process that `kd report` forks its notebook from loads this module.

No torch is among it. Nothing here may start a thread.
"""

import atexit
import gc
import os
import sys

from .running.pool import STARTED_BY, die_with

die_with(int(os.environ.get(STARTED_BY, os.getppid())))  # while the rest is being imported, too
gc.disable()  # what is imported is no garbage, and looking for some takes a tenth of the time

from . import cli

cli.without_uri_grammar()
sys.modules.setdefault("debugpy", None)  # pyright: ignore[reportArgumentType] - each kernel would load it, for nobody

import ipykernel.debugger
import ipykernel.kernelapp  # noqa: F401
import matplotlib

matplotlib.use("agg")

import matplotlib_inline.backend_inline  # noqa: F401
import papermill.execute  # noqa: F401
import seaborn  # noqa: F401

from .reporting import figures, paper, sentences, tables  # noqa: F401
from .running import kernels, pipeline, strict  # noqa: F401

gc.freeze()  # a fork's garbage collector neither visits nor copies what is loaded by now
gc.enable()
# this process ends with the command that started it, and has nothing to clean up
atexit.register(os._exit, 0)
