"""A study: what its file asks for, as cells, models and views. Loads no torch."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from . import files, methods, paths, strict_yaml
from .cells import Cell, in_order, temperature_at
from .methods import TaughtBy, Teaching
from .schema import (
    PLATEAU,
    STANDARD,
    Asked,
    Augment,
    Candidate,
    Contrast,
    Data,
    Epochs,
    Grid,
    Method,
    Model,
    Number,
    Precision,
    Seed,
    Teacher,
    Train,
)
from .text import quoted, short
from .validation import Section, StudyError, a_name, explain, known


class Study(Section):
    """A study: data, models, training and the grid."""

    BY_LOAD = frozenset({"name", "file", "sha256"})

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
        """The sections by themselves are right; here it is seen to that they fit each other."""
        self._check_models()
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names a value twice: {self.seeds}")
        if twice := _twice([m.label for m in self.methods]):
            raise ValueError(f"methods: {twice} named twice; give each row a `name` of its own")
        for cell in self.grid.cells:
            known([s.label for s in self.students], cell.student)
        self._check_contrasts()
        # some file systems take A for a
        if twice := _twice([cell.name.casefold() for cell in self.cells()]):
            raise ValueError(f"two runs would be called {twice[0]}; give students and methods other names, a T once")
        return self

    def _check_models(self) -> None:
        """Raises ValueError for names given twice, and for what cannot be trained, or cannot teach."""
        for what, models in (("teacher.candidates", self.teacher.candidates), ("students", self.students)):
            if twice := _twice([m.label for m in models]):
                raise ValueError(f"{what}: {twice} named twice; give each a `name` of its own")
            for m in models:
                self.training(m, teacher=what != "students")
        for student in self.students:
            if not self.training(student, teacher=False).epochs:
                raise ValueError(f"train.epochs of {student.label} is 0: only a teacher can do without being trained")
        for candidate in self.teacher.candidates:
            self._can_teach(candidate)
            for method in self.methods:
                self._can_control(candidate, method)

    def _check_contrasts(self) -> None:
        """Raises ValueError for a contrast of what is not in the grid; further methods are none of it."""
        grid = {(c.T, c.alpha) for c in self.cells() if c.method == "kd"}
        for contrast in self.contrasts:
            for T, alpha in (*contrast.cells, *contrast.against):
                if (temperature_at(T, alpha), alpha) not in grid:
                    raise ValueError(
                        f"contrasts: {contrast.name!r} asks of T = {short(T)}, alpha = {short(alpha)}, "
                        "which is no cell of the grid"
                    )
            cells, against = ({(temperature_at(*pair), pair[1]) for pair in side} for side in contrast.sides)
            if cells == against:
                raise ValueError(f"contrasts: {contrast.name!r} compares cells with themselves")
        if twice := _twice([c.name for c in self.contrasts]):
            raise ValueError(f"contrasts: {twice} named twice")

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
        T_or_none = temperature_at(asked.T, asked.alpha)
        if method != "kd":
            if asked.alpha == 1:
                raise StudyError(f"alpha: method {method!r} needs one below 1; the baseline is of method 'kd'")
            if not self.method(method).teaching.temperature:
                T_or_none = 1.0
        study = self.with_epochs(asked.epochs) if asked.epochs else self
        return study, Cell(label, T_or_none, asked.alpha, asked.seed, method)

    def training(self, model: Model, *, teacher: bool) -> Train:
        """How this model is trained: the study's `train`, overridden by the teacher's, then by the model's.

        Ensembles and logits are not trained: 0 epochs.
        """
        layers = (self.teacher.train if teacher else {}, model.train, {} if model.model else {"epochs": 0})
        try:
            return self.train.changed(*layers)
        except ValidationError as e:
            raise ValueError(f"train of {model.label}: {explain(e, Train)}") from None

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
        there_are = ", ".join(["kd", *(m.label for m in self.methods)])
        raise StudyError(f"no method of study '{self.name}' is called {label!r}; there are: {there_are}")

    def cells(self) -> list[Cell]:
        """The cells in the order in which they are run."""
        return in_order([student.label for student in self.students], self.seeds, self.grid, self.methods)

    def asked_first(self) -> list[Contrast]:
        """The study's contrasts; by default the plateau and the customary cell, each against the baseline."""
        if self.contrasts:
            return self.contrasts
        points = {(c.T, c.alpha) for c in self.cells() if c.T is not None and c.method == "kd"}
        least, most = PLATEAU
        plateau = sorted(p for p in points if p[0] >= least and p[1] <= most)
        asked = []
        if len(plateau) > 1:
            name = f"T of at least {short(least)} and α of at most {short(most)}"
            asked.append(Contrast(name=name, cells=plateau))
        if STANDARD in points:
            name = f"the customary T = {short(STANDARD[0])} and α = {short(STANDARD[1])}"
            asked.append(Contrast(name=name, cells=[STANDARD]))
        return asked

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


def _twice(names: list[str]) -> list[str]:
    """Those that are there more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


AnyModel = TypeVar("AnyModel", bound=Model)


def _named(models: Sequence[AnyModel], label: str, what: str) -> AnyModel:
    for m in models:
        if m.label == label:
            return m
    raise StudyError(f"no {what} is called {label!r}; there are: {', '.join(m.label for m in models)}")


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
        there_are = ", ".join(sorted(p.stem for p in paths.studies().glob("*.yaml")))
        shown = path if len(str(path)) < 200 else f"{str(path)[:200]}…"
        raise StudyError(f"no study file {shown}; in studies/ there are: {there_are or 'none'}")
    try:
        raw = strict_yaml.read(path)
        digest = files.sha256(path)
    except strict_yaml.YamlError as e:
        raise StudyError(str(e), file=path) from None
    if not isinstance(raw, dict):
        raise StudyError(f"a study is a mapping with the keys {', '.join(Study.keys())}", file=path)
    for key in Study.BY_LOAD & set(raw):
        raise StudyError(f"unknown key '{key}'; a study is named by its file", file=path)
    try:
        a_name(path.stem)
    except ValueError as e:
        raise StudyError(f"rename the file: {e}", file=path) from None
    raw |= {"name": path.stem, "file": str(path.resolve()), "sha256": digest}
    try:
        study = Study(**raw)
    except ValidationError as e:
        raise StudyError(explain(e, Study), file=path) from None
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
            raise StudyError(f"no file is called {quoted(name)}; write its path from the study file", file=study.file)
        try:
            return str((folder / Path(name).expanduser()).resolve())
        except (OSError, RuntimeError) as e:  # a loop of links, or nobody's home
            raise StudyError(f"the path {quoted(name)} leads nowhere ({e})", file=study.file) from None

    def models(listed: Sequence[AnyModel]) -> list[AnyModel]:
        resolved = []
        for model in listed:
            named = {k: getattr(model, k, "") for k in ("pretrained", "logits")}
            update = {k: absolute(v) for k, v in named.items() if isinstance(v, str) and v}
            if model.code:
                update["model"] = f"{absolute(str(model.code))}:{model.function}"
            resolved.append(model.model_copy(update=update))
        return resolved

    source = absolute(study.data.source) if study.data.source else None
    return study.model_copy(
        update={
            "data": study.data.model_copy(update={"source": source}),
            "teacher": study.teacher.model_copy(update={"candidates": models(study.teacher.candidates)}),
            "students": models(study.students),
        }
    )
