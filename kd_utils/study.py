"""The study file: what is asked, in one small declarative YAML file, typed and checked.

Everything that a run's outcome depends on is here; keys.py gathers it for one run.
"""

import difflib
import json
import numbers
import os
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

# pydantic looks through every installed package for plugins, of which there are none: a sixth of `kd status`
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from . import files, methods, paths
from .methods import TaughtBy, Teaching
from .sources import SOURCES


class StudyError(ValueError):
    """A study file, or a parameter, that cannot be used; the message names the key and what is allowed."""


class _Section(BaseModel):
    """A mapping of the study file: types are strict, an unknown key is an error, nothing can be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Keyed(_Section):
    """A section that is part of keys: fields of LATER came after the first records, whose keys must not change."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    def settings(self) -> dict[str, Any]:
        """The fields as keys have them: those of LATER only where they differ from their defaults."""
        unsaid = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(exclude=unsaid)


# YAML reads `T: 4` as an int; everywhere else strict typing holds (no "4", no true for 1); -0.0 is 0.0
def _as_float(value: object) -> object:
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return float("inf")


def _plain(value: object) -> object:
    """A number of another library, as NumPy's np.int64(3) is, as Python's own."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


Number = Annotated[float, BeforeValidator(_as_float), AfterValidator(lambda v: v + 0), Field(allow_inf_nan=False)]

# the limits of what a study, or a call of `student`, may ask; beyond them numbers overflow or nothing can be learned
Temperature = Annotated[Number, Field(ge=1e-3, le=1e6)]
Alpha = Annotated[Number, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=0, le=100_000_000)]  # of images

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


Precision = Literal["fp32", "bf16"]


def _known(names: Collection[str], name: str) -> str:
    """The name, if it is one of these; else an error that says which there are."""
    if name in names:
        return name
    close = difflib.get_close_matches(name[:80], names, 1)
    *others, last = map(repr, names)
    raise ValueError((f"did you mean {close[0]!r}? " if close else "") + f"It must be {', '.join(others)} or {last}")


def _distinct_classes(classes: int | list[str] | None) -> int | list[str] | None:
    """At least two classes, each once."""
    if isinstance(classes, list) and len(set(classes)) < len(classes):
        twice = next(c for c in classes if classes.count(c) > 1)
        raise ValueError(f"the class {twice!r} is named twice; name each once")
    if classes is not None and (len(classes) if isinstance(classes, list) else classes) < 2:
        raise ValueError("at least 2 classes are needed to tell images apart; leave the key out for all there are")
    return classes


Classes = Annotated[int | list[str] | None, AfterValidator(_distinct_classes)]


class Data(_Section):
    """Which images. Splits of the training images are disjoint and drawn by a fixed permutation per class."""

    name: Annotated[str, AfterValidator(partial(_known, SOURCES))]
    source: str | None = None  # folder: its path; tiny-imagenet: a zip or folder (default: downloaded)
    image_size: int = Field(default=64, ge=8, le=1024)  # pixels a side, as stored
    classes: Classes = None  # the first n classes by name, or these, at least 2 in all; default: all
    train_per_class: int | None = Field(default=None, ge=1, le=100_000_000)  # default: all that is left
    holdout_per_class: Count = 0  # training images kept apart, to choose on
    val_from_train_per_class: Count = 0  # training images moved to val; where there is no val, 0 is one in five

    @model_validator(mode="after")
    def _source(self) -> Self:
        path = SOURCES[self.name].path
        if path == "required" and not self.source:
            raise ValueError(f"data.name is '{self.name}', so data.source must name the folder")
        if path == "none" and self.source:
            raise ValueError(f"data.name is '{self.name}', which has no source; leave data.source out")
        return self


class Augment(_Keyed):
    """The training view of an image: flip, then crop, then turn."""

    LATER = frozenset({"rotate"})

    flip: bool = True  # left-right, with probability one half
    crop: Literal["none", "shift", "resized"] = "shift"
    shift: int = Field(default=8, ge=0, le=1024)  # pixels at most, for crop: shift (zeros come in)
    scale: Number = Field(default=0.35, gt=0, le=1)  # least share of the area, for crop: resized
    rotate: Number = Field(default=0.0, ge=0, le=180)  # degrees at most, to either side (zeros come in)

    @property
    def none(self) -> bool:
        """Whether every view shows the images as they are stored."""
        still = self.crop == "none" or self.crop == "shift" and self.shift == 0
        return still and not self.flip and not self.rotate


class Train(_Keyed):
    """How a model is trained; the defaults are the published study's."""

    LATER = frozenset({"nesterov", "milestones", "gamma"})

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 10
    batch_size: int = Field(default=128, ge=2, le=1_000_000)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Number = Field(default=1e-3, gt=0, le=1e3)
    weight_decay: Number = Field(default=0.0, ge=0, le=1e3)
    nesterov: bool = True  # sgd's momentum of 0.9 looks ahead
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: list[Epochs] = []  # schedule step: after so many epochs the learning rate is multiplied by gamma
    gamma: Number = Field(default=0.1, gt=0, le=1)  # for schedule: step
    eval_every: Epochs = 1  # epochs between evaluations; the last is always evaluated
    patience: int = Field(default=0, ge=0, le=100_000)  # stop after so many evaluations without a gain; 0: never

    @model_validator(mode="after")
    def _steps(self) -> Self:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("schedule step and milestones go together: {schedule: step, milestones: [60, 120]}")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones: epochs in ascending order, each once (got {self.milestones})")
        return self

    def changed(self, *layers: dict[str, Any]) -> "Train":
        """The same but for these keys, later layers first; a schedule of its own takes no milestones from before."""
        values = self.model_dump()
        for layer in layers:
            if layer.get("schedule", "step") != "step":
                values |= {"milestones": [], "gamma": type(self).model_fields["gamma"].default}
            values |= layer
        return type(self)(**values)


def _positive(values: list[float]) -> list[float]:
    if min(values) <= 0:
        raise ValueError("a standard deviation is above 0")
    return values


Channels = Annotated[list[Number], Field(min_length=3, max_length=3)]  # red, green, blue


class Model(_Section):
    """A model by its timm or torchvision name, or one's own, and where its weights come from."""

    model: str  # its name in timm or torchvision, or FILE.py:NAME, called with the number of classes
    name: str = ""  # how records and tables call it; default: the model's name
    pretrained: bool | str = False  # true: ImageNet weights; a path, relative to the study file: .safetensors or .pth
    mean: Channels | None = None  # of the pixels (0 to 1) that its weights expect; default: as they say, or ImageNet's
    std: Annotated[Channels, AfterValidator(_positive)] | None = None  # the same for the standard deviation
    input_size: int | None = Field(default=None, ge=8, le=4096)  # pixels a side that the model sees; default: as stored
    precision: Precision | None = None  # of the forward pass; default: the study's
    stem: Literal["default", "small"] = "default"  # small, of ResNets and ShuffleNets: a 3 x 3 of stride 1, no pooling
    compile: bool = False  # train through torch.compile: pays in long grids of models with many small operations
    threads: int | None = Field(default=None, ge=1, le=1024)  # CPU threads of its run; default: the study's
    train: dict[str, Any] = {}  # what differs from the study's `train`

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.model.removesuffix(":").endswith(".py"):
            raise ValueError(f"model {self.model}: a model of one's own is FILE.py:NAME, NAME what the file calls it")
        a_name(self.label)  # where the model's own name cannot be one, `name` gives another
        if self.pretrained is True and (self.code or self.stem == "small"):
            what = "a model of one's own" if self.code else "stem: small"
            raise ValueError(f"there are no ImageNet weights for {what}; leave pretrained out, or name a file")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: the other one would be ImageNet's")
        if self.code and self.stem != "default":
            raise ValueError("stem: small changes models of timm and torchvision; write it into your own")
        return self

    @property
    def label(self) -> str:
        return self.name or re.split("[/:]", self.model)[-1]

    @property
    def code(self) -> Path | None:
        """The file that a model of one's own is written in; None for one of a library."""
        path, colon, _ = self.model.rpartition(":")
        return Path(path) if colon and path.endswith(".py") else None

    @property
    def files(self) -> list[Path]:
        """The files that it is made of."""
        named = [self.code, Path(self.pretrained) if isinstance(self.pretrained, str) else None]
        return [path for path in named if path]


class Candidate(Model):
    """A model that may teach; or, instead of `model`, an ensemble of other candidates, or logits from elsewhere."""

    model: str = ""
    ensemble: list[str] = []  # other candidates by their names: the mean of their logits
    logits: str = ""  # a path, relative to the study file: .npy, (images, classes), in the order of `kd data --list`

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        """One of model, ensemble and logits; nothing beside the latter two that only a model has."""
        if isinstance(value, dict):
            kinds = [k for k in ("model", "ensemble", "logits") if value.get(k)]
            if len(kinds) != 1:
                raise ValueError(
                    f"a candidate has one of model, ensemble and logits, not {' and '.join(kinds) or 'none'}"
                )
            others = {"ensemble": {"precision", "threads"}, "logits": set()}.get(kinds[0], set(value))
            if wrong := sorted(k for k in value if value[k] and k in Model.model_fields and k not in others | {"name"}):
                raise ValueError(f"{kinds[0]} goes without '{wrong[0]}', which is a model's")
        return value

    @model_validator(mode="after")
    def _members(self) -> Self:
        if self.ensemble and len(set(self.ensemble)) < max(2, len(self.ensemble)):
            raise ValueError(f"an ensemble is of at least two candidates, each named once (got {self.ensemble})")
        return self

    @property
    def label(self) -> str:
        if self.model or self.name:
            return super().label
        return Path(self.logits).stem if self.logits else "ensemble"

    @property
    def files(self) -> list[Path]:
        """The files that it is made of."""
        return [Path(self.logits)] if self.logits else super().files


class Teacher(_Section):
    """The candidates, of which the best one teaches, and how they are trained."""

    candidates: list[Candidate] = Field(min_length=1)
    train: dict[str, Any] = {}  # what differs from the study's `train`, for every candidate
    seed: Seed = 1000  # none of `seeds`: their students would see the views that it was trained on


class ListedCell(_Section):
    """One cell, where a study lists them."""

    student: str  # its name
    T: Temperature
    alpha: Annotated[Number, Field(ge=0, lt=1)]  # alpha = 1 is the baseline, which is always run


class Grid(_Section):
    """The temperatures and the weights of the cross-entropy; a cell for each pair, one for all T at alpha = 1.

    Or cells in an order of one's own.
    """

    T: list[Temperature] = []
    alpha: list[Alpha] = []
    cells: list[ListedCell] = []  # instead of T and alpha: each for every seed before the next

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        missing = [key for key in ("T", "alpha") if not getattr(self, key)]
        if self.cells and len(missing) < 2:
            raise ValueError("grid has T and alpha, or a list of cells, and not both; leave one out")
        if missing and not self.cells:
            raise ValueError(f"grid.{missing[0]} is missing or empty; give T and alpha, or a list of cells")
        for key in ("T", "alpha", "cells"):
            values = getattr(self, key)
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"grid.{key} names a value twice: {twice[0]}")
        return self

    @property
    def temperatures(self) -> list[float]:
        """Every T, the least first."""
        return sorted({*self.T, *(cell.T for cell in self.cells)})

    @property
    def alphas(self) -> list[float]:
        """Every alpha, the least first."""
        return sorted({*self.alpha, *(cell.alpha for cell in self.cells)})


STANDARD = (4.0, 0.5)  # the customary T and alpha
PLATEAU = (4.0, 0.5)  # by default the cells with at least this T and at most this alpha are compared as one

Point = Annotated[list[Number], Field(min_length=2, max_length=2)]  # T and alpha


class Contrast(_Section):
    """A question put to the accuracies before the first run: the mean of some cells minus the mean of others.

    It is asked of every student that has these cells, over the seeds that they share.
    """

    name: str = Field(min_length=1, max_length=80)  # how the report calls it
    cells: list[Point] = Field(min_length=1)  # [T, alpha] each
    against: list[Point] = []  # [T, alpha] each; default: the baseline


class Asked(_Section):
    """The numbers of one run that is asked for by hand; their limits are the study file's."""

    T: Temperature
    alpha: Alpha
    seed: Seed
    epochs: Annotated[int, Field(ge=0, le=100_000)]  # 0: the study's

    @classmethod
    def of(cls, **values: object) -> "Asked":
        """These numbers, NumPy's too. Raises StudyError, naming the parameter and its limits."""
        try:
            return cls.model_validate({name: _plain(value) for name, value in values.items()})
        except ValidationError as e:
            raise StudyError(_explain(e, cls)) from None


class Method(_Section):
    """Another way to teach than plain distillation, and its points: a cell for each pair of T and alpha.

    Its own weights are keys beside these: `{method: dkd, nontarget: 4}`. methods.py has the ways to teach.
    """

    model_config = ConfigDict(extra="allow")
    # any other key is a weight; pydantic reads their type here
    __pydantic_extra__: dict[str, Annotated[Number, Field(ge=0, le=1e6)]]  # pyright: ignore[reportIncompatibleVariableOverride]

    method: Annotated[str, AfterValidator(partial(_known, methods.FURTHER))]
    name: str = ""  # how records and tables call it; default: the method's name
    T: list[Temperature] = []  # default: 4, or 1 where the method has no temperature
    alpha: list[Annotated[Number, Field(ge=0, lt=1)]] = [0.5]  # weight of the cross-entropy

    @model_validator(mode="before")
    @classmethod
    def _of_the_method(cls, value: Any) -> Any:
        """Refuse keys that the method does not have, and fill in its T."""
        teaching = methods.FURTHER.get(str(value.get("method"))) if isinstance(value, dict) else None
        if teaching is None:
            return value  # which the validation of the fields refuses
        known = [*cls.model_fields, *teaching.weights]
        for key in [k for k in value if k not in known]:
            close = difflib.get_close_matches(str(key), known, 1)
            takes = f"it takes {', '.join(teaching.weights) or 'no weights'}"
            hint = f"did you mean '{close[0]}'?" if close else takes
            raise ValueError(f"'{key}' is not of method {teaching.name}; {hint}")
        return {**value, "T": value.get("T") or [STANDARD[0] if teaching.temperature else 1.0]}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.teaching.temperature and self.T != [1.0]:
            raise ValueError(f"{self.method} has no temperature; leave T out, or [1], not {self.T}")
        a_name(self.label)
        if self.label == "kd":
            raise ValueError("the name 'kd' is the grid's; give the row another")
        return self

    @property
    def label(self) -> str:
        return self.name or self.method

    @property
    def teaching(self) -> Teaching:
        """The way to teach."""
        return methods.FURTHER[self.method]

    @property
    def weights(self) -> dict[str, float]:
        """The method's own weights by name, defaults filled in."""
        return {**self.teaching.weights, **self.__pydantic_extra__}


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


_JOINERS = "\u200c\u200d"  # have no glyph of their own, but Persian and emoji need them


def _printable(char: str) -> str:
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if char.isprintable() or char in _JOINERS:
        return char
    return char.encode("unicode_escape").decode("ascii")


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


BY_LOAD = {"name", "file", "sha256"}  # what a study has and its file does not say


class Study(_Section):
    """A study: data, models, training and the grid."""

    name: str = ""  # the file's stem, set by load()
    file: str = ""  # the file's path, set by load()
    sha256: str = ""  # of the file, set by load()
    title: str = "Temperature and weight in knowledge distillation"
    data: Data
    augment: Augment = Augment()
    train: Train = Train()
    teacher: Teacher
    students: list[Model] = Field(min_length=1)
    grid: Grid
    methods: list[Method] = []  # further questions: each a row of its own, none by default
    contrasts: list[Contrast] = []  # what the report answers first; default: the plateau, and the customary cell
    claims: bool = False  # put the claims of the published study, and some of the literature's, to the records
    margin: Number = Field(default=1.0, gt=0, le=100)  # points of accuracy within which cells are as good as the same
    seeds: list[Seed] = Field(default=[0], min_length=1)
    views: Epochs | None = None  # distinct views; epoch e sees view e mod views; default: all
    precision: Precision = "fp32"  # of the forward pass; bf16 pays on GPUs and on CPUs that compute in it
    data_parallel: int = Field(default=1, ge=1, le=1024)  # GPUs that share a run's batches, by torch.nn.DataParallel
    threads: int = Field(default=1, ge=1, le=1024)  # CPU threads of a run; the same for jobs 1 or 8, so are the metrics

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for what, models in (("teacher.candidates", self.teacher.candidates), ("students", self.students)):
            labels = [m.label for m in models]
            twice = {x for x in labels if labels.count(x) > 1}
            if twice:
                raise ValueError(f"{what}: {sorted(twice)} named twice; give each a `name` of its own")
            for m in models:
                self.training(m, teacher=what != "students")
        for student in self.students:
            if not self.training(student, teacher=False).epochs:
                raise ValueError(f"train.epochs of {student.label} is 0: only a teacher can do without being trained")
        for candidate in self.teacher.candidates:
            self._can_teach(candidate)
            for method in self.methods:
                self._can_control(candidate, method)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names a value twice: {self.seeds}")
        labels = [m.label for m in self.methods]
        if twice := {x for x in labels if labels.count(x) > 1}:
            raise ValueError(f"methods: {sorted(twice)} named twice; give each row a `name` of its own")
        for cell in self.grid.cells:
            _known([s.label for s in self.students], cell.student)
        asked = {(c.T, c.alpha) for c in self.cells()}
        for contrast in self.contrasts:
            for T, alpha in (*contrast.cells, *contrast.against):
                if (T, alpha) not in asked:
                    raise ValueError(
                        f"contrasts: {contrast.name!r} asks of T = {short(T)}, alpha = {short(alpha)}, "
                        "which is no cell of the grid"
                    )
        if twice := {c.name for c in self.contrasts if sum(c.name == d.name for d in self.contrasts) > 1}:
            raise ValueError(f"contrasts: {sorted(twice)} named twice")
        runs = Counter(cell.name.casefold() for cell in self.cells())  # some file systems take A for a
        if twice := [name for name, count in runs.items() if count > 1]:
            raise ValueError(f"two runs would be called {twice[0]}; give students and methods other names, a T once")
        return self

    def _can_teach(self, candidate: Candidate) -> None:
        """Raises ValueError for a candidate that this study can make nothing of."""
        of_models = [c.label for c in self.teacher.candidates if c.model]
        for member in candidate.ensemble:
            if member not in of_models:
                raise ValueError(
                    f"ensemble {candidate.label}: {member!r} is no candidate with a model of its own; there are: "
                    f"{', '.join(of_models) or 'none'}"
                )
        if candidate.logits and not self.augment.none:
            raise ValueError(
                f"the logits of {candidate.label} are of the images as they are stored, so students must see them so: "
                "set augment: {flip: false, crop: none}"
            )
        if candidate.model and not candidate.pretrained and not self.training(candidate, teacher=True).epochs:
            raise ValueError(
                f"candidate {candidate.label} is not trained (epochs: 0) and has no weights: name them by pretrained, "
                "or train it"
            )

    def _can_control(self, candidate: Candidate, method: Method) -> None:
        """Raises ValueError for a control that would be no other teacher than the candidate itself."""
        if method.teaching.taught_by not in ("early", "random"):
            return
        if not candidate.model:
            raise ValueError(
                f"methods: {method.label} needs a teacher that is one model, and candidate {candidate.label} may be "
                "chosen, which is none: leave one of them out"
            )
        if method.teaching.taught_by == "early" and self.training(candidate, teacher=True).epochs < 2:
            raise ValueError(
                f"methods: {method.label} is the teacher after its first epoch, and candidate {candidate.label} is "
                "trained for less than two: leave one of them out"
            )

    def asked_for(
        self,
        *,
        student: str = "",
        T: float = 4.0,
        alpha: float = 0.5,
        method: str = "kd",
        seed: int = 0,
        epochs: int = 0,
    ) -> "tuple[Study, Cell]":
        """The cell of a run that is asked for by hand, and the study of it, with as many epochs as were asked for.

        student: its name (default: the first). T: of no effect at alpha = 1 and with a method that has none. epochs: 0
        for the study's own number. Raises StudyError for what the study does not have, and numbers out of range.
        """
        asked = Asked.of(T=T, alpha=alpha, seed=seed, epochs=epochs)
        label = student or self.students[0].label
        self.student(label)
        point = None if asked.alpha == 1 else asked.T
        if method != "kd":
            if asked.alpha == 1:
                raise StudyError(f"alpha: method {method!r} needs one below 1; the baseline is of method 'kd'")
            if not self.method(method).teaching.temperature:
                point = 1.0
        study = self.with_epochs(asked.epochs) if asked.epochs else self
        return study, Cell(label, point, asked.alpha, asked.seed, method)

    def training(self, model: Model, *, teacher: bool) -> Train:
        """How this model is trained: the study's `train`, overridden by the teacher's, then by the model's.

        Ensembles and logits are not trained: 0 epochs.
        """
        layers = (self.teacher.train if teacher else {}, model.train, {} if model.model else {"epochs": 0})
        try:
            return self.train.changed(*layers)
        except ValidationError as e:
            raise ValueError(f"train of {model.label}: {_explain(e, Train)}") from None

    def precision_of(self, model: Model) -> Precision:
        """The precision of this model's forward pass."""
        return model.precision or self.precision

    def threads_of(self, model: Model) -> int:
        """The CPU threads of this model's run."""
        return model.threads or self.threads

    def student(self, label: str) -> Model:
        """The student of this label; StudyError names those there are."""
        return _named(self.students, label, f"student of study '{self.name}'")

    def candidate(self, label: str) -> Candidate:
        """The teacher candidate of this label; StudyError names those there are."""
        return _named(self.teacher.candidates, label, f"teacher candidate of study '{self.name}'")

    def method(self, label: str) -> Method:
        """The further method of this label; StudyError names those there are."""
        for m in self.methods:
            if m.label == label:
                return m
        known = ", ".join(["kd", *(m.label for m in self.methods)])
        raise StudyError(f"no method of study '{self.name}' is called {label!r}; there are: {known}")

    def cells(self) -> list[Cell]:
        """The cells in the order in which they are run: what is asked most is known first.

        alpha = 1, a student's baseline, comes once for all T; it is always there. Where the grid is a list of cells,
        its order is kept, each for every seed before the next, and the baseline of a student comes before its first
        cell; further methods come last.

        Else the first seed comes whole: of every student its baseline, the customary cell and the corners of the grid,
        then the rest of the grid, then further methods. Then come the baseline, the customary cell and the corners of
        every other seed, then the rest of each.
        """
        further = [(m.label, T, alpha) for m in self.methods for T in m.T for alpha in m.alpha]
        if self.grid.cells:
            rows = self._listed() + [(student.label, *point) for point in further for student in self.students]
            return [Cell(label, T, alpha, seed, method) for label, method, T, alpha in rows for seed in self.seeds]
        points = [(T, alpha) for T in self.grid.T for alpha in self.grid.alpha if alpha < 1]
        telling = {STANDARD, *_corners(points)}
        head = [("kd", None, 1.0), *(("kd", *point) for point in points if point in telling)]
        rest = [("kd", *point) for point in points if point not in telling]

        def of(seed: int, *parts: Sequence[tuple[str, float | None, float]]) -> list[Cell]:
            order = ((student.label, cell) for part in parts for student in self.students for cell in part)
            return [Cell(label, T, alpha, seed, method) for label, (method, T, alpha) in order]

        first, *others = self.seeds
        cells = of(first, head, rest, further)
        cells += [cell for seed in others for cell in of(seed, head)]
        return cells + [cell for seed in others for cell in of(seed, rest, further)]

    def asked_first(self) -> list[Contrast]:
        """The study's contrasts; by default the plateau and the customary cell, each against the baseline."""
        if self.contrasts:
            return self.contrasts
        points = {(c.T, c.alpha) for c in self.cells() if c.T is not None and c.method == "kd"}
        least, most = PLATEAU
        plateau = sorted(list(p) for p in points if p[0] >= least and p[1] <= most)
        asked = []
        if len(plateau) > 1:
            name = f"T of at least {short(least)} and α of at most {short(most)}"
            asked.append(Contrast(name=name, cells=plateau))
        if STANDARD in points:
            name = f"the customary T = {short(STANDARD[0])} and α = {short(STANDARD[1])}"
            asked.append(Contrast(name=name, cells=[list(STANDARD)]))
        return asked

    def _listed(self) -> list[tuple[str, str, float | None, float]]:
        """The cells of a grid that lists them: student, method, T, alpha; the baselines among them, or at the end."""
        rows: list[tuple[str, str, float | None, float]] = []
        for cell in self.grid.cells:
            rows += [(cell.student, "kd", None, 1.0), (cell.student, "kd", cell.T, cell.alpha)]
        rows += [(student.label, "kd", None, 1.0) for student in self.students]
        return list(dict.fromkeys(rows))

    def teaching(self, cell: Cell) -> Teaching:
        """The way in which a cell is taught."""
        if cell.T is None:
            return methods.BASELINE
        return methods.KD if cell.method == "kd" else self.method(cell.method).teaching

    def weights(self, cell: Cell) -> dict[str, float]:
        """The weights of a cell's loss beside T and alpha, by name: none of plain distillation and the baseline."""
        return {} if cell.method == "kd" else self.method(cell.method).weights

    def taught_by(self, cell: Cell) -> TaughtBy:
        """Whose soft targets a cell learns from: nobody's, a teacher's (any of three), or its own baseline's."""
        return self.teaching(cell).taught_by

    def view_number(self, epoch: int) -> int:
        """The number of the view that an epoch (from 0) sees; without augmentation there is one."""
        return epoch % len(self.views_of(epoch + 1))

    def views_of(self, epochs: int) -> range:
        """The numbers of the views that so many epochs see."""
        return range(1 if self.augment.none else min(epochs, self.views or epochs))

    def view_count(self) -> int:
        """How many views the students of this study see."""
        return len(self.views_of(max(self.training(s, teacher=False).epochs for s in self.students)))

    def with_epochs(self, epochs: int) -> "Study":
        """The same study with another number of epochs for every student."""
        students = [s.model_copy(update={"train": {**s.train, "epochs": epochs}}) for s in self.students]
        return self.model_copy(update={"students": students})


AnyModel = TypeVar("AnyModel", bound=Model)


def _corners(points: list[tuple[float, float]]) -> set[tuple[float, float]]:
    """The pairs of the least and the greatest T with the least and the greatest alpha."""
    if not points:
        return set()
    T, alpha = zip(*points, strict=True)
    return set(product((min(T), max(T)), (min(alpha), max(alpha))))


def _named(models: Sequence[AnyModel], label: str, what: str) -> AnyModel:
    for m in models:
        if m.label == label:
            return m
    raise StudyError(f"no {what} is called {label!r}; there are: {', '.join(m.label for m in models)}")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key named twice (plain YAML silently keeps the last), and aliases without end."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        key_nodes = [k for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"]  # `<<` takes in another mapping
        keys = [self.construct_object(k, deep=True) for k in key_nodes]
        for key_node, key in zip(key_nodes, keys, strict=True):
            if not isinstance(key, str):
                line = key_node.start_mark.line + 1
                raise StudyError(f"line {line}: the key {_shown.repr(key)} is no word; put a name before the colon")
            if keys.count(key) > 1:
                raise StudyError(f"line {key_node.start_mark.line + 1}: the key '{key}' is given twice")
        return super().construct_mapping(node, deep)


MOST_BYTES = 1_000_000  # of a study file
MOST_VALUES = 10_000  # in it, those of aliases counted wherever they stand


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node comes to with its aliases written out. Raises StudyError where they are too many."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # what holds itself has no end
        inner = (n for item in node.value for n in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(n, known) for n in inner)
    if known[id(node)] > MOST_VALUES:
        line = node.start_mark.line + 1
        raise StudyError(f"line {line}: this comes to more than {MOST_VALUES:,} values; use fewer aliases, or lists")
    return known[id(node)]


# YAML 1.1, which PyYAML reads, takes 1e-3 for a string
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(name: str | Path) -> Study:
    """Read a study.

    name: a path to a .yaml file, or the bare name of one in studies/.
    Where a command runs a notebook, it is the study as the command has read it (see as_read).
    Raises StudyError, naming the file, the key and what is allowed.
    """
    path = paths.study_file(name)
    if kept := os.environ.get(AS_READ):
        study = Study(**json.loads(Path(kept).read_text(encoding="ascii")))
        if study.file == str(path.resolve()):
            return study
    if not files.exists(path) or path.is_dir():
        known = sorted(p.stem for p in paths.studies().glob("*.yaml"))
        shown = path if len(str(path)) < 200 else f"{str(path)[:200]}…"
        raise StudyError(f"no study file {shown}; in studies/ there are: {', '.join(known) or 'none'}")
    try:
        raw = yaml.load(files.read_text(path, MOST_BYTES), _Loader)
        digest = files.sha256(path)
    except StudyError as e:
        raise StudyError(f"{path}: {e}") from None
    except UnicodeDecodeError as e:
        raise StudyError(f"{path}: not UTF-8 ({e.reason}, byte {e.start}); save the file as UTF-8") from None
    except RecursionError:
        raise StudyError(f"{path}: nested too deep; a study has a handful of levels") from None
    except OSError as e:
        raise StudyError(f"{path}: cannot be read ({e.strerror}); is it the right file, and may you read it?") from None
    except Exception as e:  # PyYAML raises many kinds for a number or a date that is none
        why = str(e) if isinstance(e, (yaml.YAMLError, ValueError)) else "a value is not of the type that its tag says"
        raise StudyError(f"{path}: not YAML: {' '.join(why.split())}") from None
    if not isinstance(raw, dict):
        raise StudyError(f"{path}: a study is a mapping with the keys {', '.join(_keys(Study, ()))}")
    for key in BY_LOAD & set(raw):
        raise StudyError(f"{path}: unknown key '{key}'; a study is named by its file")
    try:
        a_name(path.stem)
    except ValueError as e:
        raise StudyError(f"{path}: rename the file: {e}") from None
    raw |= {"name": path.stem, "file": str(path.resolve()), "sha256": digest}
    try:
        study = Study(**raw)
    except ValidationError as e:
        raise StudyError(f"{path}: {_explain(e, Study)}") from None
    return _resolved(study, path.parent)


AS_READ = "KD_STUDY_AS_READ"  # the variable that names the file in which a study is kept as a command has read it


@contextmanager
def as_read(study: Study, folder: Path | str | None = None) -> Iterator[None]:
    """Let `load` give this study back for its file, in what is started within: the file may be edited meanwhile.

    folder: of temporary files.
    """
    with TemporaryDirectory(prefix="study-", dir=folder) as private:
        kept = Path(private) / "study.json"
        kept.write_text(json.dumps(study.model_dump(exclude_unset=True)), encoding="ascii")
        os.environ[AS_READ] = str(kept)
        try:
            yield
        finally:
            del os.environ[AS_READ]


def _resolved(study: Study, folder: Path) -> Study:
    """The study with its paths made absolute: they are relative to the study file, not to where a command is typed."""

    def absolute(name: str) -> str:
        if "\0" in name or any(len(os.fsencode(part)) > 255 for part in Path(name).parts):
            raise StudyError(f"{study.file}: no file is called {_shown.repr(name)}; write its path from the study file")
        try:
            return str((folder / Path(name).expanduser()).resolve())
        except (OSError, RuntimeError) as e:  # a loop of links, or nobody's home
            raise StudyError(f"{study.file}: the path {_shown.repr(name)} leads nowhere ({e})") from None

    def models(listed: Sequence[AnyModel]) -> list[AnyModel]:
        found = []
        for model in listed:
            named = {k: getattr(model, k, "") for k in ("pretrained", "logits")}
            update = {k: absolute(v) for k, v in named.items() if isinstance(v, str) and v}
            if model.code:
                update["model"] = f"{absolute(str(model.code))}:{model.model.rpartition(':')[2]}"
            found.append(model.model_copy(update=update))
        return found

    source = absolute(study.data.source) if study.data.source else None
    return study.model_copy(
        update={
            "data": study.data.model_copy(update={"source": source}),
            "teacher": study.teacher.model_copy(update={"candidates": models(study.teacher.candidates)}),
            "students": models(study.students),
        }
    )


_shown = reprlib.Repr()  # of what was given, a line at most
_shown.maxstring = _shown.maxother = _shown.maxlong = 60


MOST_ERRORS = 5  # that are told at once


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
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
            got = f" (got {_shown.repr(e['input'])})" if where and not isinstance(e["input"], dict) else ""
            lines.append(f"{where}: {message}{got}" if where else message)
    if more := len(errors) - len(lines):
        lines.append(f"and {more} more")
    return "; ".join(lines)


def _keys(model: type[BaseModel], loc: tuple) -> list[str]:
    """The keys that are allowed at a place in a model's file; loc: the keys and indices that lead there."""
    for key in loc:
        if isinstance(key, int):
            continue
        kind = model.model_fields[key].annotation
        model = next(k for k in (*get_args(kind), kind) if isinstance(k, type) and issubclass(k, BaseModel))
    return [key for key in model.model_fields if model is not Study or key not in BY_LOAD]
