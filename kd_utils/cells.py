"""The cells of a study, each a run to be done, and the order in which they are run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from .schema import STANDARD, Grid, Method
from .text import short


def temperature_at(T: float, alpha: float) -> float | None:
    """The T by which the grid's cell at T and alpha is known: None at alpha = 1, the baseline, whatever T is."""
    return None if alpha == 1 else T


@dataclass(frozen=True)
class Cell:
    """One run to be done: a distinct point of the grid, or of a further method.

    At alpha = 1, the baseline, the loss does not depend on T, and T is None.
    """

    student: str
    T: float | None
    alpha: float
    seed: int
    method: str = "kd"  # kd is the grid; else the label of one of the study's methods

    @property
    def name(self) -> str:
        point = "baseline" if self.T is None else f"T{short(self.T)}-a{short(self.alpha)}"
        method = "" if self.method == "kd" else f"{self.method}-"
        return f"{self.student}-{method}{point}-s{self.seed}"

    @property
    def baseline(self) -> "Cell":
        """The cell of the same student and seed at alpha = 1."""
        return Cell(self.student, None, 1.0, self.seed)

    @property
    def asked_T(self) -> float:
        """The T with which a run of this cell is asked for: any does for the baseline, and 1 is given."""
        return 1.0 if self.T is None else self.T


def in_order(students: Sequence[str], seeds: Sequence[int], grid: Grid, further: Sequence[Method]) -> list[Cell]:
    """The cells of these students in the order in which they are run: what is asked most is known first.

    alpha = 1, a student's baseline, comes once for all T; it is always there. Where the grid is a list of cells,
    its order is kept, each for every seed before the next, and the baseline of a student comes before its first
    cell; further methods come last.

    Else the first seed comes whole: of every student its baseline, the customary cell and the corners of the grid,
    then the rest of the grid, then further methods. Then come the baseline, the customary cell and the corners of
    every other seed, then the rest of each.
    """
    of_methods = [(m.label, T, alpha) for m in further for T in m.T for alpha in m.alpha]
    if grid.cells:
        rows = _listed(students, grid) + [(student, *row) for row in of_methods for student in students]
        return [Cell(student, T, alpha, seed, method) for student, method, T, alpha in rows for seed in seeds]
    pairs = [(T, alpha) for T in grid.T for alpha in grid.alpha if alpha < 1]
    telling = {STANDARD, *_corners(pairs)}
    head = [("kd", None, 1.0), *(("kd", *pair) for pair in pairs if pair in telling)]
    rest = [("kd", *pair) for pair in pairs if pair not in telling]

    def of(seed: int, *parts: Sequence[tuple[str, float | None, float]]) -> list[Cell]:
        order = ((student, row) for part in parts for student in students for row in part)
        return [Cell(student, T, alpha, seed, method) for student, (method, T, alpha) in order]

    first, *others = seeds
    cells = of(first, head, rest, of_methods)
    cells += [cell for seed in others for cell in of(seed, head)]
    return cells + [cell for seed in others for cell in of(seed, rest, of_methods)]


def _listed(students: Sequence[str], grid: Grid) -> list[tuple[str, str, float | None, float]]:
    """The cells of a grid that lists them: student, method, T, alpha; the baselines among them, or at the end."""
    rows: list[tuple[str, str, float | None, float]] = []
    for cell in grid.cells:
        rows += [(cell.student, "kd", None, 1.0), (cell.student, "kd", cell.T, cell.alpha)]
    rows += [(student, "kd", None, 1.0) for student in students]
    return list(dict.fromkeys(rows))


def _corners(pairs: list[tuple[float, float]]) -> set[tuple[float, float]]:
    """The pairs of the least and the greatest T with the least and the greatest alpha."""
    if not pairs:
        return set()
    T, alpha = zip(*pairs, strict=True)
    return set(product((min(T), max(T)), (min(alpha), max(alpha))))
