"""The grid on a real Ray cluster of two nodes on this machine, one of which is lost in the middle."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import kd, outcome, same, start

from kd_utils import files
from kd_utils.running import cluster, pipeline
from kd_utils.study import load

ray = pytest.importorskip("ray", reason="the extra cluster is not installed")


def node() -> dict:
    """A node's settings. Ports that are given spare Ray's wait of 15 s for them, which kills it on a busy machine."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("", 0))) for _ in PORTS]
        ports = [s.getsockname()[1] for s in held]
    return {"num_cpus": 1, "include_dashboard": False, **dict(zip(PORTS, ports, strict=True))}


PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


@pytest.fixture
def two_nodes():
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args=node())
    second = nodes.add_node(**node())
    yield nodes, second
    nodes.shutdown()


def test_a_lost_node_costs_only_its_unfinished_runs(finished, copied, two_nodes):
    """Six cells are to be run; the node is lost when one of them is done, which leaves more than one machine's."""
    nodes, second = two_nodes
    students = copied / "results" / "small" / "students"
    for folder in [*students.glob("test_byobnet-*"), *students.glob("efficient-baseline-*")]:
        shutil.rmtree(folder)
    command = start(copied, "grid", "small", "--engine", "ray", "--address", nodes.address)
    while len(list(students.glob("*/record.json"))) < 5 and command.poll() is None:
        time.sleep(0.05)
    before = {p: p.stat().st_mtime_ns for p in students.glob("*/record.json")}
    assert 5 <= len(before) < 10
    nodes.remove_node(second, allow_graceful=False)
    output, _ = command.communicate(timeout=300)
    assert command.returncode == 0, output
    assert {p: p.stat().st_mtime_ns for p in before} == before
    same(finished, copied)
    assert len(outcome(copied)[0]) == 10


OWN = """
from pathlib import Path
import psutil
from kd_utils.running import cluster
with cluster._own_cluster():
    ours = {p.pid for p in (psutil.Process(), *psutil.Process().children(recursive=True))}
    heard = {c.laddr.ip for c in psutil.net_connections("inet") if c.pid in ours and c.status == psutil.CONN_LISTEN}
    from ray._private.worker import _global_node
    sockets = Path(_global_node.get_sockets_dir_path())
    assert any(sockets.iterdir()) and any(p.stat().st_mode & 0o777 == 0o700 for p in sockets.parents), sockets
assert heard, ours
print(*heard)
"""


def test_a_cluster_of_its_own_listens_on_the_loopback_alone():
    """And where no other user can enter."""
    done = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {address.removeprefix("::ffff:") for address in done.stdout.split()} <= {"127.0.0.1", "::1"}


def test_folders_of_killed_commands_are_swept_and_no_others(tmp_path, monkeypatch, root):
    """Those of the living, of other machines, and what is no folder of ours stay."""
    monkeypatch.setattr(cluster, "TEMPORARY", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owners = {"dead": f"{files.HOST} {ended.pid}", "other": f"elsewhere {ended.pid}", "none": None, "odd": "x"}
    for name, owner in owners.items():
        (tmp_path / f"kd-{name}" / "ray").mkdir(parents=True)
        if owner:
            (tmp_path / f"kd-{name}" / "owner").write_text(owner)
    (tmp_path / "elsewhere" / "owner").write_text(owners["dead"])
    (tmp_path / "kd-link").symlink_to(tmp_path / "elsewhere")
    with cluster._private() as private, pipeline.held(load("small")):
        assert Path(private, "owner").is_file()
        left = {path.name for path in tmp_path.glob("kd-*")}
        assert left == {"kd-other", "kd-none", "kd-odd", "kd-link", Path(private).name}
    assert (tmp_path / "elsewhere" / "owner").is_file() and not Path(private).exists()


def test_a_ray_that_would_listen_everywhere_is_not_started(monkeypatch):
    monkeypatch.delenv(cluster.REACHABLE, raising=False)
    with pytest.raises(cluster.ClusterError, match="would listen on all interfaces"), cluster._own_cluster():
        pass


def test_no_cluster_is_said_to_be_missing(root):
    kd(root, "data", "small")
    done = kd(root, "teacher", "small", "--engine", "ray", "--address", "127.0.0.1:9")
    assert done.returncode == 2 and "no Ray cluster at 127.0.0.1:9" in done.stderr


def test_nothing_to_do_starts_nothing():
    assert cluster.run_tasks([], gpus=0, address="127.0.0.1:9") == []
