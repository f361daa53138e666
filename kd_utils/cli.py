"""The command `kd`: thin, over the functions of grid, data and report."""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Knowledge distillation over a T x alpha grid, from images to the report's PDF.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there at once
)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="a study file, or the name of one in studies/")]
Jobs = Annotated[int | None, typer.Option(min=1, help="runs side by side [default: as many as cores or GPUs hold]")]
Device = Annotated[str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, cuda or mps")]
Engine = Annotated[str, typer.Option(help="local, or ray: a Ray cluster (the extra 'cluster')")]
Address = Annotated[str | None, typer.Option(help="of a running Ray cluster [default: start one here]")]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs that a run takes on Ray, fractions too")]
Source = Annotated[Path | None, typer.Option(help="zip or folder that holds TinyImageNet [default: downloaded]")]


@app.command()
def run(
    study: StudyArgument,
    jobs: Jobs = None,
    device: Device = "auto",
    engine: Engine = "local",
    address: Address = None,
    gpus: Gpus = None,
    source: Source = None,
) -> None:
    """Do all stages, each only as far as it is not done: data, teacher, grid, report."""
    from .running.pool import warm_up

    where = _where(jobs, device, engine, address, gpus)
    with _Screen(study, hold=True) as screen:
        if engine == "local":
            warm_up()
        screen.data(source)
        ok = screen.teacher(where) and screen.grid(where)
        screen.report()
    raise typer.Exit(0 if ok else 1)


@app.command()
def data(study: StudyArgument, source: Source = None) -> None:
    """Decode the study's data set, once."""
    with _Screen(study, hold=True) as screen:
        screen.data(source)


@app.command()
def teacher(
    study: StudyArgument,
    jobs: Jobs = None,
    device: Device = "auto",
    engine: Engine = "local",
    address: Address = None,
    gpus: Gpus = None,
) -> None:
    """Train the teacher candidates; the best one is the teacher."""
    where = _where(jobs, device, engine, address, gpus)
    with _Screen(study, hold=True) as screen:
        ok = screen.teacher(where)
    raise typer.Exit(0 if ok else 1)


@app.command()
def grid(
    study: StudyArgument,
    jobs: Jobs = None,
    device: Device = "auto",
    engine: Engine = "local",
    address: Address = None,
    gpus: Gpus = None,
) -> None:
    """Compute the soft targets, then run the cells."""
    where = _where(jobs, device, engine, address, gpus)
    with _Screen(study, hold=True) as screen:
        ok = screen.grid(where)
    raise typer.Exit(0 if ok else 1)


@app.command()
def report(study: StudyArgument) -> None:
    """Make results.csv and the report's PDF and HTML, from records alone."""
    with _Screen(study) as screen:
        screen.report()


@app.command()
def status(study: StudyArgument) -> None:
    """Show how far the study is, and its accuracies so far."""
    with _Screen(study) as screen:
        screen.status()


@app.command()
def logs(
    study: StudyArgument,
    run: Annotated[str, typer.Argument(metavar="RUN", help="a cell or candidate, as status calls it")],
) -> None:
    """Show what a run has printed so far, its error if it failed, and where its notebook lies."""
    with _Screen(study) as screen:
        screen.logs(run)


def main() -> None:
    """The entry point: the package's own errors end in one line and exit code 2, an interrupt in 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as e:
        if not type(e).__module__.startswith("kd_utils"):
            raise
        print(f"kd: {e}", file=sys.stderr)
        sys.exit(2)


def _where(jobs: int | None, device: str, engine: str, address: str | None, gpus: float | None):
    from .running.pipeline import Where

    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine is local or ray, not {engine!r}")
    return Where(jobs, device, engine, address, gpus)


def _interrupt(signum, frame):
    raise KeyboardInterrupt


class _Screen:
    """The stages of one study, and what the terminal shows of them."""

    def __init__(self, study: str, hold: bool = False):
        from contextlib import ExitStack

        from rich.console import Console

        from . import study as studies

        self.console = Console(highlight=False)
        self.study = studies.load(study)
        self.hold = hold
        self.stack = ExitStack()

    def __enter__(self):
        if self.hold:
            from .running import pipeline

            self.stack.enter_context(pipeline.held(self.study))
        return self

    def __exit__(self, kind, *exception):
        if kind is KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
        return self.stack.__exit__(kind, *exception)

    def data(self, source: Path | None) -> None:
        from .learning import data

        with self._bar() as bar:
            tasks = {}

            def progress(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done, total=total)

            found = data.prepare(self.study, source, progress)
        counts = ", ".join(f"{n:,} {split}" for split, n in found.meta["counts"].items() if n)
        self.console.print(f"data: {self.study.data.name}, {len(found.classes)} classes, {counts} images")

    def teacher(self, where) -> bool:
        from . import records
        from .learning import data
        from .running import pipeline

        fingerprint = data.load(self.study).fingerprint
        ok = self._run("teachers", pipeline.teacher_tasks(self.study, where.device), where)
        best = records.best_teacher(self.study, fingerprint)
        if best:
            among = len(self.study.teacher.candidates)
            self.console.print(f"teacher: {best['teacher']}, {best.metrics['top1_best']:.2%} top-1, best of {among}")
        return ok

    def grid(self, where) -> bool:
        from .running import pipeline

        # all that is missing is known, and said, before anything runs
        views = {seed: pipeline.soft_target_tasks(self.study, seed, where.device) for seed in self.study.seeds}
        ok = True
        for cells in self.study.stages():
            seed = cells[0].seed
            if self._run(f"soft targets, seed {seed}", views[seed], where, quiet=True):
                views[seed] = []
                ok = self._cells(f"cells, seed {seed}", cells, where) and ok
            else:
                ok = False
        pipeline.write_results(self.study)
        found = pipeline.state(self.study)
        done = sum(r is not None for r in found.cells.values())
        self.console.print(f"cells: {done} of {len(found.cells)} done")
        return ok

    def _cells(self, what: str, cells: list, where) -> bool:
        from .running import pipeline

        first = pipeline.cell_tasks(self.study, cells, where.device)
        ok = self._run(what, first, where)
        # those that had to wait for others: self-distillation, for its baseline
        tried = {task.name for task in first}
        rest = [task for task in pipeline.cell_tasks(self.study, cells, where.device) if task.name not in tried]
        return self._run(what, rest, where) and ok

    def report(self) -> None:
        from .reporting import paper
        from .running import pipeline

        pipeline.write_results(self.study)  # runs made by hand, without a grid, are in it too
        with self._bar() as bar:
            bar.add_task("report", total=None)
            pdf = paper.make(self.study)
        self.console.print(f"report: {pdf}", soft_wrap=True)

    def status(self) -> None:
        from .running import pipeline

        found = pipeline.state(self.study)
        if found.dataset is None:
            self.console.print(f"data: not prepared; run: kd data {self.study.name}")
        trained = [r for r in found.teachers.values() if r]
        self.console.print(f"teachers: {len(trained)} of {len(found.teachers)} trained")
        for label, record in found.teachers.items():
            best = " (the teacher)" if record and found.teacher and record.id == found.teacher.id else ""
            self.console.print(f"  {label:<28}{record.metrics['top1_best']:.2%}{best}" if record else f"  {label:<28}–")
        done = sum(r is not None for r in found.cells.values())
        failed = sum(c.name in found.failures for c in found.cells)
        running = sum(c.name in found.running for c in found.cells)
        waiting = len(found.cells) - done - failed - running
        self.console.print(f"cells: {done} done, {failed} failed, {running} running, {waiting} waiting")
        for name, (epoch, of, _) in found.running.items():
            self.console.print(f"running: {name}, epoch {epoch} of {of}")
        seconds, unknown = found.seconds_left()
        if running and seconds:
            left = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"
            without = f", without {', '.join(unknown)}, of which no cell has run yet" if unknown else ""
            self.console.print(f"about {left} left{without}", soft_wrap=True)
        for student in self.study.students:
            self._table(student.label, found)
        if found.others:
            self.console.print(
                f"{found.others} finished runs of other settings are kept in results/{self.study.name}/students; "
                "they are not part of the study as its file stands"
            )
        for name, error in found.failures.items():
            self.console.print(f"failed: {name}: {error}", style="red", markup=False, soft_wrap=True)

    def logs(self, name: str) -> None:
        import json

        from .running import pipeline

        folders = pipeline.state(self.study).folders
        if name not in folders:
            raise pipeline.GridError(f"no run {name!r} yet; there are: {', '.join(folders) or 'none'}")
        for path in sorted(folders[name].glob("*.ipynb")):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            for output in (o for c in cells for o in c.get("outputs", [])):
                if output["output_type"] == "stream":
                    print("".join(output["text"]), end="")
                elif output["output_type"] == "error":
                    print(f"{output['ename']}: {output['evalue']}")
            print(path)
        for path in (folders[name] / "run.log", folders[name] / "failure.json"):
            if path.is_file():
                print(path.read_text(encoding="utf-8"), path, sep="")

    def _table(self, label: str, found) -> None:
        from rich.table import Table

        over = ", mean over seeds" if len(self.study.seeds) > 1 else ""
        table = Table(title=f"{label}, top-1 on val in %{over}")
        table.add_column("T")
        alphas = sorted({c.alpha for c in found.cells if c.method == "kd"})
        for alpha in alphas:
            table.add_column(f"alpha {alpha:g}", justify="right")
        for T in sorted(self.study.grid.T):
            row = [f"{T:g}"]
            for alpha in alphas:
                own = [
                    r.metrics["top1_best"]
                    for c, r in found.cells.items()
                    if r and c.student == label and c.alpha == alpha and c.T in (T, None) and c.method == "kd"
                ]
                row.append(f"{100 * sum(own) / len(own):.2f}" if own else "–")
            table.add_row(*row)
        self.console.print(table)
        for method in self.study.methods:
            for T, alpha in ((T, a) for T in method.T for a in method.alpha):
                own = [
                    r.metrics["top1_best"]
                    for c, r in found.cells.items()
                    if r and (c.student, c.method, c.T, c.alpha) == (label, method.label, T, alpha)
                ]
                top1 = f"{100 * sum(own) / len(own):.2f}" if own else "–"
                self.console.print(f"  {method.label}, T {T:g}, alpha {alpha:g}: {top1}")

    def _run(self, stage: str, tasks: list, where, quiet: bool = False) -> bool:
        from .running import pipeline

        if not tasks:
            return True
        started = time.monotonic()
        with self._bar() as bar:
            line = bar.add_task(stage, total=sum(t.steps for t in tasks))
            finished = 0

            def on_done(task, seconds: float, error: str) -> None:
                nonlocal finished
                finished += task.steps
                if error:
                    bar.console.print(
                        f"failed: {task.name}: {error}; see {task.folder}", style="red", markup=False, soft_wrap=True
                    )
                elif not quiet:
                    bar.console.print(f"done: {task.name} ({seconds:.0f} s)", markup=False)

            def on_retry(task, error: str) -> None:
                bar.console.print(f"tried again: {task.name}: {error}", style="yellow", markup=False, soft_wrap=True)

            def on_tick(running: dict[str, int]) -> None:
                bar.update(line, completed=finished + sum(running.values()))

            failures = pipeline.run(self.study, tasks, where=where, on_done=on_done, on_retry=on_retry, on_tick=on_tick)
        if quiet and not failures:
            self.console.print(f"{stage}: {len(tasks)} done ({time.monotonic() - started:.0f} s)")
        return not failures

    def _bar(self):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
