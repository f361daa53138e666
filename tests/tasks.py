"""What tests have done in processes of their own. It imports next to nothing, as each of them does it anew."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import ModuleType


def work(path: str, seconds: float = 0, fail: bool = False, die: bool = False) -> None:
    """Takes that long, and ends with a line of the GPUs it was given, unless it fails or dies."""
    time.sleep(seconds)
    if fail:
        raise ValueError("it went wrong")
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(path, "a") as f:
        f.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")


def begin(path: str) -> None:
    """Takes a moment, and leaves a line for each time that it was begun."""
    with open(path, "a") as f:
        f.write("begun\n")
    time.sleep(1)


def note(path: str, name: str) -> None:
    """Leaves its name; 'broken' fails."""
    with open(path, "a") as f:
        f.write(f"{name}\n")
    if name == "broken":
        raise ValueError("broken")


def lose_the_folder(folder: str) -> None:
    """Removes a folder and fails."""
    shutil.rmtree(folder)
    raise OSError("the folder is gone")


def a_kernel_that_dies_once(path: str) -> None:
    """A notebook's kernel ends before it has answered, as jupyter_client says it."""
    from kd_utils.running import kernels

    def execute(*_, **__):
        if Path(path).read_text() == "begun\n":
            raise RuntimeError("Kernel died before replying to kernel_info")

    begin(path)
    papermill = ModuleType("papermill.execute")
    papermill.execute_notebook = execute
    sys.modules |= {"papermill": papermill, "papermill.execute": papermill}  # the real one takes seconds to import
    kernels.FORKS = False
    kernels.run_notebook("in.ipynb", "out.ipynb", {})


def run_notebook_in(folder: str, notebook: str, output: str, parameters: dict) -> None:
    """Run a notebook from another folder."""
    from kd_utils.running import kernels

    os.chdir(folder)
    kernels.run_notebook(notebook, output, parameters)
