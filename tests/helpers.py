"""What tests share: the smallest study, the command kd, and how two roots are compared."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pandas as pd
import yaml

from kd_utils import cli

# the smallest study that has every stage, two teachers, two students, a 2 x 3 grid, and learns more than chance; models
# of timm and of torchvision; the rate falls to 0, or batch normalisation would lag behind in so few steps
SMALL = {
    "data": {"name": "digits", "image_size": 16, "train_per_class": 12, "val_from_train_per_class": 10},
    "augment": {"flip": True, "crop": "shift", "shift": 1},
    "train": {"epochs": 3, "batch_size": 12, "lr": 0.005, "schedule": "cosine"},
    "teacher": {
        "train": {"epochs": 6},
        "candidates": ["test_byobnet", {"model": "shufflenet_v2_x0_5", "name": "shuffle", "train": {"epochs": 2}}],
    },
    "students": ["test_byobnet", {"model": "test_efficientnet", "name": "efficient"}],
    "grid": {"T": [4, 20], "alpha": [0, 0.5, 1]},
    "seeds": [0],
    "claims": True,
}


TIMING = ["train_seconds", "images_per_second"]


def write_study(root: Path, content: dict, name: str = "small") -> Path:
    path = root / "studies" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def kd(root: Path, *words: str) -> subprocess.CompletedProcess:
    """The command kd within this process, from its words to its exit code: what it imports and forks from is there.

    What it does with signals is undone; a process of its own is `typed`.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {"KD_ROOT": str(root), "COLUMNS": "200"}
    argv = mock.patch.object(sys, "argv", ["kd", *words])
    with mock.patch.dict(os.environ, environment), argv, redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as e:
            code = e.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(["kd", *words], code, out.getvalue(), err.getvalue())


def typed(root: Path, *words: str) -> subprocess.CompletedProcess:
    """The command kd, as typed."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "kd"), *words],
        env={**os.environ, "KD_ROOT": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that it starts in turn."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(root: Path, *words: str, **kwargs) -> subprocess.Popen:
    """The command kd, as typed, still running."""
    command = [str(Path(sys.executable).parent / "kd"), *words]
    env = {**os.environ, "KD_ROOT": str(root)}
    return subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=interruptible,
        **kwargs,
    )


def outcome(root: Path):
    """All figures and the hashes of all weights, timing aside."""
    results = root / "results" / "small"
    frame = pd.read_csv(results / "results.csv").drop(columns=TIMING)
    weights = {p.parent.name: json.loads(p.read_text())["weights_sha256"] for p in results.glob("*/*/record.json")}
    return frame, weights


def same(a: Path, b: Path) -> None:
    (frame_a, weights_a), (frame_b, weights_b) = outcome(a), outcome(b)
    pd.testing.assert_frame_equal(frame_a, frame_b, check_exact=True)
    assert weights_a == weights_b
