import errno
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from helpers import SMALL, interruptible, kd, write_study
from rich.console import Console

import kd_utils
from kd_utils import cli, console, files
from kd_utils.cells import Cell
from kd_utils.holder import Holder
from kd_utils.running import events, pace, pipeline
from kd_utils.shelf import RunProgress
from kd_utils.study import load

INTERRUPTED = """
import os, signal, sys
class Interrupt:  # comes when a module is imported
    module = sys.argv.pop(1)
    def find_spec(self, name, *_):
        if name == self.module:
            self.module = None
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from kd_utils.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "yaml", "numpy"])
def test_an_interrupt_is_one_line_whatever_is_being_imported(root, module):
    command = [sys.executable, "-c", INTERRUPTED, module, "data", "small"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=interruptible)
    assert (done.returncode, done.stdout.strip()) == (130, "")
    assert done.stderr.strip() == "stopped; the same command goes on from here"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "/x/y"),
            "/x/y: Read-only file system; change its rights, or let",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x"), "/x: Not a directory; put this right, and run"),
        (files.DiskFull.at(Path("/x")), "no space left while writing /x; free some"),
    ],
)
def test_what_the_system_refuses_is_a_line(monkeypatch, capsys, error, says):
    def refuse():
        raise error

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err.startswith(f"kd: {says}")


def test_a_working_directory_that_is_gone_is_said_to_be(monkeypatch, capsys, tmp_path_factory):
    gone = tmp_path_factory.mktemp("gone")
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(cli, "app", os.getcwd)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "the folder that this was started in is gone" in capsys.readouterr().err


A, B, OTHER = Cell("x", 4.0, 0.5, 0), Cell("x", None, 1.0, 0), Cell("y", None, 1.0, 0)
DONE = SimpleNamespace(cost=SimpleNamespace(train_seconds=100.0))


def shelf(cells, candidates=None, controls=None):
    return SimpleNamespace(
        cells=cells, candidates=candidates or {}, controls=controls or {}, teacher=None, dataset=None
    )


@pytest.mark.parametrize(
    ("cells", "running", "left"),
    [
        ({A: DONE, B: None}, {B.name: RunProgress(3, 4, 25.0)}, (25, ())),  # a quarter of 100 s
        ({A: DONE, OTHER: None}, {OTHER.name: RunProgress(3, 4, 7.0)}, (7, ())),  # nothing finished: an epoch took 7 s
        ({A: DONE, B: None, OTHER: None}, {B.name: RunProgress(3, 4, 25.0)}, (25, ("y",))),  # of y nothing is known
    ],
)
def test_the_time_left_is_that_of_what_is_left(cells, running, left):
    found = pace.left(shelf(cells), running, 1)
    assert (found.seconds, found.without) == (pytest.approx(left[0]), left[1])


def test_the_time_left_counts_candidates_too_and_divides_by_what_goes_side_by_side():
    candidates = {"big": None, "small": None, "done": DONE}
    running = {"big": RunProgress(1, 4, 60.0)}
    found = pace.left(shelf({B: None}, candidates, {"early teacher": None}), running, 2)
    assert found.seconds == pytest.approx(3 * 60 / 2) and found.without == ("small", "early teacher", "x")
    assert found.short == "at least 90 s left"
    assert str(found) == "at least 90 s left; not counted: small, early teacher, x"


def test_a_candidate_s_pace_is_not_that_of_a_student_of_its_name():
    found = pace.left(shelf({A: None}, {"x": None}), {"x": RunProgress(1, 3, 60.0)}, 1)
    assert found == pace.Left(120.0, ("x",))


def test_what_runs_took_here_goes_before_what_their_records_say():
    found = pace.left(shelf({A: DONE, B: None}), {B.name: RunProgress()}, 1, pace.Took({A.name: 130.0}))
    assert found == pace.Left(130.0, ()) and found.short == "about 2.2 min left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, ""), (3, "about 3 s left"), (86, "about 86 s left"), (186, "about 3.1 min left"), (7300, "about 2.0 h left")],
)
def test_the_time_left_in_words(seconds, words):
    assert pace.Left(seconds, ()).short == words


def test_a_stage_s_own_time_left_says_that_more_comes():
    assert pace.of_stage(0, 10, 5.0).short == "" and pace.of_stage(2, 10, 5.0).short == "at least 20 s left"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_ignored_is_heard_at_the_next_event(monkeypatch):
    """It came while an object was freed."""

    class Freed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            while (
                not cli._interrupted
            ):  # another thread may have got the signal, and Python's handler comes a bit later
                time.sleep(0.01)

    monkeypatch.setattr(cli, "_interrupted", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt), cli._terminal() as tell:
            tell(events.Said("begun"))
            Freed()
            assert cli._interrupted == [signal.SIGINT]
            tell(events.Said("not said"))
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)


def told(root, *words, columns=80) -> list[str]:
    with mock.patch.object(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24))):
        return kd(root, *words).stdout.splitlines()


@pytest.mark.parametrize("words", [("status",), ("logs",), ("run", "--jobs", "2"), ("predict",)], ids=" ".join)
def test_a_command_without_a_study_names_those_there_are(root, words):
    done = kd(root, *words)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("kd: which study? Type ") and done.stderr.count("\n") == 1
    assert " small" in done.stderr and f"kd {words[0]} " in done.stderr
    for file in (root / "studies").glob("*.yaml"):
        file.unlink()
    assert "write one with: kd new NAME --data FOLDER" in kd(root, *words).stderr


COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_fits_80_columns_and_names_what_is_typed(root, words):
    lines = told(root, *words, "--help")
    assert max(map(len, lines)) <= 80
    assert not re.search(
        r"<\w+>|list\[|\{|range|\.\.\.$|\.\.\.\.", re.sub(r"<class>/|\[ARGS]\.\.\.", "", "\n".join(lines))
    )


def test_every_option_that_takes_a_value_says_which(root):
    for name in COMMANDS:
        options = [line.split("  ")[1] for line in told(root, name, "--help") if line.startswith("  --")]
        flags = {"--help", "--list", "--int8", "--soft-targets"}
        assert all(option in flags or re.fullmatch(r"--[a-z-]+ [A-Z:]+", option) for option in options), options


def test_the_version_is_the_package_s(root):
    assert told(root, "--version") == [f"kd-utils {kd_utils.__version__}"]


def test_list_has_every_study_and_what_is_wrong_with_a_file(root, tmp_path_factory):
    write_study(root, {}, "broken")
    assert [line.split()[0] for line in told(root, "list")[:2]] == ["study", "broken"]
    assert re.search(r"^small +0 of 2 +0 of 10 +not begun$", "\n".join(map(str.rstrip, told(root, "list"))), re.M)
    empty = tmp_path_factory.mktemp("empty")
    assert told(empty, "list") == [f"no study in {empty}/studies yet; write one with: kd new NAME --data FOLDER"]


def test_logs_and_status_of_a_study_that_never_ran_name_the_command(root):
    assert told(root, "logs", "small") == ["study 'small' has not run yet; start it with: kd run small"]
    assert told(root, "logs", "small", "shuffle")[0].startswith("shuffle has not run yet; ")
    assert "did you mean shuffle" in kd(root, "logs", "small", "shufle").stderr
    status = told(root, "status", "small")
    assert status[0] == "data: not prepared; run: kd data small" and status[2:4] == [
        "  test_byobnet  waiting",
        "  shuffle       waiting",
    ]
    assert len(status) == 5, "and no empty table"


def test_python_prints_a_line_for_each_thing_that_ends_and_a_bar_where_it_can_move(capsys, monkeypatch):
    def told():
        tell = events.Printer()
        tell(events.StageProgress("cells", 1, 4))
        tell(events.Done("one", 3.2, 0.5))
        tell(events.StageProgress("cells", 2, 4))
        return capsys.readouterr().out

    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert told() == "done: one, 50.00% top-1 (3 s)\n"
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # as in a notebook
    lines = [part.strip() for part in re.split(r"[\r\n]", told()) if part.strip()]
    assert lines == [
        "########...................... cells: 1 of 4",
        "done: one, 50.00% top-1 (3 s)",
        "###############............... cells: 2 of 4",
    ]
    tell = events.Printer()
    tell(events.StageProgress("cells", 45.6 / 14.1, 14, "2 min left"))  # a run is done in part
    tell(events.StageProgress("report", 0, 0))
    lines = [part.strip() for part in capsys.readouterr().out.split("\r") if part.strip()]
    assert lines == ["#######....................... cells: 3 of 14, 2 min left", "report"]


def test_the_terminal_shows_a_line_for_each_thing_that_ends(tmp_path):
    out = io.StringIO()
    with console.Terminal(Console(file=out, width=60)) as tell:
        tell(events.StageProgress("teachers", 0, 10))
        tell(events.StageProgress("teachers", 5, 10))
        tell(events.Done("one", 3.2, 0.4567))
        tell(events.Retried("two", "killed by SIGKILL"))
        tell(events.Failed("three", "ValueError: a [red]b[/x]", tmp_path))
        tell(events.StageProgress("cells", 0, 1))
    lines = [line.strip() for line in out.getvalue().splitlines() if line.strip()]
    assert lines == [
        "done: one, 45.67% top-1 (3 s)",
        "tried again: two: killed by SIGKILL",
        f"failed: three: ValueError: a [red]b[/x]; see {tmp_path}",
    ]


@pytest.mark.parametrize("content", ["{", "{}", '{"cells": 5}', '{"cells": [5]}', '{"cells": [{"outputs": [{}]}]}'])
def test_logs_of_a_damaged_notebook_say_so(tmp_path, monkeypatch, capsys, content):
    notebook = tmp_path / "distill.ipynb"
    notebook.write_text(content)
    (tmp_path / "run.log").write_bytes(b"caf\xe9\n")
    shelf = SimpleNamespace(folders=lambda: [("one", tmp_path)], running=dict, failures=dict)
    monkeypatch.setattr(console, "Shelf", lambda study: shelf)
    console.logs(SimpleNamespace(), "one")
    damaged = f"{notebook}: damaged; the run writes it anew"
    assert capsys.readouterr().out.splitlines() == [f"one: {tmp_path}", damaged, "caf\ufffd", f"{tmp_path / 'run.log'}"]


ESC = "a\x1b[31m[bold]b[link=http:x]:smile:\u202e"
SEEN = "a\\x1b[31m[bold]b[link=http:x]:smile:\\u202e"


def test_names_are_shown_as_they_are_typed(root, monkeypatch, capsys):
    """Of studies, images, classes, notes and what a run has printed: none of it is markup, or moves the cursor."""
    shutil.copy(root / "studies" / "small.yaml", root / "studies" / f"{ESC}.yaml")
    assert SEEN in kd(root, "list").stdout
    assert f"in studies/ there are: {SEEN}, small" in kd(root, "status", "smal").stderr
    from kd_utils.learning import data, export

    monkeypatch.setattr(export, "predictor", lambda study, run: lambda image: [(f"class {ESC}", 0.5)])
    assert kd(root, "predict", "small", ESC).stdout == f"{SEEN}\tclass {SEEN} 50.0%\n"
    monkeypatch.setattr(data, "listed", lambda study: [("train", 0, ESC, f"{ESC}\udc80\n")])
    assert kd(root, "data", "small", "--list").stdout == f"train\t0\t{SEEN}\t{SEEN}\\udc80 \n"
    events.Printer()(events.Said(ESC))
    assert capsys.readouterr().out == f"{SEEN}\n"
    out = io.StringIO()
    with console.Terminal(Console(file=out, width=200)) as tell:
        tell(events.Failed(ESC, ESC, root))
    assert f"failed: {SEEN}: {SEEN}; see" in out.getvalue()


def test_what_a_run_has_printed_is_shown_as_it_is(tmp_path, monkeypatch, capsys):
    outputs = [
        {"output_type": "stream", "text": [f"one {ESC}\n", "two \ud800\n"]},
        {"output_type": "error", "ename": "E", "evalue": f"{ESC}\udfff"},
    ]
    (tmp_path / "distill.ipynb").write_text(json.dumps({"cells": [{"outputs": outputs}]}))
    (tmp_path / "run.log").write_text(f"{ESC}\n")
    shelf = SimpleNamespace(folders=lambda: [("one", tmp_path)], running=dict, failures=dict)
    monkeypatch.setattr(console, "Shelf", lambda study: shelf)
    console.logs(SimpleNamespace(), "one")
    _, *lines = capsys.readouterr().out.splitlines()
    told = [f"one {SEEN}", "two \\ud800", f"E: {SEEN}\\udfff", f"{tmp_path}/distill.ipynb", SEEN, f"{tmp_path}/run.log"]
    assert lines == told


def test_one_study_that_cannot_be_read_does_not_end_the_list(root):
    for name in ("folder", "null", "gone", "loop", "locked"):
        write_study(root, SMALL, name)
        (root / "results" / name).mkdir(parents=True)
    (root / "results" / "folder" / "data.json").mkdir()
    (root / "results" / "null" / "data.json").write_text('{"file": "a\\u0000b"}')
    (root / "results" / "gone" / "data.json").write_text(json.dumps({"file": "x" * 5000}))
    os.mkfifo(root / "results" / "locked" / "data.json")
    (root / "studies" / "loop.yaml").unlink()
    (root / "studies" / "loop.yaml").symlink_to("loop.yaml")
    told = kd(root, "list")
    assert told.returncode == 0 and told.stderr == ""
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in told.stdout.splitlines() if line.strip()}
    assert rows["small"].endswith("not begun") and "no study file" in rows["loop"]
    one_line = " ".join(told.stdout.split())
    assert f"{root}/results/folder/data.json: Is a directory" in one_line.replace("data. json", "data.json")
    assert "data.json: damaged" in rows["null"] + rows["gone"] and "not a file" in one_line


def test_a_pipe_in_the_place_of_a_note_is_not_waited_for(root):
    folder = root / "results" / "small"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "study.holder")
    assert kd(root, "status", "small").stdout.startswith("data: not prepared")
    with pipeline.held(load("small")):
        assert kd(root, "status", "small").stdout.startswith("data: under way")


@pytest.mark.parametrize(
    "noted", ["process 1 on here, since 2026-11-01", "{}", '{"pid": "1", "host": 2, "since": 3}', ""]
)
def test_a_note_that_says_nobody_is_nobody_s(root, noted):
    folder = root / "results" / "small"
    folder.mkdir(parents=True)
    (folder / "study.holder").write_text(noted)
    assert kd(root, "status", "small").stdout.startswith("data: not prepared")
    with pipeline.held(load("small")):
        assert f"at work: process {os.getpid()} on " in kd(root, "status", "small").stdout
    assert not (folder / "study.holder").exists()


def test_a_command_of_another_machine_is_at_work_and_one_that_is_gone_is_not(root):
    folder = root / "results" / "small"
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    elsewhere = Holder(ended.pid, "elsewhere, since ever", "2026-11-01")
    elsewhere.write(folder)
    assert Holder.of(folder) == elsewhere and f"at work: {elsewhere}" in kd(root, "status", "small").stdout
    Holder(ended.pid, files.HOST, "2026-11-01").write(folder)
    assert "at work" not in kd(root, "status", "small").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "small", "--jobs", "9" * 20], "'--jobs'"),
        (["run", "small", "--device", "cpu:x"], "--device is auto, cpu, cuda, mps, not 'cpu:x'"),
        (["run", "small", "--device", "cuda:99"], "CUDA_VISIBLE_DEVICES chooses among GPUs"),
        (["data", "small", "--list", "--source", "/x"], "leave --source out"),
        (["status", "x" * 100_000], "no study file"),
        (["logs", "small", "x" * 100_000], "has no run 'xxx"),
    ],
)
def test_what_cannot_be_asked_for_is_said_at_once_and_in_short(root, words, says):
    told = kd(root, *words)
    assert told.returncode == 2 and len(told.stderr) < 2000
    assert says in " ".join(told.stderr.replace("│", " ").split()) and not (root / "results").exists()
