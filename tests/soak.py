"""A tiny study, killed at a hundred random instants, and on two Ray nodes of which one goes and returns.

    make soak                      # ten minutes at most
    python tests/soak.py --keep    # writes what was done to docs/soak.json, for docs/trust.md

Each time the same command goes on. Afterwards metrics, weights, predictions and soft targets must be, to the bit,
those of a study that was left alone. Of the commands' processes none may outlive them, and no record that was there
may change. It is no part of `make test`.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

from helpers import SMALL, kd, same, start, write_study
from integration.test_robustness import STAGES, gone, tidy

from kd_utils import machine, paths

SIDE_BY_SIDE = 2  # roots that are killed at the same time
KILLS_A_ROOT = 13  # before it is left alone, and compared
EARLY = 0.25  # share of the kills that come before the first training begins, which takes some seconds
LATEST = 6.0  # seconds after that at which a command is killed
FINISH = 75.0  # seconds that are kept to bring the last roots to their end
TO_ALL, TO_ONE = "all processes", "the command alone"
HOWS = [
    (signal.SIGKILL, TO_ALL),
    (signal.SIGKILL, TO_ONE),
    (signal.SIGTERM, TO_ALL),
    (signal.SIGTERM, TO_ONE),
    (signal.SIGINT, TO_ALL),  # Ctrl-C in a terminal
    (signal.SIGINT, TO_ONE),
]


class Soak:
    """The reference, the clock, and what was done so far."""

    def __init__(self, folder: Path, kills: int, minutes: float, seed: int):
        self.folder, self.kills, self.seed = folder, kills, seed
        self.deadline = time.monotonic() + 60 * minutes
        self.lock = threading.Lock()
        self.begun = 0
        self.done: Counter[tuple[str, str, str]] = Counter()  # signal, to whom, stage
        self.failures: list[str] = []
        self.compared = 0
        self.reference = self.root("reference")
        started, command = time.monotonic(), start(self.reference, "run", "small")
        wait_for(lambda: any(self.reference.rglob("progress.json")), command)
        self.warm = time.monotonic() - started
        output, _ = command.communicate()
        assert command.returncode == 0, output

    def root(self, name: str) -> Path:
        root = self.folder / name
        root.mkdir()
        write_study(root, SMALL)
        return root

    def time_left(self) -> float:
        return self.deadline - FINISH - time.monotonic()

    def another(self) -> int | None:
        """The number of the next kill; None where there are enough, or no time is left."""
        with self.lock:
            if self.begun >= self.kills or self.time_left() < 0:
                return None
            self.begun += 1
            return self.begun

    def total(self, part: int) -> dict[str, int]:
        """The kills by one part of their description."""
        counts = Counter()
        for key, count in self.done.items():
            counts[key[part]] += count
        return dict(counts)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            with self.lock:
                self.failures.append(what)
            print(f"FAILED: {what}", flush=True)

    def compare(self, root: Path) -> None:
        """Let the command come to its end, and compare."""
        last = kd(root, "run", "small")
        self.check(last.returncode == 0, f"{root.name} does not end well: {last.stdout}{last.stderr}")
        try:
            same(self.reference, root)
        except (AssertionError, OSError) as e:
            self.check(False, f"{root.name} has other metrics, or weights: {e}")
        differ = {name for name, _ in content(self.reference).items() ^ content(root).items()}
        self.check(not differ, f"{root.name} has other files: {sorted(differ)}")
        self.check(tidy(root) and gone(root), f"{root.name} has something left over")
        with self.lock:
            self.compared += 1


def content(root: Path) -> dict[str, str]:
    """The SHA-256 of what else must be the same: predictions, soft targets and decoded images."""
    patterns = ("predictions.npz", "view_*.npy", "*_images.npy")
    found = (path for pattern in patterns for path in root.rglob(pattern))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def stage(root: Path, since: float) -> str:
    """The last stage that a command has begun since then; 'start' before the first."""
    reached = "start"
    for name, (pattern, _) in STAGES.items():
        for path in (root / "results" / "small").glob(pattern):
            try:
                if path.stat().st_mtime > since:
                    reached = name
            except FileNotFoundError:
                continue
    return reached


def records(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("record.json")}


def kill(soak: Soak, root: Path, rng: random.Random, *words: str) -> None:
    """Start the command, and kill it, or it and all that it has started, at a random instant."""
    number, whom = rng.choice(HOWS)
    before, started = records(root), time.time()
    command = start(root, *words, start_new_session=True)
    early = rng.random() < EARLY
    time.sleep(rng.uniform(0.5, soak.warm) if early else soak.warm + rng.uniform(0, LATEST))
    at = stage(root, started)
    if command.poll() is not None:
        at = "ended"
    elif whom == TO_ALL:
        os.killpg(command.pid, number)
    else:
        command.send_signal(number)
    output, _ = command.communicate(timeout=60)
    what = f"{root.name}, {number.name} to {whom} in '{at}'"
    expected = {-number} if number == signal.SIGKILL else {130}
    soak.check(command.returncode in expected | {0}, f"{what}: exit code {command.returncode}: {output}")
    soak.check("Traceback" not in output, f"{what}: {output}")
    soak.check(gone(root, within=20), f"{what}: processes are left")
    after = records(root)
    soak.check({path: after.get(path) for path in before} == before, f"{what}: a record has changed")
    with soak.lock:
        soak.done[number.name, whom, at] += 1


def killed_again_and_again(soak: Soak, worker: int) -> None:
    """Roots, one after the other: begun anew, or with a part of the finished study, then killed, then compared."""
    rng = random.Random(f"{soak.seed} {worker}")
    count = 0
    while soak.time_left() > 0 and soak.begun < soak.kills:
        count += 1
        root = soak.root(f"root{worker}-{count}")
        if count % 2 == 0:  # the later stages come at once
            shutil.copytree(soak.reference, root, dirs_exist_ok=True)
            students = sorted((root / "results" / "small" / "students").iterdir())
            for folder in rng.sample(students, 5):
                shutil.rmtree(folder)
            shutil.rmtree(root / "cache" / "soft_targets")
        for _ in range(KILLS_A_ROOT):
            if soak.another() is None:
                break
            kill(soak, root, rng, "run", "small", "--jobs", "1")
        soak.compare(root)


def a_node_goes_and_returns(soak: Soak) -> None:
    """The grid on two Ray nodes: one is lost and comes back, twice, and the command is killed in between."""
    from integration.test_cluster import node
    from ray.cluster_utils import Cluster

    rng = random.Random(f"{soak.seed} ray")
    root = soak.root("ray")
    shutil.copytree(soak.reference, root, dirs_exist_ok=True)
    shutil.rmtree(root / "results" / "small" / "students")
    shutil.rmtree(root / "cache" / "soft_targets")
    nodes = Cluster(initialize_head=True, head_node_args=node())
    second = nodes.add_node(**node())
    try:
        words = ("grid", "small", "--engine", "ray", "--address", nodes.address)
        for number in (signal.SIGKILL, signal.SIGINT):
            before = len(records(root))
            command = start(root, *words, start_new_session=True)
            wait_for(lambda before=before: len(records(root)) > before + 1, command)
            time.sleep(rng.uniform(0, 3))
            nodes.remove_node(second, allow_graceful=False)
            time.sleep(rng.uniform(0, 3))
            second = nodes.add_node(**node())
            wait_for(lambda before=before: len(records(root)) > before + 2, command)
            if command.poll() is None:
                os.killpg(command.pid, number)
            command.communicate(timeout=60)
            with soak.lock:
                soak.done[number.name, TO_ALL, "cells on Ray, a node goes and returns"] += 1
        last = kd(root, *words)
        soak.check(last.returncode == 0, f"ray does not end well: {last.stdout}{last.stderr}")
    finally:
        nodes.shutdown()
    soak.compare(root)


def wait_for(happens, command) -> None:
    """Until that has happened, or the command has ended."""
    while command.poll() is None and not happens():
        time.sleep(0.05)


def main() -> None:
    """Soak as the command line says; exit code 1 where anything differs."""
    options = argparse.ArgumentParser(description="Kill a tiny study again and again, and compare.")
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--minutes", type=float, default=10.0, help="at most")
    options.add_argument("--seed", type=int, default=1, help="of the instants")
    options.add_argument("--without-ray", action="store_true")
    options.add_argument("--keep", action="store_true", help="write docs/soak.json")
    asked = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(Path(folder), asked.kills, asked.minutes, asked.seed)
        if not asked.without_ray:
            a_node_goes_and_returns(soak)
        workers = [threading.Thread(target=killed_again_and_again, args=(soak, k)) for k in range(SIDE_BY_SIDE)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for (what, whom, at), count in sorted(soak.done.items()):
        print(f"{count:4} {what} to {whom}, {at}")
    told = {
        "date": date.today().isoformat(),
        "cores": machine.cores(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "by_signal": soak.total(0),
        "by_stage": soak.total(2),
        "compared": soak.compared,
        "failures": len(soak.failures),
    }
    print(json.dumps(told, indent=1))
    if asked.keep:
        (paths.CHECKOUT / "docs" / "soak.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if soak.failures or not soak.compared else 0)


if __name__ == "__main__":
    main()
