import os
import signal
import stat
import subprocess
import sys
import tempfile

import pytest
from helpers import SMALL, write_study

from kd_utils import machine
from kd_utils.study import load


@pytest.fixture
def study(root):
    return load("small")


def on(monkeypatch, *, flags="fpu avx2", cores=8, gpus=()):
    """This machine, with a processor of these flags."""
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags, "model name": "A processor"})
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "gpus", lambda: list(gpus))


def test_slots_on_fake_devices(study, monkeypatch):
    on(monkeypatch)
    assert machine.slots(study, None, "auto") == [{}] * 8
    assert machine.slots(study, None, "auto", threads=3) == [{}] * 2
    assert machine.slots(study, 5, "cpu") == [{}] * 5
    on(monkeypatch, gpus="0123")
    assert machine.slots(study, None, "auto") == [{"CUDA_VISIBLE_DEVICES": g} for g in "0123"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in machine.slots(study, 6, "auto")] == list("012301")


@pytest.mark.parametrize(("gpus", "expected"), [("0123", ["0,1,2,3"]), ("01234567", ["0,1,2,3", "4,5,6,7"])])
def test_a_run_over_several_gpus_takes_them_together(study, monkeypatch, gpus, expected):
    on(monkeypatch, gpus=gpus)
    together = study.model_copy(update={"data_parallel": 4})
    assert [s["CUDA_VISIBLE_DEVICES"] for s in machine.slots(together, None, "auto")] == expected


@pytest.mark.parametrize("gpus", ["", "012"])
def test_fewer_gpus_than_a_run_asks_for_are_an_error(study, monkeypatch, gpus):
    on(monkeypatch, gpus=gpus)
    together = study.model_copy(update={"data_parallel": 4})
    with pytest.raises(machine.MachineError, match=rf"4 GPUs .* has {len(gpus)}; run it where there are 4, or set"):
        machine.slots(together, None, "auto")


def test_visible_devices_are_respected(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert machine.gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus() == []


@pytest.mark.parametrize(
    ("flags", "gpus", "advised"),
    [
        ("fpu avx2", "", True),
        ("fpu avx2 avx512f", "", True),
        ("fpu avx2 avx512f avx512_bf16", "", False),
        ("fpu avx2 avx512f amx_bf16", "", False),
        ("fpu avx2", "0", False),  # a GPU computes it
        ("", "", False),  # nothing is known
    ],
)
def test_bf16_without_hardware_for_it_is_advised_against(root, monkeypatch, flags, gpus, advised):
    write_study(root, {**SMALL, "students": ["lcnet_050", {"model": "resnet18", "precision": "bf16"}]})
    on(monkeypatch, flags=flags, gpus=gpus)
    study = load("small")
    says = machine.check(study, study.students, "auto")
    assert len(says) == advised
    if advised:
        assert says[0].startswith("resnet18: this processor does not compute in bf16") and "lcnet" not in says[0]
    assert machine.check(study, [study.student("lcnet_050")], "auto") == []


def test_compiling_without_a_compiler_is_said_at_once(root, monkeypatch, tmp_path):
    write_study(root, {**SMALL, "students": [{"model": "lcnet_050", "compile": True}]})
    study = load("small")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(machine, "compiles", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(machine.MachineError, match=r"lcnet_050: `compile: true` needs a C\+\+ compiler.*install one"):
        machine.check(study, study.students, "cpu")
    compiler = tmp_path / "clang++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert machine.compiler() == str(compiler) and machine.check(study, study.students, "cpu") == []


def test_compiling_for_a_processor_that_pytorch_makes_no_code_for_is_said_at_once(root, monkeypatch):
    write_study(root, {**SMALL, "students": [{"model": "lcnet_050", "compile": True}]})
    study = load("small")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(machine, "compiler", lambda: "g++")
    on(monkeypatch, flags="fpu sse4_1")
    with pytest.raises(machine.MachineError, match="lcnet_050: `compile: true` does not work here"):
        machine.check(study, study.students, "cpu")
    on(monkeypatch, flags="fpu avx2")
    assert machine.check(study, study.students, "cpu") == []
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert machine.compiles() is False


def test_the_processor_is_named_with_what_it_computes_with(monkeypatch):
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    on(monkeypatch, flags="avx2 avx512f")
    assert machine.processor() == "A processor (AVX-512)"
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert machine.processor() == "A processor (as avx2)"


def test_processes_that_are_started_deaf_ignore_interrupts():
    says = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"]
    before = signal.getsignal(signal.SIGINT)
    with machine.deaf_children():
        deaf = subprocess.run(says, capture_output=True, text=True).stdout
    assert deaf == "True\n" and signal.getsignal(signal.SIGINT) is before


def test_without_a_home_caches_go_where_no_other_user_can_write(monkeypatch, tmp_path):
    def none():
        raise RuntimeError("Could not determine home directory.")

    with monkeypatch.context() as m:
        m.setenv("HOME", "")
        m.setattr(machine.Path, "home", none)
        machine.settle()
        assert stat.S_IMODE(os.stat(os.environ["HOME"]).st_mode) == 0o700
    monkeypatch.setattr(machine.Path, "home", lambda: tmp_path / "none")
    for name in ("IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    machine.settle()
    assert os.access(os.environ["IPYTHONDIR"], os.W_OK) and os.access(os.environ["MPLCONFIGDIR"], os.W_OK)


def test_temporary_files_go_where_a_socket_can_be(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    machine.settle()
    assert tempfile.gettempdir() == "/tmp"


def test_a_device_is_a_kind_or_one_of_the_gpus_that_are_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for name in (*machine.DEVICES, "cuda:0", "cuda:1"):
        assert machine.one_device(name) == name
    for name in ("cpu:x", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:99", "cuda:0:1", "gpu", "", "x" * 100_000):
        with pytest.raises(machine.MachineError, match="device") as e:
            machine.one_device(name)
        assert len(str(e.value)) < 200
