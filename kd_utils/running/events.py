"""What a study tells of itself while it runs: the terminal, a notebook and a test each show it in their way."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..text import printable


@dataclass(frozen=True)
class Said:
    """Something that a reader wants to know: what a stage has come to."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Advised:
    """Something to consider before hours are spent."""

    text: str

    def __str__(self) -> str:
        return f"note: {self.text}"


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is: steps done, of how many (0: not known). It is told at its start, then twice a second.

    A step may be done in part.

    left: how long the whole study still takes, in words; '' as long as that is not known.
    """

    stage: str
    done: float
    total: int
    left: str = ""

    def __str__(self) -> str:
        done = f"{self.stage}: {int(self.done)} of {self.total}" if self.total else self.stage
        return f"{done}, {self.left}" if self.left else done


@dataclass(frozen=True)
class Done:
    """A run that has ended well, what it took in seconds, and its accuracy on val, a fraction."""

    name: str
    seconds: float
    top1: float

    def __str__(self) -> str:
        return f"done: {self.name}, {self.top1:.2%} top-1 ({self.seconds:.0f} s)"


@dataclass(frozen=True)
class Retried:
    """A run that was killed or ran out of memory, and is tried again."""

    name: str
    error: str

    def __str__(self) -> str:
        return f"tried again: {self.name}: {self.error}"


@dataclass(frozen=True)
class Failed:
    """A run that failed for a reason of its own; folder has its log."""

    name: str
    error: str
    folder: Path

    def __str__(self) -> str:
        return f"failed: {self.name}: {self.error}; see {self.folder}"


Event = Said | Advised | StageProgress | Done | Retried | Failed
Listener = Callable[[Event], None]


BAR = 30  # characters


class Printer:
    """Prints a line for each thing that ends, and in a terminal or a notebook, below them, a bar that moves."""

    def __init__(self) -> None:
        self.moves = sys.stdout.isatty() or "ipykernel" in sys.modules
        self.bar = ""

    def __call__(self, event: Event) -> None:
        clear = "\r" + " " * len(self.bar) + "\r"
        if not isinstance(event, StageProgress):
            print(f"{clear if self.bar else ''}{printable(str(event))}", flush=True)
            self.bar = ""
            return
        done = round(BAR * event.done / event.total) if event.total else 0
        bar = f"{'#' * done}{'.' * (BAR - done)} {event}" if event.total else str(event)
        if self.moves and bar != self.bar:
            print(f"{clear}{bar}", end="", flush=True)
            self.bar = bar
