"""Names, numbers and durations as readers are told them: on one line, and short."""

import reprlib
import unicodedata
from typing import Any


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: 42 s, 3.1 min, 1.5 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def short(number: Any) -> str:
    """A T or an alpha as people write it, and as run names have it: six digits where that is the number, else all."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


def printable(text: str) -> str:
    """Text for a terminal, on one line: what has no glyph is written as Python does, \\x1b, \\u202e; blanks as spaces.

    So no name can turn, hide or colour the text around it.
    """
    return "".join(map(_printable, text))


def shortened(text: str, most: int = 1500) -> str:
    """Text of so many letters at most, cut in its middle: an error begins with what, and ends with what to do."""
    return text if len(text) <= most else f"{text[: 2 * most // 3]} … {text[-most // 3 :]}"


def quoted(value: object) -> str:
    """What was given, as Python writes it, a line at most."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_JOINERS = "\u200c\u200d"  # have no glyph of their own, but Persian and emoji need them


def _printable(char: str) -> str:
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if char.isprintable() or char in _JOINERS:
        return char
    return char.encode("unicode_escape").decode("ascii")
