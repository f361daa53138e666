"""What every run imports, imported once: the process that runs are forked from loads this module.

Nothing here may start a thread or touch a GPU.
"""

import atexit
import gc
import os

from .running.pool import die_with_parent

die_with_parent()  # while the rest is being imported, too

from . import cli

cli.without_uri_grammar()

import ipykernel.kernelapp  # noqa: F401
import matplotlib

matplotlib.use("agg")

import matplotlib_inline.backend_inline  # noqa: F401
import papermill.execute  # noqa: F401
import seaborn  # noqa: F401
import timm  # noqa: F401
import torchvision  # noqa: F401

from .learning import run as runs  # noqa: F401
from .reporting import plots  # noqa: F401
from .running import strict  # noqa: F401

gc.collect()
gc.freeze()  # a fork's garbage collector neither visits nor copies what is loaded by now
# this process ends with the command that started it, and has nothing to clean up that takes torch a second
atexit.register(os._exit, 0)
