"""This machine: its cores, GPUs and processor, its signals, and how many runs go side by side. Loads no torch."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import spawn
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

from .schema import Model
from .study import Study

DEVICES = ("auto", "cpu", "cuda", "mps")  # what runs may be told to use


class MachineError(RuntimeError):
    """A study asks for what this machine does not have; the message says what, and what to do."""


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The CUDA devices that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split() if answer.returncode == 0 else []


def one_device(name: str) -> str:
    """The name of a device that one run may be told to use: of DEVICES, or of one of several GPUs, as cuda:1.

    Raises MachineError for another, and for a GPU that is not there.
    """
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or colon and not (kind == "cuda" and re.fullmatch("[0-9]{1,4}", number)):
        raise MachineError(f"device is {', '.join(DEVICES)} or one GPU, as cuda:0, not {name!r:.80}")
    if colon and int(number) >= (count := len(gpus())):
        raise MachineError(f"there is no device {name!r}: GPUs are counted from 0, and this machine has {count}")
    return name


LONGEST = 55  # letters of a temporary folder's path: below it are sockets, whose paths have at most 103


def settle() -> None:
    """Have places for what libraries write beside results: a home, or something for one, and temporary files."""
    if len(tempfile.gettempdir()) > LONGEST:
        tempfile.tempdir = "/tmp"
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user without a name, as in some containers
        home = Path(get_temp_dir())  # which no other user can put a configuration into
        os.environ["HOME"] = str(home)
    if not (home.is_dir() and os.access(home, os.W_OK)):
        for name in ("IPYTHONDIR", "MPLCONFIGDIR"):
            os.environ.setdefault(name, get_temp_dir())


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in this block ignore Ctrl-C, which a terminal sends to all: this one ends them."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_OF_MAIN = ("init_main_from_name", "init_main_from_path")  # of what multiprocessing tells a process that it starts
_preparing = threading.Lock()


@contextmanager
def strangers_to_main() -> Iterator[None]:
    """Processes that multiprocessing starts in this block do not import the script that this one runs.

    They have no use for it, and a script without `if __name__ == "__main__":` would do all that it does again.
    """
    with _preparing:
        prepare: Any = spawn.get_preparation_data
        setattr(spawn, prepare.__name__, lambda name: {k: v for k, v in prepare(name).items() if k not in _OF_MAIN})
        try:
            yield
        finally:
            setattr(spawn, prepare.__name__, prepare)


def slots(study: Study, jobs: int | None, device: str, threads: int = 1) -> list[dict[str, str]]:
    """Where runs go side by side: the environment variables of each slot.

    On CPUs there are as many slots as the cores hold of runs with so many threads. With GPUs there is a slot for each,
    or for each `data_parallel` of them. jobs overrides the number.
    Raises MachineError where the study asks for more GPUs a run than there are.
    """
    names = [] if device == "cpu" else gpus()
    each = study.data_parallel
    if each > 1 and len(names) < each:
        raise MachineError(
            f"study '{study.name}' trains each run on {each} GPUs (data_parallel: {each}) and this machine has "
            f"{len(names)}; run it where there are {each}, or set data_parallel: 1, which makes other runs (batch "
            "normalisation sees other batches)"
        )
    if names:
        groups = [",".join(names[k : k + each]) for k in range(0, len(names) - each + 1, each)]
        return [{"CUDA_VISIBLE_DEVICES": groups[k % len(groups)]} for k in range(jobs or len(groups))]
    if device not in ("auto", "cpu"):
        return [{}] * (jobs or 1)
    return [{}] * (jobs or max(1, cores() // threads))


def check(study: Study, models: list[Model], device: str) -> list[str]:
    """What speaks against training these models of a study here, before hours are spent: sentences of advice.

    Raises MachineError for what cannot work at all: compiling without a compiler, more GPUs than there are.
    """
    slots(study, None, device)
    on_cpu = device == "cpu" or (device == "auto" and sys.platform != "darwin" and not gpus())
    compiled = [m for m in models if m.compile]
    if compiled and not compiler():
        raise MachineError(
            f"{_names(compiled)}: `compile: true` needs a C++ compiler and none is here (looked for $CXX, g++ and "
            "clang++); install one (Debian: apt install g++), or remove the line, which makes other runs"
        )
    if compiled and on_cpu and compiles() is False:
        raise MachineError(
            f"{_names(compiled)}: `compile: true` does not work here: PyTorch's compiler does not support x86 "
            "processors without AVX2; remove the line, which makes other runs"
        )
    half = [m for m in models if study.precision_of(m) == "bf16"]
    if half and on_cpu and native_bf16() is False:
        return [
            f"{_names(half)}: this processor does not compute in bf16 (it has neither AVX512-BF16 nor AMX), where bf16 "
            "is slower than fp32; `precision: fp32` makes other runs, of other keys"
        ]
    return []


def _names(models: list[Model]) -> str:
    return ", ".join(dict.fromkeys(m.label for m in models))


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, if there is one."""
    named = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    return next((path for path in map(shutil.which, named) if path), None)


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def compiles() -> bool | None:
    """Whether torch.compile can make code for this processor; None where that is not known."""
    flags = _cpuinfo().get("flags", "").split()
    if os.environ.get("ATEN_CPU_CAPABILITY") == "default":  # as a processor without AVX2
        return False
    return "avx2" in flags if flags else None


def native_bf16() -> bool | None:
    """Whether the processor multiplies bf16 numbers itself; None where that is not known."""
    flags = _cpuinfo().get("flags", "").split()
    if not flags:
        return None
    return "amx_bf16" in flags or "avx512_bf16" in flags


def processor() -> str:
    """The processor's name and the widest vector instructions that are used, as 'AMD EPYC 7763 (AVX2)'.

    Two machines that say the same round floating point in the same way, as far as is known; with ATEN_CPU_CAPABILITY
    and ONEDNN_MAX_CPU_ISA set, which make PyTorch compute as an older processor, they are named instead.
    """
    flags = _cpuinfo().get("flags", "").split()
    known = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((name for flag, name in known.items() if flag in flags), "")
    asked = [os.environ[k] for k in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA") if os.environ.get(k)]
    name = _cpuinfo().get("model name") or platform.processor() or platform.machine()
    if sys.platform == "darwin":
        name = platform.machine()
    detail = "as " + "/".join(asked) if asked else widest
    return f"{name} ({detail})" if detail else name
