"""Data sets as they are published: a loader each, (path, progress) -> Pools; their rows are in sources.py.

Images come decoded, as an array, or encoded, by the names to read them by. Loads no torch until a loader of
torchvision's is called.
"""

import errno
import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .. import files, paths
from ..network import PATIENCE, impatient
from ..sources import SOURCES, Download

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")

MOST_IMAGE = 300_000_000  # bytes of an image's file
MOST_CIFAR = 200_000_000  # bytes of each of CIFAR-100's files; the largest, the archive, has 169,001,437
MOST_TEXT = 16_000_000  # bytes of a list of names

OnProgress = Callable[[str, int, int], None]  # what is done, how much of it, out of how much


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Pool:
    """Images of one published split: labels, and either decoded images or the names to read them by."""

    labels: np.ndarray  # (N,) int64, indices into the classes
    array: np.ndarray | None = None  # (N, h, w, 3) uint8
    names: tuple[str, ...] = ()
    reader: "Reader | None" = None


@dataclass(frozen=True)
class Pools:
    """A data set as published: its classes, its training images and, if it has any, its validation images."""

    classes: list[str]  # as shown to people
    keys: list[str]  # as sorted and chosen by
    train: Pool
    val: Pool | None
    unread: tuple[str, ...] = ()  # folders of its own that hold no part of it

    def ignored(self) -> str:
        """A sentence on the folders that are not read; '' where there are none."""
        these = " and ".join(f"{name}/" for name in self.unread)
        return f"{these}, beside train/, not read: the folder of validation images is called val/" if these else ""


class Reader:
    """Reads files of a folder or of a zip archive by their names; opened anew in each process."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._zip = None

    def __getstate__(self) -> Path:
        return self.source

    def __setstate__(self, source: Path) -> None:
        self.__init__(source)

    @property
    def zip(self) -> zipfile.ZipFile:
        """The archive, opened. Raises DataError."""
        if self._zip is None:
            try:
                if not self.source.is_file():  # a device or a pipe may have no end
                    raise zipfile.BadZipFile("it is neither a file nor a folder")
                self._zip = zipfile.ZipFile(self.source)
            except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as e:
                raise DataError(f"{self.source}: not a zip archive that can be read ({e}); download it again") from e
        return self._zip

    def names(self) -> list[str]:
        """All files, sorted, by their paths with '/'.

        Raises DataError for a name that leaves the archive, or is not UTF-8.
        """
        if self.source.is_dir():
            names = sorted(PurePosixPath(p.relative_to(self.source)) for p in self.source.rglob("*") if p.is_file())
            for name in map(str, names):
                if name != name.encode("utf-8", "replace").decode():
                    raise DataError(
                        f"{self.source}: the name {os.fsencode(name)} is not UTF-8; rename that file or folder"
                    )
            return [str(name) for name in names]
        for name in self.zip.namelist():
            if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
                raise DataError(
                    f"{self.source}: the entry {name!r} leaves the archive; do not use this file, "
                    "download the data set again from its official address"
                )
        return sorted(n for n in self.zip.namelist() if not n.endswith("/"))

    def read(self, name: str, most: int = MOST_IMAGE) -> bytes:
        """A file's content, of at most so many bytes: its size is judged before anything is read. Raises DataError."""
        try:
            if self.source.is_dir():
                about = (self.source / name).stat()
                if not stat.S_ISREG(about.st_mode):
                    raise OSError(errno.EINVAL, "not a file")
                self._judge(name, about.st_size, most)
                return (self.source / name).read_bytes()
            entry = self.zip.getinfo(name)
            self._judge(name, entry.file_size, most)
            if entry.flag_bits & 1:
                raise zipfile.BadZipFile("it is encrypted; unpack the archive with its password and name the folder")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("it is neither stored nor deflated; unpack the archive and name the folder")
            with self.zip.open(entry) as f:
                return f.read(entry.file_size + 1)  # bounded, whatever the entry says of itself
        except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(f"{self.source}: {name} cannot be read ({e}); replace it or its archive") from e

    def text(self, name: str) -> str:
        """A small file's text. Raises DataError."""
        try:
            return self.read(name, MOST_TEXT).decode("utf-8")
        except UnicodeDecodeError as e:
            raise DataError(f"{self.source}: {name} is not UTF-8 ({e}); download the data set again") from None

    def _judge(self, name: str, size: int, most: int) -> None:
        if size > most:
            raise DataError(
                f"{self.source}: {name} has {size:,} bytes, and at most {most:,} are read; replace it or its archive"
            )


def digits(path: Path | None, progress: OnProgress) -> Pools:
    """scikit-learn's digits: grey from 0 to 16, scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    names = [str(k) for k in range(10)]
    return Pools(names, names, Pool(bunch.target.astype(np.int64), np.repeat(grey[..., None], 3, axis=-1)), None)


def cifar100(path: Path | None, progress: OnProgress) -> Pools:
    """CIFAR-100 through torchvision, downloaded if it is not there; torchvision compares the MD5 of every file."""
    from torchvision.datasets import CIFAR100

    for path in (paths.downloads() / "cifar-100-python.tar.gz", *paths.downloads().glob("cifar-100-python/*")):
        if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_CIFAR):
            raise DataError(f"{path}: not a file of at most {MOST_CIFAR:,} bytes, as CIFAR-100's are; remove it")
    try:
        with impatient():
            train = CIFAR100(str(paths.downloads()), train=True, download=True)
            val = CIFAR100(str(paths.downloads()), train=False, download=True)
    except Exception as e:
        raise DataError(
            f"cifar100: {e}; download cifar-100-python.tar.gz by hand and put it into {paths.downloads()}"
        ) from e
    of_train, of_val = (Pool(np.asarray(d.targets, np.int64), np.asarray(d.data)) for d in (train, val))
    return Pools(list(train.classes), list(train.classes), of_train, of_val)


def image_folder(path: Path | None, progress: OnProgress) -> Pools:
    """A folder of one's own: train/<class>/ and val/<class>/, where there may be no val/; or <class>/ alone.

    What is hidden, as .ipynb_checkpoints is, is left out.
    """
    if path is None:
        raise DataError("a folder of images is wanted: name it as data.source")
    reader = Reader(path)
    names = [n for n in reader.names() if n.lower().endswith(IMAGE_SUFFIXES) and not hidden(n)]
    split_up = (path / "train").is_dir() or (path / "val").is_dir()
    in_class = re.compile(r"(train|val)/([^/]+)/." if split_up else r"()([^/]+)/.")
    images = [(n, m[1], m[2]) for n in names if (m := in_class.match(n))]
    keys = sorted({key for _, split, key in images if split != "val"})
    if not keys:
        raise DataError(
            f"{path}: no images in train/<class>/, nor in <class>/; the layout is train/<class>/*.jpg and "
            "val/<class>/*.jpg, or <class>/*.jpg alone"
        )
    strange = sorted({key for _, split, key in images if split == "val"} - set(keys))
    if strange:
        raise DataError(f"{path}/val: the class folders {', '.join(strange)} are not in train/")
    full = {(split, key) for _, split, key in images}
    for folder in sorted([*path.glob("train/*/"), *path.glob("val/*/")] if split_up else path.glob("*/")):
        place = (folder.parent.name if split_up else "", folder.name)
        if not hidden(folder.name) and place not in full:
            raise DataError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}); add some, or remove the folder")
    class_of = {n: key for n, _, key in images}
    of_train, of_val = ([n for n, split, _ in images if (split == "val") is val] for val in (False, True))
    train, val = (_named_pool(reader, some, keys, class_of.__getitem__) for some in (of_train, of_val))
    beside = [p.name for p in path.glob("*/") if split_up and p.name not in ("train", "val") and not hidden(p.name)]
    return Pools(keys, keys, train, val if len(val.labels) else None, tuple(sorted(beside)))


def hidden(name: str) -> bool:
    """Whether a file, by its path with '/', is hidden or lies in a hidden folder."""
    return any(part.startswith(".") for part in name.split("/"))


def tiny_imagenet(path: Path | None, progress: OnProgress) -> Pools:
    """TinyImageNet-200 from its zip or its unpacked folder; without a path from its address, downloaded once."""
    published = SOURCES["tiny-imagenet"]
    if path is None:
        assert published.download is not None
        path = paths.downloads() / published.download.url.rpartition("/")[2]
        if not path.is_file():
            fetch(published.download, path, progress)
    if not files.exists(path):
        raise DataError(f"there is no {path}; name the zip or the unpacked folder of tiny-imagenet-200")
    reader = Reader(path)
    names = reader.names()
    tops = [n.removesuffix("wnids.txt") for n in names if n == "wnids.txt" or n.endswith("/wnids.txt")]
    if not tops:
        raise DataError(f"{path}: no wnids.txt in it; is it tiny-imagenet-200?")
    top = min(tops, key=len)
    keys = sorted(reader.text(f"{top}wnids.txt").split())
    words = dict(line.split("\t", 1) for line in reader.text(f"{top}words.txt").splitlines() if "\t" in line)
    images = [n for n in names if n.endswith(".JPEG")]
    train = [n for n in images if n.startswith(f"{top}train/")]
    val = [n for n in images if n.startswith(f"{top}val/images/")]
    annotated: dict[str, str] = {}
    for number, row in enumerate(reader.text(f"{top}val/val_annotations.txt").splitlines(), 1):
        if row.strip():
            image, *rest = row.split("\t")
            if not rest:
                raise DataError(
                    f"{path}: val/val_annotations.txt, line {number}: no tab between image and class; "
                    "download the data set again"
                )
            annotated[image] = rest[0]
    unlabelled = [n for n in val if n.rsplit("/", 1)[1] not in annotated]
    if unlabelled:
        raise DataError(f"{path}: val/val_annotations.txt has no label for {unlabelled[0]}")
    pools = {
        "train": _named_pool(reader, train, keys, lambda n: n.removeprefix(f"{top}train/").split("/")[0]),
        "val": _named_pool(reader, val, keys, lambda n: annotated[n.rsplit("/", 1)[1]]),
    }
    if len(keys) != published.classes:
        raise DataError(f"{path}: {len(keys)} classes in wnids.txt, not {published.classes}")
    for split, wanted in (("train", published.train), ("val", published.val)):
        pool = pools[split]
        counts = np.bincount(pool.labels, minlength=len(keys))
        for key, count in zip(keys, counts, strict=True):
            if count != wanted:
                raise DataError(
                    f"{path}: class {key} has {count} {split} images, not {wanted}; "
                    "the archive is incomplete: download it again"
                )
    return Pools([words.get(k, k).split(",")[0] for k in keys], keys, pools["train"], pools["val"])


def _named_pool(reader: Reader, names: list[str], keys: list[str], key_of: Callable[[str], str]) -> Pool:
    """The pool of the files of these names; key_of gives a file's class, one of keys."""
    index = {k: i for i, k in enumerate(keys)}
    for n in names:
        if key_of(n) not in index:
            raise DataError(f"{reader.source}: {n} belongs to the class {key_of(n)!r}, which is not among the classes")
    labels = np.array([index[key_of(n)] for n in names], np.int64)
    return Pool(labels, names=tuple(names), reader=reader)


def fetch(download: Download, path: Path, progress: OnProgress | None = None) -> None:
    """Fetch a file to path, going on where an earlier attempt stopped; path is there only when the MD5 is right.

    Raises DataError, with the address and what to do.
    """
    import requests

    url, size = download.url, download.bytes
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    hint = f"download {url} by hand and name it: kd data STUDY --source FILE"
    have = part.stat().st_size if part.is_file() else 0
    try:
        if have < size:
            headers = {"Range": f"bytes={have}-"} if have else {}
            with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as answer:
                answer.raise_for_status()
                if answer.status_code != 206:
                    have = 0  # the server sends the whole again
                with open(part, "ab" if have else "wb") as f:
                    for chunk in answer.iter_content(1 << 16):
                        f.write(chunk)
                        have += len(chunk)
                        if progress:
                            progress(f"downloading {path.name}", have, size)
    except requests.RequestException as e:
        raise DataError(f"{url}: {e}; run the command again to go on from {have:,} bytes, or {hint}") from e
    if have < size:
        raise DataError(f"{url}: broke off after {have:,} of {size:,} bytes; run the command again to go on")
    hashed = hashlib.md5(usedforsecurity=False)
    with open(part, "rb") as f:
        while chunk := f.read(1 << 20):
            hashed.update(chunk)
    if hashed.hexdigest() != download.md5:
        part.unlink()
        raise DataError(
            f"{url}: the file's MD5 is {hashed.hexdigest()}, not {download.md5}, and it was removed; {hint}"
        )
    os.replace(part, path)
