"""What the terminal shows: a study's events as bars and lines, how far it is, and what a run has printed."""

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import files, paths
from .records import StudentRecord
from .running import events, pace
from .shelf import Shelf, ShelfError
from .study import Cell, Study, short

if TYPE_CHECKING:
    from .learning.export import Export

STYLES = {events.Failed: "red", events.Retried: "yellow", events.Advised: "yellow"}


class Terminal:
    """Shows events as they come: a bar for the stage at work, a line for each thing that ends."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
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
            self.console.print(str(event), style=STYLES.get(type(event)), markup=False, soft_wrap=True)
            return
        total = event.total or None
        if event.stage != self._stage:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._stage, self._line = event.stage, self._bar.add_task(event.stage, total=total, left="")
        self._bar.update(self._line, completed=event.done, total=total, left=event.left)


def status(study: Study, console: Console | None = None) -> None:
    """Show how far a study is, its accuracies so far and the time left."""
    console = console or Console(highlight=False)
    shelf = Shelf(study)
    cells, failures, running = shelf.cells, shelf.failures(), shelf.running()
    if shelf.dataset is None:
        console.print(f"data: not prepared; run: kd data {study.name}")
    console.print(f"teachers: {len(shelf.teachers)} of {len(shelf.candidates)} trained")
    for label, record in shelf.candidates.items():
        mark = " (the teacher)" if record and record is shelf.teacher else ""
        top1 = f"{record.metrics.top1_best:.2%}{mark}" if record else "–"
        console.print(f"  {label:<28}{top1}", markup=False)
    done = sum(record is not None for record in cells.values())
    failed = sum(cell.name in failures for cell in cells)
    working = sum(cell.name in running for cell in cells)
    waiting = len(cells) - done - failed - working
    console.print(f"cells: {done} done, {failed} failed, {working} running, {waiting} waiting")
    for name, at in running.items():
        speed = f"{at.epoch_seconds:.0f} s an epoch, {at.images_per_second:,.0f} images/s"
        console.print(f"running: {name}, epoch {at.epoch} of {at.epochs}, {speed}", markup=False, soft_wrap=True)
    if running and (left := str(pace.left(shelf, running, len(running)))):
        console.print(left, soft_wrap=True)
    for student in study.students:
        _accuracies(console, study, student.label, cells)
    if shelf.others:
        console.print(
            f"{shelf.others} finished runs of other settings are kept in results/{study.name}/students; "
            "they are not part of the study as its file stands"
        )
    for name, error in failures.items():
        console.print(f"failed: {name}: {error}", style="red", markup=False, soft_wrap=True)


def _accuracies(console: Console, study: Study, student: str, cells: Mapping[Cell, StudentRecord | None]) -> None:
    """The grid of one student, and its further methods: mean accuracies over the seeds that are done."""
    top1: dict[tuple[str, float | None, float], list[float]] = defaultdict(list)
    for cell, record in cells.items():
        if record and cell.student == student:
            top1[cell.method, cell.T, cell.alpha].append(record.metrics.top1_best)

    if not top1:
        return

    def shown(*point) -> str:
        values = top1.get(point)
        return f"{100 * sum(values) / len(values):.2f}" if values else "–"

    over = ", mean over seeds" if len(study.seeds) > 1 else ""
    table = Table(title=f"{student}, top-1 on val in %{over}")
    alphas = sorted({*study.grid.alphas, 1.0})
    table.add_column("T")
    columns = [[short(T) for T in study.grid.temperatures]]
    for alpha in alphas:
        table.add_column(f"alpha {short(alpha)}", justify="right")
        columns.append([shown("kd", None if alpha == 1 else T, alpha) for T in study.grid.temperatures])
    table.add_row(*("\n".join(column) for column in columns))  # one row of many lines is laid out ten times as fast
    console.print(table)
    for method in study.methods:
        for T, alpha in ((T, alpha) for T in method.T for alpha in method.alpha):
            point = f"T {short(T)}, alpha {short(alpha)}"
            console.print(f"  {method.label}, {point}: {shown(method.label, T, alpha)}", markup=False)


def exported(result: "Export", console: Console | None = None) -> None:
    """Show what an export has written."""
    console = console or Console(highlight=False)
    table = Table("model", "form")
    for column in ("top-1, %", "MB", "ms"):
        table.add_column(column, justify="right")
    for row in result.rows:
        numbers = ("–" if n is None else f"{n:.2f}" for n in (100 * row.top1, row.megabytes, row.milliseconds))
        table.add_row(escape(row.model), row.form, *numbers)
    console.print(table)
    console.print("ms: one image of the stored size, on one thread of this processor, by ONNX Runtime", soft_wrap=True)
    for row in result.rows:
        if row.path:
            console.print(str(row.path), markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)
    if result.loading:
        console.print(f"the weights alone:\n{result.loading}", markup=False, soft_wrap=True)


def logs(study: Study, run: str) -> None:
    """Show what a run has printed so far, its error if it failed, and where its notebook lies. Raises ShelfError."""
    shelf = Shelf(study)
    folders = {name: folder for name, folder in shelf.folders() if folder.is_dir()}
    if run not in folders:
        raise ShelfError(f"no run {run!r} yet; there are: {', '.join(folders) or 'none'}")
    print(folders[run])
    if at := shelf.running().get(run):
        print(f"running: epoch {at.epoch} of {at.epochs} is done, {at.epoch_seconds:.0f} s an epoch")
    for path in sorted(folders[run].glob("*.ipynb")):
        try:
            printed = _printed(files.read_json(path) or {})
        except (AttributeError, KeyError, TypeError):
            print(f"{path}: damaged; the run writes it anew")
        else:
            print(*printed, path, sep="")
    for path in (folders[run] / paths.LOG, folders[run] / paths.FAILURE):
        if path.is_file():
            print(path.read_text(encoding="utf-8", errors="replace"), path, sep="")


def _printed(notebook: dict) -> list[str]:
    """What an executed notebook's cells have printed, and their errors. Raises KeyError and others if it is none."""
    printed = []
    for output in (o for cell in notebook["cells"] for o in cell.get("outputs", [])):
        if output["output_type"] == "stream":
            printed.append("".join(output["text"]))
        elif output.get("metadata", {}).get("kd_utils", {}).get("progress"):  # of a training
            printed.append("".join(output["data"]["text/plain"]) + "\n")
        elif output["output_type"] == "error":
            printed.append(f"{output['ename']}: {output['evalue']}\n")
    return printed
