"""A study's results as one file that travels, and a root made of such a file. Loads no torch.

The file is a zip: the study file, the records, the weights of the teacher and of the best student of each model, the
report's PDF, a model card, if wished the soft targets; and manifest.json with the SHA-256 of each. Nothing of it is
executed or unpickled.
"""

import hashlib
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from .. import __version__, files, paths, records
from ..data_notes import AboutData, read_about
from ..records import RecordError, StudentRecord
from ..shelf import Shelf
from ..sources import SOURCES
from ..study import Study, load
from ..text import short
from ..validation import StudyError, a_name

MANIFEST, CARD = "manifest.json", "README.md"
FORMAT = 1  # of the manifest
SUFFIXES = {".yaml", ".yml", ".json", ".csv", ".npz", ".npy", ".safetensors", ".pth", ".pt", ".py", ".pdf", ".md"}
MOST_FILES = 100_000
MOST_BYTES = 1 << 40  # of all files together
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class PackError(ValueError):
    """A file that cannot be packed or unpacked; the message says why and what to do."""


@dataclass(frozen=True)
class Packed:
    """What was packed or unpacked: the file or folder, how many files, and what is to be considered."""

    path: Path
    count: int
    notes: list[str]


def pack(study: Study, *, soft_targets: bool = False) -> Packed:
    """Write export/STUDY/STUDY.zip. Raises ShelfError where there is no teacher yet, RecordError, PackError."""
    shelf = Shelf(study)
    shelf.check()
    shelf.chosen_teacher()
    inside: dict[str, Path] = {}
    notes: list[str] = []
    for name, path in _of(shelf, notes):
        inside[name] = path
    if soft_targets:
        inside |= dict(_soft_targets(shelf))
    manifest = {
        "format": FORMAT,
        "study": study.name,
        "written_by": f"kd-utils {__version__}",
        "files": {name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)} for name, path in inside.items()},
    }
    out = paths.exported(study.name) / f"{study.name}.zip"
    with files.whole(out) as tmp, zipfile.ZipFile(tmp, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in ((MANIFEST, json.dumps(manifest, indent=1)), (CARD, card(shelf))):
            archive.writestr(_entry(name), text, zipfile.ZIP_DEFLATED)
        for name, path in inside.items():
            with open(path, "rb") as source, archive.open(_entry(name), "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return Packed(out, len(inside), notes)


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without a time: the same results make the same file."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _of(shelf: Shelf, notes: list[str]) -> Iterator[tuple[str, Path]]:
    """The files of a study, each with its name in the zip; what is left out is noted."""
    study, results = shelf.study, paths.results(shelf.study.name)
    yield f"studies/{study.name}.yaml", Path(study.file)
    beside = Path(study.file).parent
    for path in sorted({path for model in (*study.teacher.candidates, *study.students) for path in model.files}):
        if not path.is_file():
            continue
        if path.is_relative_to(beside) and path.suffix in SUFFIXES:
            yield f"studies/{path.relative_to(beside).as_posix()}", path
        else:
            notes.append(f"{path} is not packed: it does not lie beside the study file; who trains on will need it")
    for name in (paths.DATA, paths.RESULTS_CSV, paths.SEARCH):
        if (results / name).is_file():
            yield f"results/{study.name}/{name}", results / name
    controls = [record for record in shelf.controls.values() if record]
    for record in (*shelf.teachers, *controls, *shelf.students):
        for name in (paths.RECORD, paths.PREDICTIONS):
            path = record.folder / name
            yield f"results/{study.name}/{path.relative_to(results).as_posix()}", path
    chosen = shelf.chosen_teacher()
    weights = [path for path in (chosen.folder / paths.WEIGHTS, results / paths.TEACHER_WEIGHTS) if path.is_file()]
    if weights:
        yield f"results/{study.name}/{paths.TEACHER_WEIGHTS}", weights[0]
    else:
        notes.append(f"the weights of the teacher {chosen.teacher} are not here, and not packed")
    for record in best(shelf):
        path = record.folder / paths.WEIGHTS
        if path.is_file():
            yield f"results/{study.name}/{path.relative_to(results).as_posix()}", path
        else:
            notes.append(f"the weights of {record.cell.name} are not here, and not packed")
    for name in (paths.PDF, paths.RECORDS):
        if (path := paths.report(study.name) / name).is_file():
            yield f"report/{study.name}/{name}", path


def best(shelf: Shelf) -> list[StudentRecord]:
    """The best run of each student model, by held-out images, or by val where there are none."""
    by_student = {s.label: [r for r in shelf.students if r.student == s.label] for s in shelf.study.students}
    return [max(runs, key=lambda record: record.score) for runs in by_student.values() if runs]


def _soft_targets(shelf: Shelf) -> Iterator[tuple[str, Path]]:
    """The stored logits of the study's teacher, for all its seeds. Raises DataError where the data are not decoded."""
    from ..learning import data
    from ..learning.soft_targets import SoftTargets

    study, dataset = shelf.study, data.load(shelf.study)
    for seed in study.seeds:
        folder = SoftTargets.of(study, seed, shelf.chosen_teacher(), dataset).folder
        for path in sorted([*folder.glob("*.npy"), *folder.glob("*.json")]):
            yield f"cache/soft_targets/{folder.name}/{path.name}", path


def card(shelf: Shelf) -> str:
    """The model card: what was trained on what, how good it is, and how to go on; Markdown."""
    study, about, teacher = shelf.study, shelf.dataset, shelf.chosen_teacher()
    assert about is not None
    counts = ", ".join(f"{n:,} {split}" for split, n in about["counts"].items() if n)
    lines = [
        f"# {study.name}",
        "",
        f"Small image classifiers by knowledge distillation, from the study `{study.name}` (kd-utils {__version__}).",
        "",
        f"- **Data**: {study.data.name}, {len(about['classes'])} classes, {counts} images at {about['image_size']} px.",
        f"  Licence of the images: {SOURCES[study.data.name].licence}.",
        f"- **Teacher**: `{teacher.teacher}`, {teacher.metrics.top1_best:.2%} top-1 on val.",
        f"- **Runs done**: {len(shelf.students)} students, {len(shelf.teachers)} teacher candidates.",
        "",
        "| student | T | alpha | seed | top-1 on val, % | held out, % | weights |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for record in best(shelf):
        held = "–" if record.metrics.top1_holdout is None else f"{100 * record.metrics.top1_holdout:.2f}"
        T, here = "–" if record.T is None else short(record.T), (record.folder / paths.WEIGHTS).is_file()
        where = f"`results/{study.name}/students/{record.id}/{paths.WEIGHTS}`" if here else "not packed"
        top1 = f"{100 * record.metrics.top1_best:.2f}"
        lines.append(f"| {record.student} | {T} | {short(record.alpha)} | {record.seed} | {top1} | {held} | {where} |")
    lines += [
        "",
        "These are the best of several runs each, so their accuracy on the images that they were chosen by is",
        "optimistic. The classes, in the order of the models' outputs:",
        "",
        "    " + json.dumps(about["classes"], ensure_ascii=False),
        "",
        "To go on with it:",
        "",
        f"    kd unpack {study.name}.zip ROOT",
        f"    KD_ROOT=ROOT kd status {study.name}",
        f"    KD_ROOT=ROOT kd predict {study.name} IMAGE",
        "",
    ]
    return "\n".join(lines)


def unpack(source: Path, folder: Path) -> tuple[Study, Packed]:
    """Make a root of a packed study: `folder`, which must not be there yet, or be empty. Returns the study in it.

    Each file's name, size and SHA-256 are checked against the manifest, and its place against those of a root; then
    the study, its records and what is noted of its data are read. Raises PackError, and leaves nothing half-made
    behind.
    """
    folder = folder.expanduser().resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PackError(f"{folder} is there already, and is not empty; name another folder")
        with _reading(source):
            if not source.is_file():  # a device or a pipe may have no end
                raise zipfile.BadZipFile("there is no such file")
            archive = zipfile.ZipFile(source)
        with archive:
            with _reading(source):
                manifest = _manifest(source, archive)
            name, listed = manifest["study"], manifest["files"]
            need = sum(about["bytes"] for about in listed.values())
            folder.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder.parent).free < need:
                raise PackError(f"{folder}: {need:,} bytes are needed, and fewer are free")
            with _filled(folder) as made:
                for entry, about in listed.items():
                    _extract(source, archive, entry, about, made / entry)
                with _reading(source):
                    text = archive.open(_plain(archive, CARD)).read(1 << 20)
                (made / CARD).write_bytes(text)
                _read_once(source, made, name, listed)
    except files.DiskFull:
        raise
    except OSError as e:
        raise PackError(f"{folder}: cannot be made ({e.strerror or e}); name another folder") from None
    notes = [
        f"{folder / entry} is code: it runs when you train a model of it; read it first"
        for entry in listed
        if entry.endswith(".py")
    ]
    return load(folder / "studies" / f"{name}.yaml"), Packed(folder, len(listed), notes)


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Whatever reading a zip raises, as PackError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, RuntimeError, UnicodeError) as e:
        raise PackError(f"{source}: not a packed study that can be read ({e}); pack it again") from None


@contextmanager
def _filled(folder: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of this one when the block ends well.

    An empty one that is there already stays, since a shell may be in it: what was made is moved into it.
    """
    if not folder.exists():
        with files.whole(folder) as made:
            made.mkdir()
            yield made
        return
    with TemporaryDirectory(dir=folder) as made:
        yield Path(made)
        for path in sorted(Path(made).iterdir()):
            path.rename(folder / path.name)


def _plain(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """An entry that is packed as `pack` does it. Raises BadZipFile for another, KeyError where there is none."""
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
    return entry


def _read_once(source: Path, made: Path, name: str, listed: dict) -> None:
    """See to it that what was unpacked is a study, with its records and data. Raises PackError."""
    at = f"studies/{name}.yaml"
    if at not in listed:
        raise PackError(f"{source}: no study file {at}; pack it again")
    try:
        load(made / at)
        if read_about(made / "results" / name / paths.DATA, AboutData) is None:
            raise PackError(f"{source}: results/{name}/{paths.DATA} is not there, or is damaged; pack it again")
        for at in listed:
            if PurePosixPath(at).name == paths.RECORD:
                records.read((made / at).parent)
    except (StudyError, RecordError) as e:
        raise PackError(f"{source}: {at}: {e.wrong}; pack it again") from None


def _manifest(source: Path, archive: zipfile.ZipFile) -> dict:
    """What the file says that it holds, checked. Raises PackError."""
    entry = _plain(archive, MANIFEST)
    try:
        manifest = json.loads(archive.open(entry).read(64 << 20))
        name, listed = manifest["study"], manifest["files"]
        if manifest["format"] != FORMAT:
            format = f"{manifest['format']!r:.40}"
            raise PackError(f"{source}: written by another version (format {format}, this reads {FORMAT})")
        whole = isinstance(name, str) and a_name(name) and isinstance(listed, dict) and len(listed) < MOST_FILES
        sizes = [about["bytes"] for about in listed.values()]
        if not whole or not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) > MOST_BYTES:
            raise ValueError("its manifest makes no sense")
    except PackError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise PackError(f"{source}: not a packed study ({type(e).__name__}: {e}); pack it again") from None
    allowed = re.compile(
        rf"studies/.+|results/{re.escape(name)}/.+|report/{re.escape(name)}/.+|cache/soft_targets/[0-9a-f]{{12}}/[^/]+"
    )
    for entry in listed:
        parts = PurePosixPath(entry).parts
        proper = "\\" not in entry and all(NAME.fullmatch(part) for part in parts) and "/".join(parts) == entry
        if not proper or not allowed.fullmatch(entry) or PurePosixPath(entry).suffix not in SUFFIXES:
            raise PackError(f"{source}: {entry!r:.200} is no place of a packed study; do not use this file")
    return manifest


def _extract(source: Path, archive: zipfile.ZipFile, entry: str, about: dict, path: Path) -> None:
    """One file, of the size and the content that the manifest says. Raises PackError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed, left = hashlib.sha256(), about["bytes"]
    with _reading(source):
        packed = archive.open(_plain(archive, entry))
    with packed, open(path, "wb") as out:
        while True:
            with _reading(source):
                chunk = packed.read(min(1 << 20, left + 1))
            left -= len(chunk)
            if not chunk or left < 0:
                break
            hashed.update(chunk)
            out.write(chunk)
    if left or hashed.hexdigest() != about["sha256"]:
        raise PackError(f"{source}: {entry} is not what the manifest says; the file is damaged: fetch it again")
