"""The sections of the study file, typed and checked: each key with its type, its limits and its default."""

import difflib
import numbers
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from . import methods
from .methods import Teaching
from .sources import SOURCES
from .validation import KeyedSection, Section, StudyError, a_name, explain, known


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

Precision = Literal["fp32", "bf16"]


def _distinct_classes(classes: int | list[str] | None) -> int | list[str] | None:
    """At least two classes, each once."""
    if isinstance(classes, list) and len(set(classes)) < len(classes):
        twice = next(c for c in classes if classes.count(c) > 1)
        raise ValueError(f"the class {twice!r} is named twice; name each once")
    if classes is not None and (len(classes) if isinstance(classes, list) else classes) < 2:
        raise ValueError("at least 2 classes are needed to tell images apart; leave the key out for all there are")
    return classes


Classes = Annotated[int | list[str] | None, AfterValidator(_distinct_classes)]


class Data(Section):
    """Which images. Splits of the training images are disjoint and drawn by a fixed permutation per class."""

    name: Annotated[str, AfterValidator(partial(known, SOURCES))]
    source: str | None = None  # where the images lie, of data sets that take it
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


class Augment(KeyedSection):
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


class Train(KeyedSection):
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


class Model(Section):
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
    def function(self) -> str:
        """What that file calls it; of a model of a library, '' or the end of its name."""
        return self.model.rpartition(":")[2]

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


class Teacher(Section):
    """The candidates, of which the best one teaches, and how they are trained."""

    candidates: list[Candidate] = Field(min_length=1)
    train: dict[str, Any] = {}  # what differs from the study's `train`, for every candidate
    seed: Seed = 1000  # none of `seeds`: their students would see the views that it was trained on


class ListedCell(Section):
    """One cell, where a study lists them."""

    student: str  # its name
    T: Temperature
    alpha: Annotated[Number, Field(ge=0, lt=1)]  # alpha = 1 is the baseline, which is always run


class Grid(Section):
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

Pair = Annotated[tuple[Temperature, Alpha], Field(strict=False)]  # T and alpha; YAML has lists


class Contrast(Section):
    """A question put to the accuracies before the first run: the mean of some cells minus the mean of others.

    It is asked of every student that has these cells, over the seeds that they share.
    """

    name: str = Field(min_length=1, max_length=80)  # how the report calls it
    cells: list[Pair] = Field(min_length=1)  # [T, alpha] each
    against: list[Pair] = []  # [T, alpha] each; default: the baseline

    @property
    def sides(self) -> tuple[list[Pair], list[Pair]]:
        """`cells` and `against`, the default filled in: the baseline, at any T."""
        return self.cells, self.against or [(1.0, 1.0)]


class Asked(Section):
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
            raise StudyError(explain(e, cls)) from None


class Method(Section):
    """Another way to teach than plain distillation, and its points: a cell for each pair of T and alpha.

    Its own weights are keys beside these: `{method: dkd, nontarget: 4}`. methods.py has the ways to teach.
    """

    model_config = ConfigDict(extra="allow")
    # any other key is a weight; pydantic reads their type here
    __pydantic_extra__: dict[str, Annotated[Number, Field(ge=0, le=1e6)]]  # pyright: ignore[reportIncompatibleVariableOverride]

    method: Annotated[str, AfterValidator(partial(known, methods.FURTHER))]
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
