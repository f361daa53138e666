"""What git keeps of a study is enough to go on with it, on another machine with another kind of processor."""

import json
import shutil
import subprocess

import pytest
from helpers import kd, outcome, typed

import kd_utils
from kd_utils.records import RecordError

OTHER_PROCESSOR = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


@pytest.fixture
def clone(finished, root, checkout):
    """The finished study as a clone has it: what the project's .gitignore lets git keep, and nothing else."""
    origin = root / "origin"
    for name in ("results", "studies", "report"):
        shutil.copytree(finished / name, origin / name)
    shutil.copy(checkout / ".gitignore", origin)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(origin)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "records"]):
        subprocess.run([*git, *words], check=True)
    clone = root / "clone"
    subprocess.run(["git", "clone", "-q", str(origin), str(clone)], check=True)
    return clone


def test_a_clone_has_the_chosen_teacher_s_weights_and_no_others(clone):
    assert [p.name for p in clone.rglob("*.safetensors")] == ["teacher.safetensors"]
    assert not list(clone.rglob("*.npy")) and list(clone.rglob("record.json"))


def test_a_clone_goes_on_under_another_processor(finished, clone, monkeypatch):
    """A cell is missing: its teacher is not trained anew, the other records stay, and it says where it was made."""
    students = clone / "results" / "small" / "students"
    missing = next(students.glob("efficient-T4-a0.5-*"))
    shutil.rmtree(missing)
    before = {p: p.read_bytes() for p in clone.rglob("record.json")}
    for name, value in OTHER_PROCESSOR.items():
        monkeypatch.setenv(name, value)
    for words in (("data", "small"), ("grid", "small")):
        done = typed(clone, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "cells: 10 of 10 done" in done.stdout
    assert {p: p.read_bytes() for p in before} == before
    new = json.loads((missing / "record.json").read_text())
    old = json.loads((finished / missing.relative_to(clone) / "record.json").read_text())
    assert new["settings"] == old["settings"] and new["teacher_id"] == old["teacher_id"]
    (made_on,) = new["provenance"]["soft_targets_from"]
    assert "(as default/SSE41)" in made_on and [made_on] != old["provenance"]["soft_targets_from"]
    assert made_on == new["provenance"]["device_name"]
    assert len(outcome(clone)[0]) == 10


def test_a_run_that_is_done_gives_its_record_back(clone, monkeypatch):
    monkeypatch.setenv("KD_ROOT", str(clone))
    assert kd(clone, "data", "small").returncode == 0
    run = kd_utils.student("small", student="efficient", T=4, alpha=0.5)
    assert run.done and run.go() == run.record and run.evaluate().logits is None
    assert run.evaluate().metrics["top1_best"] == run.record.metrics.top1_best
    with pytest.raises(RecordError, match="val_logits.npy .*bring that file"):
        run.record.val_logits  # noqa: B018


def test_without_the_teacher_s_weights_it_is_said_what_to_bring(clone):
    shutil.rmtree(next((clone / "results" / "small" / "students").glob("efficient-T4-a0.5-*")))
    weights = clone / "results" / "small" / "teacher.safetensors"
    weights.unlink()
    assert kd(clone, "data", "small").returncode == 0
    done = kd(clone, "grid", "small")
    assert done.returncode == 2 and f"bring {weights}" in done.stderr and "delete" not in done.stderr
    assert "copy" in done.stderr and "under another name" in done.stderr
    assert kd(clone, "report", "small").returncode == 0, "a report needs records alone"


def test_other_weights_are_not_taken_for_the_teacher_s(finished, clone):
    shutil.rmtree(next((clone / "results" / "small" / "students").glob("efficient-T4-a0.5-*")))
    other = next((finished / "results" / "small" / "teachers").glob("*/weights.safetensors"))
    chosen = json.loads(next((finished / "results" / "small" / "students").glob("*/record.json")).read_text())
    other = next(p for p in other.parents[1].glob("*/weights.safetensors") if p.parent.name != chosen["teacher_id"])
    shutil.copy(other, clone / "results" / "small" / "teacher.safetensors")
    assert kd(clone, "data", "small").returncode == 0
    done = kd(clone, "grid", "small")
    assert done.returncode == 1 and "teacher.safetensors" in done.stdout
