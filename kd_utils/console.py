"""What the terminal shows: a study's events as bars and lines, how far it is, a run's output. Loads no torch."""

import difflib
import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import files, paths, records
from .cells import Cell, temperature_at
from .records import RecordError, StudentRecord
from .running import events
from .shelf import RunProgress, Shelf, ShelfError
from .study import Study, load
from .text import printable, short, shortened
from .validation import StudyError

if TYPE_CHECKING:
    from .learning.export import Export

STYLES = {events.Failed: "red", events.Retried: "yellow", events.Advised: "yellow"}


class Terminal:
    """Shows events as they come: a bar for the stage at work, a line for each thing that ends."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(20),  # with its words it fits 80 columns
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
        )
        self._stage, self._line = "", TaskID(0)

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, event: events.Event) -> None:
        if not isinstance(event, events.StageProgress):
            _say(self.console, str(event), STYLES.get(type(event)))
            return
        total = event.total or None
        if event.stage != self._stage:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._stage, self._line = event.stage, self._bar.add_task(event.stage, total=total, left="")
        self._bar.update(self._line, completed=event.done, total=total, left=event.left)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line, the names in it as they are typed: none is markup."""
    console.print(Text(printable(text)), style=style, soft_wrap=True)


def listed(console: Console | None = None) -> None:
    """Show the studies of this root, and how far each is."""
    console = console or Console(highlight=False)
    folder = paths.studies()
    studies = sorted(folder.glob("*.yaml"))
    known = {os.path.realpath(file) for file in studies}
    studies += [file for file in _elsewhere() if os.path.realpath(file) not in known]
    if not studies:
        _say(console, f"no study in {folder} yet; write one with: kd new NAME --data FOLDER")
        return
    table = Table("study", "teachers", "cells", "state", box=None, pad_edge=False)
    for file in studies:
        name, style = Text(printable(file.stem)), None
        try:
            far = _far(load(file))
        except (StudyError, ShelfError, RecordError) as e:
            far, style = ("", "", str(e)), "red"
        except OSError as e:  # of this study alone
            far, style = ("", "", f"{e.filename}: {e.strerror}"), "red"
        table.add_row(name, *(Text(printable(shortened(part))) for part in far), style=style)
    console.print(table)


def _elsewhere() -> list[Path]:
    """The study files that results are of, as far as that is noted and they are there."""
    studies = []
    for path in sorted(paths.results("").glob(f"*/{paths.DATA}")):
        with suppress(OSError):  # which the study itself tells of, if it is one
            about = files.read_json(path, file=str)
            if about and files.exists(file := paths.root() / about["file"]):
                studies.append(Path(os.path.realpath(file)))
    return studies


def _far(study: Study) -> tuple[str, str, str]:
    """How far a study is: teachers, cells, and in words."""
    shelf = Shelf(study)
    cells, trained = shelf.cells, len(shelf.teachers)
    done = sum(record is not None for record in cells.values())
    state = "stopped" if done or trained else "not begun"
    if done == len(cells):
        report = (paths.report(study.name) / paths.PDF).is_file()
        state = "done" if report else f"no report yet: kd report {study.name}"
    elif failed := len(shelf.failures()):
        state = f"{failed} failed"
    if damaged := len(shelf.damaged):
        state = f"{damaged} damaged: kd status {study.name}"
    if shelf.at_work:
        state = "at work"
    of_cells = "unknown" if shelf.damaged_teachers else f"{done} of {len(cells)}"
    return f"{trained} of {len(shelf.candidates)}", of_cells, state


def status(study: Study, console: Console | None = None) -> None:
    """Show how far a study is, its accuracies so far and the time left."""
    console = console or Console(highlight=False)
    shelf = Shelf(study)
    damaged, failures, running, at_work = shelf.damaged_runs, shelf.failures(), shelf.running(), shelf.at_work
    if shelf.dataset is None:
        console.print("data: under way" if at_work else f"data: not prepared; run: kd data {study.name}")
    console.print(f"teachers: {len(shelf.teachers)} of {len(shelf.candidates)} trained")
    teachers = {**shelf.candidates, **shelf.controls}
    width = max(map(len, teachers))
    for label, record in teachers.items():
        if record:
            state = f"{record.metrics.top1_best:.2%}{' (the teacher)' if record is shelf.teacher else ''}"
        else:
            state = "failed" if label in failures else str(running.get(label, "waiting"))
            state = "damaged" if label in damaged else state
        _say(console, f"  {label:<{width}}  {state}")
    if shelf.damaged_teachers:
        console.print("cells: which are done cannot be told without all candidates' records")
    else:
        _cells(console, shelf, damaged, failures, running)
    for name, error in failures.items():
        _say(console, f"failed: {name}: {error}", "red")
    for error in [*shelf.damaged.values()][:MOST_DAMAGED]:
        _say(console, f"damaged: {error}", "red")
    if len(shelf.damaged) > MOST_DAMAGED:
        console.print(f"and {len(shelf.damaged) - MOST_DAMAGED} more damaged records")
    if at_work:
        _say(console, f"at work: {at_work}")
        if left := _left(study):
            _say(console, left)


MOST_DAMAGED = 10  # records that are named


def _cells(
    console: Console,
    shelf: Shelf,
    damaged: Collection[str],
    failures: Collection[str],
    running: Mapping[str, RunProgress],
) -> None:
    """How many cells are done, and what they came to."""
    study, cells = shelf.study, shelf.cells
    done = sum(record is not None for record in cells.values())
    failed = sum(cell.name in failures for cell in cells)
    working = {cell.name: running[cell.name] for cell in cells if cell.name in running}
    broken = sum(cell.name in damaged for cell in cells)
    waiting = len(cells) - done - failed - len(working) - broken
    also = f", {broken} damaged" if broken else ""
    console.print(f"cells: {done} done, {failed} failed, {len(working)} running, {waiting} waiting{also}")
    for name, at in working.items():
        _say(console, f"  {name}: {at}")
    for student in study.students:
        _accuracies(console, study, student.label, cells)
    if beside := sum(record.cell not in cells for record in shelf.students):
        console.print(f"finished beside the grid, by a search or by hand: {beside}; the report has a table of them")
    if shelf.others:
        console.print(
            f"{shelf.others} finished runs of other settings are kept in results/{study.name}/students; "
            "they are not part of the study as its file stands"
        )


def _left(study: Study) -> str:
    """The time left as the command at work has estimated it; '' where it has not."""
    try:
        return files.read_text(paths.results(study.name) / paths.LEFT)
    except (OSError, ValueError):
        return ""


def _accuracies(console: Console, study: Study, student: str, cells: Mapping[Cell, StudentRecord | None]) -> None:
    """The grid of one student, and its further methods: mean accuracies over the seeds that are done."""
    top1: dict[tuple[str, float | None, float], list[float]] = defaultdict(list)
    for cell, record in cells.items():
        if record and cell.student == student:
            top1[cell.method, cell.T, cell.alpha].append(record.metrics.top1_best)

    if not top1:
        return

    def shown(method: str, T: float | None, alpha: float) -> str:
        values = top1.get((method, T, alpha))
        return f"{100 * sum(values) / len(values):.2f}" if values else "–"

    over = ", mean over seeds" if len(study.seeds) > 1 else ""
    _say(console, f"{student}, top-1 on val in %{over}")
    table = Table()
    alphas = sorted({*study.grid.alphas, 1.0})
    table.add_column("T")
    columns = [[short(T) for T in study.grid.temperatures]]
    for alpha in alphas:
        table.add_column(f"alpha {short(alpha)}", justify="right")
        columns.append([shown("kd", temperature_at(T, alpha), alpha) for T in study.grid.temperatures])
    table.add_row(*("\n".join(column) for column in columns))  # one row of many lines is laid out ten times as fast
    console.print(table)
    for method in study.methods:
        for T, alpha in ((T, alpha) for T in method.T for alpha in method.alpha):
            point = f"T {short(T)}, alpha {short(alpha)}" if method.teaching.temperature else f"alpha {short(alpha)}"
            _say(console, f"  {method.label}, {point}: {shown(method.label, T, alpha)}")


def exported(result: "Export", console: Console | None = None) -> None:
    """Show what an export has written."""
    console = console or Console(highlight=False)
    table = Table("model", "form")
    for column in ("top-1, %", "MB", "ms"):
        table.add_column(column, justify="right")
    for row in result.rows:
        numbers = ("–" if n is None else f"{n:.2f}" for n in (100 * row.top1, row.megabytes, row.milliseconds))
        table.add_row(Text(printable(row.model)), row.form, *numbers)
    console.print(table)
    _say(console, "ms: one image of the stored size, on one thread of this processor, by ONNX Runtime")
    for row in result.rows:
        if row.path:
            _say(console, str(row.path))
    for note in result.notes:
        _say(console, f"note: {note}", "yellow")
    if result.loading:
        for line in ("the weights alone:", *result.loading.split("\n")):
            _say(console, line)


def logs(study: Study, run: str = "") -> None:
    """Show what a run has printed so far, its error if it failed, and where its notebook lies. Raises ShelfError.

    run: by default one that failed, else the one that did something last.
    """
    shelf = Shelf(study)
    folders = {name: folder for name, folder in shelf.folders() if folder.is_dir()}
    if not run and not folders:
        print(f"study '{study.name}' has not run yet; start it with: kd run {study.name}")
        return
    run = run or next(iter(shelf.failures()), "") or max(folders, key=lambda name: _latest(folders[name]))
    if run not in folders:
        names = [*shelf.candidates, *shelf.controls, *(cell.name for cell in shelf.cells)]
        if run not in names:
            close = difflib.get_close_matches(run, names, 3, 0.3)
            raise ShelfError(
                f"study '{study.name}' has no run {run!r}; did you mean {' or '.join(close or names[:3])}?"
            )
        print(f"{run} has not run yet; start what is left of the study with: kd run {study.name}")
        return
    folder, record = folders[run], records.read(folders[run])
    print(f"{run}: {printable(str(folder))}")
    if record:
        print(f"done: {record.metrics.top1_best:.2%} top-1, {record.provenance.finished}")
    if at := shelf.running().get(run):
        print(f"running: {at}")
    shown = sorted(folder.glob("*.ipynb"))
    for path in shown:
        try:
            printed = _printed(files.read_json(path) or {})
        except (AttributeError, KeyError, TypeError):
            print(f"{printable(str(path))}: damaged; the run writes it anew")
        else:
            _print_lines(f"{printed}{path}")
    for path in (folder / paths.LOG, folder / paths.FAILURE):
        if path.is_file() and path.stat().st_size:
            _print_lines(f"{path.read_text(encoding='utf-8', errors='replace')}{path}")
            shown.append(path)
    if not shown:
        print(
            "its notebook is not here: it stays where the run was made" if record else "it has printed nothing so far"
        )


def _print_lines(text: str) -> None:
    """Print lines that others wrote."""
    print(*map(printable, text.split("\n")), sep="\n")


def _latest(folder: Path) -> float:
    """When something in a folder was last changed."""
    return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)


def _printed(notebook: dict) -> str:
    """What an executed notebook's cells have printed, and their errors. Raises KeyError and others if it is none."""
    printed = []
    for output in (o for cell in notebook["cells"] for o in cell.get("outputs", [])):
        if output["output_type"] == "stream":
            printed.append("".join(output["text"]))
        elif output.get("metadata", {}).get("kd_utils", {}).get("progress"):  # of a training
            printed.append("".join(output["data"]["text/plain"]) + "\n")
        elif output["output_type"] == "error":
            printed.append(f"{output['ename']}: {output['evalue']}\n")
    return "".join(printed)
