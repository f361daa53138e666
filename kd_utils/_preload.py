"""What every run imports, and the report, imported once: the process that runs are forked from loads this module.

Nothing here may start a thread or touch a GPU.
"""

import gc

from . import _preload_report  # noqa: F401

gc.disable()

import timm  # noqa: F401
import torch
import torchvision  # noqa: F401

from .learning import run as runs  # noqa: F401

torch.set_num_threads(1)  # in all that is forked from here; a run's steps have as many as its study says

gc.freeze()
gc.enable()
