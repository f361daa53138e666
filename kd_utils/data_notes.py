"""What is noted of data, beside their arrays and beside the records that are of them: by it they are told apart.

Loads no torch, and no arrays.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import files, paths
from .keys import digest, noted_names
from .schema import Data
from .study import Study
from .validation import StudyError


def data_spec(data: Data) -> dict[str, Any]:
    """What a study asks of its data, but for where they lie."""
    return data.model_dump(exclude={"source"})


class Counts(BaseModel):
    """Images a split."""

    model_config = ConfigDict(strict=True)

    train: int = Field(ge=1)
    val: int = Field(ge=1)
    holdout: int = Field(ge=0)


class Decoded(BaseModel):
    """What is noted of data beside their arrays: paths.META. Later versions may note more."""

    model_config = ConfigDict(strict=True)

    fingerprint: str
    classes: list[str] = Field(min_length=2)
    counts: Counts
    image_size: int = Field(ge=1)  # pixels a side
    sha256: dict[str, str] = {}  # of each file; absent in the first ones
    source: str = ""  # where they lay, for those that may lie anywhere


class AboutData(Decoded):
    """What is noted of data beside the records that are of them: paths.DATA."""

    spec: dict[str, Any]
    file: str = Field(default="", pattern=r"^[^\x00]*$")  # the study file, from the root
    pretrained: dict[str, str] = {}  # the SHA-256 of files that models are made of


def read_about(path: Path, kind: type[Decoded]) -> dict[str, Any] | None:
    """What is noted of data; None where it is not there, or is not what was written. Raises OSError.

    The first notes have no checksum, and are to be compared with something else.
    """
    about = files.read_json(path)
    try:
        kind.model_validate(about)
    except ValidationError:
        return None
    assert about is not None
    return about if about.get("checksum", seal := _checksum(about)) == seal else None


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Note what data are, with a checksum, by which a name or a number that changes later is noticed."""
    files.write_json(path, {**about, "checksum": _checksum(about)})


def _checksum(about: dict[str, Any]) -> str:
    return digest({k: v for k, v in about.items() if k != "checksum"})


def contradicted(about: dict[str, Any]) -> bool:
    """Whether what is noted beside records has no checksum, and the arrays of its data here are of something else."""
    if "checksum" in about:
        return False
    for path in paths.arrays("").glob(f"*/{paths.META}"):
        meta = read_about(path, Decoded) if path.is_file() else None
        if meta and meta["fingerprint"] == about["fingerprint"]:
            return any(meta[k] != about[k] for k in ("classes", "counts", "image_size"))
    return False


def note(study: Study, meta: dict[str, Any]) -> None:
    """Note beside the results which data they are of (`meta` is a data set's), and which files models are made of.

    By this, records can be told apart where the images, or these files, are not at hand.
    """
    claim(study)
    about = {k: meta[k] for k in ("fingerprint", "classes", "counts", "image_size")} | {"spec": data_spec(study.data)}
    if study.file:
        about["file"] = paths.from_root(study.file)
    models = [*study.teacher.candidates, *study.students]
    made_of = [path for model in models for path in model.files]
    here = {name: files.sha256(path) for path in made_of if path.is_file() for name in noted_names(study, path)}
    path = paths.results(study.name) / paths.DATA
    noted = read_about(path, AboutData) or {}
    if hashes := noted.get("pretrained", {}) | here:  # what is noted stays: in a clone the files may not be at hand
        about["pretrained"] = hashes
    if noted != {**about, "checksum": _checksum(about)}:
        write_about(path, about)


def claim(study: Study) -> None:
    """Raises StudyError if the results of this study's name are another study file's, one that is still there."""
    other = (files.read_json(paths.results(study.name) / paths.DATA, file=str) or {}).get("file")
    if study.file and other and other != paths.from_root(study.file) and files.exists(paths.root() / other):
        raise StudyError(
            f"{paths.results(study.name)} has the results of {(paths.root() / other).resolve()}, and {study.file} "
            "would write there too: studies are told apart by their files' names; rename one of the two files"
        )
