"""What a section of the study file is, and what is said of one that is wrong: the key, and what is allowed."""

import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, get_args

# pydantic looks through every installed package for plugins, of which there are none: a sixth of `kd status`
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import BaseModel, ConfigDict, ValidationError

from .text import quoted, shortened


class StudyError(ValueError):
    """A study file, or a parameter, that cannot be used; the message names the key and what is allowed.

    wrong: the same without the file's name, of which there is none where a parameter is wrong.
    """

    def __init__(self, wrong: str, *, file: Path | str = "") -> None:
        super().__init__(f"{file}: {wrong}" if file else wrong)
        self.wrong = wrong


class Section(BaseModel):
    """A mapping of the study file: types are strict, an unknown key is an error, nothing can be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    BY_LOAD: ClassVar[frozenset[str]] = frozenset()  # fields that no file says

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that a file may have."""
        return [name for name in cls.model_fields if name not in cls.BY_LOAD]


class KeyedSection(Section):
    """A section that is part of keys: fields of LATER came after the first records, whose keys must not change."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    def settings(self) -> dict[str, Any]:
        """The fields as keys have them: those of LATER only where they differ from their defaults."""
        unsaid = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(exclude=unsaid)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def a_name(name: str) -> str:
    """The name, if folders can be called so."""
    if _NAME.fullmatch(name):
        return name
    shown = name if len(name) <= 64 else f"{name[:40]}…"
    raise ValueError(
        f"{shown!r} cannot be a name: folders are called so. It must be at most 64 letters (A to z), digits, '.', '_' "
        "and '-', and begin with a letter or a digit"
    )


def known(names: Collection[str], name: str) -> str:
    """The name, if it is one of these; else an error that says which there are."""
    if name in names:
        return name
    close = difflib.get_close_matches(name[:80], names, 1)
    *others, last = map(repr, names)
    raise ValueError((f"did you mean {close[0]!r}? " if close else "") + f"It must be {', '.join(others)} or {last}")


MOST_ERRORS = 5  # that are told at once


def explain(error: ValidationError, model: type[Section]) -> str:
    """What is wrong in one line, the first MOST_ERRORS: the key, what is wrong, what is allowed."""
    lines, errors = [], error.errors()
    for e in errors[:MOST_ERRORS]:
        where = ".".join(shortened(str(x), 80) for x in e["loc"])
        if e["type"] == "extra_forbidden":
            allowed = _keys(model, e["loc"][:-1])
            close = difflib.get_close_matches(str(e["loc"][-1])[:80], allowed, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(allowed)}"
            lines.append(f"unknown key '{where}'; {hint}")
        elif e["type"] == "missing":
            lines.append(f"the key '{where}' is missing")
        else:
            message = shortened(e["msg"].removeprefix("Value error, "), 600)
            message = message[:1].lower() + message[1:]
            got = f" (got {quoted(e['input'])})" if where and not isinstance(e["input"], dict) else ""
            lines.append(f"{where}: {message}{got}" if where else message)
    if more := len(errors) - len(lines):
        lines.append(f"and {more} more")
    return "; ".join(lines)


def _keys(model: type[Section], loc: tuple) -> list[str]:
    """The keys that are allowed at a place in a model's file; loc: the keys and indices that lead there."""
    for key in loc:
        if isinstance(key, int):
            continue
        kind = model.model_fields[key].annotation
        model = next(k for k in (*get_args(kind), kind) if isinstance(k, type) and issubclass(k, Section))
    return model.keys()
