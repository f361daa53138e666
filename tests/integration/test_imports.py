"""What the terminal and the report start with: PyTorch takes seconds, and they do without."""

import subprocess
import sys

WITHOUT_TORCH = [
    "kd_utils",
    "kd_utils.cli",
    "kd_utils.study",
    "kd_utils.keys",
    "kd_utils.records",
    "kd_utils.shelf",
    "kd_utils.machine",
    "kd_utils.methods",
    "kd_utils.seeds",
    "kd_utils.sources",
    "kd_utils.learning.loaders",
    "kd_utils.console",
    "kd_utils.learning.data",
    "kd_utils.learning.metrics",
    "kd_utils.learning.plans",
    "kd_utils.running.pipeline",
    "kd_utils.running.pool",
    "kd_utils.reporting.results",
    "kd_utils.reporting.claims",
    "kd_utils.reporting.tables",
    "kd_utils.reporting.figures",
    "kd_utils.reporting.widgets",
    "kd_utils.reporting.paper",
    "kd_utils._preload_report",
]


def test_what_needs_no_torch_loads_none():
    """One after the other in one process: the first one that does is named."""
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(name)
"""
    done = subprocess.run([sys.executable, "-c", code, *WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
