"""The command `kd`: what can be typed, each command a call of the function that does it. Loads no torch."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperCommand

from . import __version__
from .__main__ import INTERRUPTED, STOPPED, on_interrupt, stop
from .sources import SOURCES

if TYPE_CHECKING:
    from .running.events import Event, Listener
    from .running.pipeline import Resources

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there at once
)


class _Command(TyperCommand):
    """A command whose help has each argument and option as it is typed, and in words; typer's own adds its types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = (p for p in self.get_params(ctx) if p.param_type_name == "argument")
        return ["[OPTIONS]", *(_typed(p) for p in arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        nothing = not args
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as e:  # of a study, which may be any word: it is missing
            first = next((p.name for p in self.params if p.param_type_name == "argument"), "")
            if e.param is None or not (e.param.name == "study" or (nothing and first == "study")):
                raise
            raise _no_study(ctx.info_name) from None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for kind in ("argument", "option"):
            of_kind = [p for p in self.get_params(ctx) if p.param_type_name == kind]
            if of_kind:
                with formatter.section(f"{kind.capitalize()}s"):
                    formatter.write_dl([(_typed(p), getattr(p, "help", None) or "") for p in of_kind])


def _typed(parameter: Any) -> str:
    """An argument or an option as it is typed: STUDY, [RUN], --jobs N."""
    if parameter.param_type_name == "argument":
        return parameter.metavar if parameter.required else f"[{parameter.metavar}]"
    return " ".join([*parameter.opts, *([parameter.metavar] if parameter.metavar else [])])


def _no_study(command: str | None) -> Exception:
    """That a command was typed without a study: which ones there are, and what to type."""
    from . import paths
    from .validation import StudyError

    folder = paths.studies()
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if not names:
        return StudyError(f"no study in {folder} yet; write one with: kd new NAME --data FOLDER")
    return StudyError(
        f"which study? Type kd {command} NAME; NAME is one of {', '.join(names)} (kd list shows how far each is)"
    )


command = partial(app.command, cls=_Command)


def _version(asked: bool) -> None:
    if asked:
        print(f"kd-utils {__version__}")
        raise typer.Exit


@app.callback()
def _kd(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
    ] = False,
) -> None:
    """Knowledge distillation over a T x alpha grid, from images to a PDF."""


StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="a study file, or the name of one in studies/")]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="; ".join(f"{s.given} of {s.name}" for s in SOURCES.values() if s.path == "optional")
        + " [default: downloaded]",
    ),
]


def _where(
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=1024, help="runs side by side [default: as many as cores or GPUs hold]"),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, mps or auto: the first of cuda, mps, cpu [default: auto]")
    ] = "auto",
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local, or ray: a Ray cluster (the extra 'cluster') [default: local]")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="of a running Ray cluster [default: start one here]")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(metavar="N", min=0, max=1024, help="GPUs that a run takes on Ray, fractions too")
    ] = None,
) -> "Resources":
    from .machine import DEVICES
    from .running.pipeline import Resources

    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine is local or ray, not {engine!r:.80}")
    if device not in DEVICES:
        hint = "; CUDA_VISIBLE_DEVICES chooses among GPUs" if device.startswith("cuda:") else ""
        raise typer.BadParameter(f"--device is {', '.join(DEVICES)}, not {device!r:.80}{hint}")
    return Resources(jobs, device, cast(Literal["local", "ray"], engine), address, gpus)


def _takes_resources(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_where` in the place of its last parameter, `where`."""

    @wraps(command)
    def taking(**given: Any) -> None:
        resources = {name: given.pop(name) for name in options}
        command(**given, where=_where(**resources))

    options = signature(_where).parameters
    before = [p for p in signature(command).parameters.values() if p.name != "where"]
    parameters = [*before, *options.values()]
    taking.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(taking)["__signature__"] = Signature(parameters)
    return taking


@command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="the study will be studies/NAME.yaml")],
    folder: Annotated[
        Path, typer.Option("--data", metavar="FOLDER", help="train/<class>/*.jpg, or <class>/*.jpg [required]")
    ],
) -> None:
    """Write a study for a folder of images, and say how long it takes."""
    from .learning import new as study_of
    from .running.pipeline import seconds_of_a_start

    study_of.place(name)  # before anything is measured
    images = study_of.look(folder)
    _say(*images.lines())
    study = study_of.write(name, images)
    apart = study.data.val_from_train_per_class + study.data.holdout_per_class
    kept = images.train - apart * len(images.classes)
    _say(f"written: {study.file}", f"next: kd run {name}")
    takes = study_of.estimate(study, kept, images.val + images.train - kept, len(images.classes), seconds_of_a_start)
    _say(str(takes))


@command()
@_takes_resources
def run(study: StudyArgument, source: SourceOption = None, *, where: "Resources") -> None:
    """Do what is not done yet: data, teacher, grid, report."""
    from .running.pipeline import run_study

    with _terminal() as tell:
        ok = run_study(study, source=source, where=where, on_event=tell)
    raise typer.Exit(0 if ok else 1)


@command()
def data(
    study: StudyArgument,
    source: SourceOption = None,
    listed: Annotated[bool, typer.Option("--list", help="print split, label, class and name of each image")] = False,
) -> None:
    """Decode the study's data set, once."""
    from .running import pipeline
    from .study import load

    loaded = load(study)
    if listed:
        from .learning.data import listed as images

        if source is not None:
            raise typer.BadParameter("--list prints the data as they were decoded; leave --source out")
        for image in images(loaded):
            _row(*image)
        return
    with _terminal() as tell, pipeline.held(loaded):
        pipeline.prepare_data(loaded, source, tell)


@command()
@_takes_resources
def teacher(study: StudyArgument, *, where: "Resources") -> None:
    """Train the teacher candidates; the best one is the teacher."""
    from .running import pipeline
    from .study import load

    loaded = load(study)
    with _terminal() as tell:
        ok = pipeline.run_teachers(loaded, where, tell)
    raise typer.Exit(0 if ok else 1)


@command()
@_takes_resources
def grid(study: StudyArgument, *, where: "Resources") -> None:
    """Compute the soft targets, then run the cells."""
    from .running import pipeline
    from .study import load

    loaded = load(study)
    with _terminal() as tell:
        ok = pipeline.run_grid(loaded, where, tell)
    raise typer.Exit(0 if ok else 1)


@command()
@_takes_resources
def search(
    study: StudyArgument,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0.01,
            max=1,
            help="of what the whole grid would take; on a small grid the least that pays [default: 0.3]",
        ),
    ] = None,
    *,
    where: "Resources",
) -> None:
    """Find the best T and alpha without the whole grid."""
    from .running import search as searching

    with _terminal() as tell:
        result = searching.search(study, budget, where=where, on_event=tell)
    _say(*searching.lines(result))


@command()
def report(study: StudyArgument) -> None:
    """Make results.csv and the report, PDF and HTML, from records."""
    from .running import pipeline
    from .study import load

    loaded = load(study)
    with _terminal() as tell:
        pipeline.make_report(loaded, tell)


@command("list")
def listed() -> None:
    """Show the studies that are here, and how far each is."""
    from . import console

    console.listed()


@command()
def status(study: StudyArgument) -> None:
    """Show how far the study is, and its accuracies so far."""
    from . import console
    from .study import load

    console.status(load(study))


RunOption = Annotated[
    str,
    typer.Option("--run", metavar="RUN", help="a cell or candidate, as status calls it [default: best student]"),
]


@command()
def export(
    study: StudyArgument,
    run: Annotated[str, typer.Argument(metavar="RUN", help="as status calls it [default: the best student]")] = "",
    int8: Annotated[bool, typer.Option("--int8", help="quantise as well, calibrated on training images")] = False,
) -> None:
    """Write a trained model as ONNX and .safetensors, checked on val.

    It needs the extra 'export'.
    """
    from . import console
    from .learning.export import export as write

    console.exported(write(study, run, int8=int8))


@command()
def predict(
    study: StudyArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="image files")],
    run: RunOption = "",
) -> None:
    """Name the likeliest classes of images, by a trained model."""
    from .learning.data import DataError
    from .learning.export import predictor

    likely_of, ok = predictor(study, run), True
    for image in images:
        try:
            _row(image, *(f"{name} {share:.1%}" for name, share in likely_of(image)[:3]))
        except DataError as e:
            _complain(str(e))
            ok = False
    raise typer.Exit(0 if ok else 1)


@command()
def pack(
    study: StudyArgument,
    soft_targets: Annotated[bool, typer.Option("--soft-targets", help="the teacher's stored logits too")] = False,
) -> None:
    """Write records, chosen weights, study file and report as one file."""
    from .running.pack import pack as write
    from .study import load

    done = write(load(study), soft_targets=soft_targets)
    _say(*(f"note: {note}" for note in done.notes))
    _say(f"{done.path}: {done.count} files, {done.path.stat().st_size / 1e6:.1f} MB")


@command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what kd pack has written")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="the root to be made: not there yet, or empty")],
) -> None:
    """Make a root of a packed study; nothing of it is executed."""
    from .running.pack import unpack as make
    from .shelf import Shelf

    study, done = make(file, folder)
    _say(*(f"note: {note}" for note in done.notes))
    os.environ["KD_ROOT"] = str(done.path)
    cells = Shelf(study).cells
    finished = sum(record is not None for record in cells.values())
    _say(f"{done.path}: study {study.name}, {finished} of {len(cells)} cells done")
    _say(f"next: KD_ROOT={done.path} kd status {study.name}")


@command()
def logs(
    study: StudyArgument,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="as status calls it [default: one that failed, else the latest]")
    ] = "",
) -> None:
    """Show what a run has printed, its error, where its notebook is."""
    from . import console
    from .study import load

    console.logs(load(study), run)


def main() -> int:
    """Run a command: an interrupt returns INTERRUPTED.

    The package's own errors end in one line and exit code 2, or 1 where runs were under way.
    """
    without_uri_grammar()
    try:
        app()
    except BaseException as e:
        finished = isinstance(e, SystemExit) and not e.code
        if not finished and (_interrupted or isinstance(e, KeyboardInterrupt)):  # of which libraries make other errors
            print(f"\n{STOPPED}", file=sys.stderr)
            return INTERRUPTED
        said = _of_the_system(e) if isinstance(e, OSError) else ""
        if isinstance(e, SystemExit) or not (said or type(e).__module__.startswith("kd_utils")):
            raise
        _complain(said or str(e))
        sys.exit(getattr(e, "exit_code", 2))
    return 0


def _complain(error: str) -> None:
    """Print an error in one line."""
    from .text import printable, shortened

    print(f"kd: {printable(shortened(error))}", file=sys.stderr)


def _say(*lines: str) -> None:
    """Print lines, the names in them as they are typed."""
    from .text import printable

    print(*map(printable, lines), sep="\n", end="\n" if lines else "")


def _row(*values: object) -> None:
    """Print a row, tabs between its values."""
    from .text import printable

    print(*(printable(str(value)) for value in values), sep="\t")


RIGHTS = "change its rights, or let KD_ROOT name another folder, with the study in its studies/"
REPEAT = "put this right, and run the same command again"
ADVICE = {errno.EROFS: RIGHTS, errno.EACCES: RIGHTS, errno.EPERM: RIGHTS}


def _of_the_system(error: OSError) -> str:
    """What the operating system refuses, where, and what to do; '' where that cannot be told."""
    if not type(error).__module__.startswith("kd_utils"):
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the folder that this was started in is gone; change to another one, and repeat"
        if error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror}; {ADVICE.get(error.errno or 0, REPEAT)}"
    return ""


def without_uri_grammar() -> None:
    """Let jsonschema, which nbformat loads, do without an optional grammar of URIs.

    It compiles it when it is imported, two seconds in every process, for a check that no notebook asks for.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # pyright: ignore[reportArgumentType]


_interrupted: list[int] = []  # the signals that came


@contextmanager
def _terminal() -> Iterator["Listener"]:
    """What shows events. An interrupt ends what is under way, a second one at once."""
    from . import machine
    from .console import Terminal

    machine.settle()
    on_interrupt(_interrupt)
    with Terminal() as terminal:

        def show(event: "Event") -> None:
            if _interrupted:  # at a moment when Python ignores exceptions, as while it frees an object
                raise KeyboardInterrupt
            terminal(event)

        yield show


def _interrupt(signum: int, frame: object) -> None:
    import logging

    on_interrupt(stop)
    logging.disable()  # of what libraries say as they are interrupted
    _interrupted.append(signum)
    raise KeyboardInterrupt
