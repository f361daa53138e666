"""Data sets as uint8 arrays, decoded once: (N, H, W, 3) images and (N,) labels for train, val and holdout.

A data set is decoded into a folder of .npy files under a temporary name and renamed when it is whole; later
starts map the files into memory and read no JPEG. Its fingerprint is the SHA-256 of all arrays and class names.
Loads no torch.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np
from filelock import FileLock

from .. import files, paths, seeds, shelf
from ..study import Data, Study, digest

SPLITS = ("train", "val", "holdout")
TINY_IMAGENET = {
    "url": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "bytes": 248_100_043,
    "md5": "90528d7ca1a48142e341f4ef8d21d0de",
    "classes": 200,
    "train": 500,  # a class
    "val": 50,  # a class
}
MAY_BE_SHOWN = {"digits", "folder"}  # images that a report may hold; the others are licensed for research only
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")

Progress = Callable[[str, int, int], None]  # what is done, how much of it, out of how much


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Dataset:
    """A decoded data set on disk."""

    folder: Path

    @cached_property
    def meta(self) -> dict:
        """fingerprint, classes (names), counts (images a split), image_size in pixels."""
        return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))

    @property
    def fingerprint(self) -> str:
        return self.meta["fingerprint"]

    @property
    def classes(self) -> list[str]:
        return self.meta["classes"]

    def images(self, split: str) -> np.ndarray:
        """(N, H, W, 3) uint8, RGB, mapped from disk."""
        return self._array(split, "images")

    def labels(self, split: str) -> np.ndarray:
        """(N,) int64, indices into `classes`."""
        return self._array(split, "labels")

    def _array(self, split: str, what: str) -> np.ndarray:
        path = self.folder / f"{split}_{what}.npy"
        try:
            return np.load(path, mmap_mode="c")  # copy-on-write: shared, and torch takes it
        except (OSError, ValueError) as e:
            raise DataError(f"{path}: {e}; delete the folder {self.folder} and run `kd data` again") from e


def pictures(study: Study) -> np.ndarray | None:
    """The val images, (N, H, W, 3) uint8, where they are decoded and a report may show them; else None."""
    if study.data.name not in MAY_BE_SHOWN:
        return None
    try:
        return load(study).images("val")
    except DataError:
        return None


def prepare(study: Study, source: str | Path | None = None, progress: Progress | None = None) -> Dataset:
    """The study's data set, decoded now if it is not on disk yet.

    source: a zip or a folder that holds TinyImageNet (default: data/tiny-imagenet-200.zip, downloaded if absent).
    Raises DataError on anything that is not as it should be, and leaves nothing half-written behind.
    """
    progress = progress or (lambda what, done, total: None)
    dataset = Dataset(_folder(study.data))
    if not (dataset.folder / "meta.json").is_file():
        dataset.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{dataset.folder}.lock"):
            if not (dataset.folder / "meta.json").is_file():
                pools = _pools(study.data, source, progress)
                with files.whole(dataset.folder) as tmp:
                    tmp.mkdir()
                    _decode(study.data, pools, tmp, progress)
    shelf.note(study, dataset.meta)
    return dataset


def load(study: Study) -> Dataset:
    """The study's data set from disk. Raises DataError, naming the command, if it is not decoded yet."""
    dataset = Dataset(_folder(study.data))
    if not (dataset.folder / "meta.json").is_file():
        raise DataError(f"the data of study '{study.name}' are not prepared; run: kd data {study.name}")
    return dataset


def _folder(data: Data) -> Path:
    spec = shelf.data_spec(data)
    if data.name == "folder":  # another content is another data set: names, sizes and times of all files
        root = Path(data.source)
        if not root.is_dir():
            raise DataError(f"data.source: there is no folder {root}")
        spec["files"] = sorted(
            (str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()
        )
    return paths.arrays(f"{data.name}-{digest(spec)}")


# --- where the images come from: for each pool (train, val) a list of encoded images, or an array


@dataclass(frozen=True)
class _Pool:
    """Images of one published split: labels, and either decoded images or the names to read them by."""

    labels: np.ndarray  # (N,) int64
    array: np.ndarray | None = None  # (N, h, w, 3) uint8
    names: tuple[str, ...] = ()
    reader: "_Reader | None" = None


@dataclass(frozen=True)
class _Pools:
    classes: list[str]  # as shown to people
    keys: list[str]  # as sorted and chosen by
    train: _Pool
    val: _Pool | None


class _Reader:
    """Reads files of a folder or of a zip archive by their names; opened anew in each process."""

    def __init__(self, source: Path):
        self.source = source
        self._zip = None

    def __getstate__(self):
        return self.source

    def __setstate__(self, source):
        self.__init__(source)

    @property
    def zip(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                self._zip = zipfile.ZipFile(self.source)
            except (zipfile.BadZipFile, OSError) as e:
                raise DataError(f"{self.source}: not a zip archive that can be read ({e}); download it again") from e
        return self._zip

    def names(self) -> list[str]:
        """All files, sorted, by their paths with '/'. Raises DataError for a name that leaves the archive."""
        if self.source.is_dir():
            return sorted(str(PurePosixPath(p.relative_to(self.source))) for p in self.source.rglob("*") if p.is_file())
        for name in self.zip.namelist():
            if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
                raise DataError(
                    f"{self.source}: the entry {name!r} leaves the archive; do not use this file, "
                    "download the data set again from its official address"
                )
        return sorted(n for n in self.zip.namelist() if not n.endswith("/"))

    def read(self, name: str) -> bytes:
        try:
            return (self.source / name).read_bytes() if self.source.is_dir() else self.zip.read(name)
        except (OSError, KeyError, zipfile.BadZipFile, zipfile.zlib.error) as e:
            raise DataError(f"{self.source}: {name} cannot be read ({e}); replace it or its archive") from e


def _pools(data: Data, source: str | Path | None, progress: Progress) -> _Pools:
    if source is not None and data.name != "tiny-imagenet":
        raise DataError(f"a source is for tiny-imagenet; the data set here is '{data.name}'")
    if data.name == "digits":
        return _digits()
    if data.name == "cifar100":
        return _cifar100()
    if data.name == "folder":
        return _image_folder(Path(data.source))
    chosen = source or data.source
    if chosen is None:
        chosen = paths.downloads() / "tiny-imagenet-200.zip"
        if not chosen.is_file():
            download(TINY_IMAGENET["url"], chosen, TINY_IMAGENET["md5"], TINY_IMAGENET["bytes"], progress)
    return _tiny_imagenet(Path(chosen).expanduser())


def _digits() -> _Pools:
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.round(found.images * (255 / 16)).astype(np.uint8)
    names = [str(k) for k in range(10)]
    return _Pools(names, names, _Pool(found.target.astype(np.int64), np.repeat(grey[..., None], 3, axis=-1)), None)


def _cifar100() -> _Pools:
    from torchvision.datasets import CIFAR100

    try:
        train, val = (CIFAR100(str(paths.downloads()), train=t, download=True) for t in (True, False))
    except Exception as e:
        raise DataError(
            f"cifar100: {e}; download cifar-100-python.tar.gz by hand and put it into {paths.downloads()}"
        ) from e
    pools = [_Pool(np.asarray(d.targets, np.int64), np.asarray(d.data)) for d in (train, val)]
    return _Pools(list(train.classes), list(train.classes), *pools)


def _image_folder(root: Path) -> _Pools:
    reader = _Reader(root)
    names = [n for n in reader.names() if n.lower().endswith(IMAGE_SUFFIXES)]
    by_split = {
        split: [n for n in names if n.split("/")[0] == split and n.count("/") >= 2] for split in ("train", "val")
    }
    if not by_split["train"]:
        raise DataError(f"{root}: no images in train/<class>/; the layout is train/<class>/*.jpg, val/<class>/*.jpg")
    keys = sorted({n.split("/")[1] for n in by_split["train"]})
    strange = sorted({n.split("/")[1] for n in by_split["val"]} - set(keys))
    if strange:
        raise DataError(f"{root}/val: the class folders {', '.join(strange)} are not in train/")
    pools = [_named_pool(reader, by_split[s], keys, lambda n: n.split("/")[1]) for s in ("train", "val")]
    return _Pools(keys, keys, pools[0], pools[1] if len(pools[1].labels) else None)


def _tiny_imagenet(source: Path) -> _Pools:
    if not source.exists():
        raise DataError(f"there is no {source}; name the zip or the unpacked folder of tiny-imagenet-200")
    reader = _Reader(source)
    names = reader.names()
    tops = [n.removesuffix("wnids.txt") for n in names if n == "wnids.txt" or n.endswith("/wnids.txt")]
    if not tops:
        raise DataError(f"{source}: no wnids.txt in it; is it tiny-imagenet-200?")
    top = min(tops, key=len)
    keys = sorted(reader.read(f"{top}wnids.txt").decode().split())
    words = dict(line.split("\t", 1) for line in reader.read(f"{top}words.txt").decode().splitlines() if "\t" in line)
    images = [n for n in names if n.endswith(".JPEG")]
    train = [n for n in images if n.startswith(f"{top}train/")]
    val = [n for n in images if n.startswith(f"{top}val/images/")]
    rows = reader.read(f"{top}val/val_annotations.txt").decode().splitlines()
    annotated = {row.split("\t")[0]: row.split("\t")[1] for row in rows if row.strip()}
    unlabelled = [n for n in val if n.rsplit("/", 1)[1] not in annotated]
    if unlabelled:
        raise DataError(f"{source}: val/val_annotations.txt has no label for {unlabelled[0]}")
    pools = (
        _named_pool(reader, train, keys, lambda n: n.removeprefix(f"{top}train/").split("/")[0]),
        _named_pool(reader, val, keys, lambda n: annotated[n.rsplit("/", 1)[1]]),
    )
    if len(keys) != TINY_IMAGENET["classes"]:
        raise DataError(f"{source}: {len(keys)} classes in wnids.txt, not {TINY_IMAGENET['classes']}")
    for split, pool in zip(("train", "val"), pools, strict=True):
        counts = np.bincount(pool.labels, minlength=len(keys))
        for key, count in zip(keys, counts, strict=True):
            if count != TINY_IMAGENET[split]:
                raise DataError(
                    f"{source}: class {key} has {count} {split} images, not {TINY_IMAGENET[split]}; "
                    "the archive is incomplete: download it again"
                )
    return _Pools([words.get(k, k).split(",")[0] for k in keys], keys, *pools)


def _named_pool(reader: _Reader, names: list[str], keys: list[str], key_of: Callable[[str], str]) -> _Pool:
    index = {k: i for i, k in enumerate(keys)}
    for n in names:
        if key_of(n) not in index:
            raise DataError(f"{reader.source}: {n} belongs to the class {key_of(n)!r}, which is not among the classes")
    labels = np.array([index[key_of(n)] for n in names], np.int64)
    return _Pool(labels, names=tuple(names), reader=reader)


# --- which of them a study takes


def _choose(data: Data, pools: _Pools) -> tuple[list[int], dict[str, list[tuple[str, np.ndarray]]]]:
    """The chosen classes, and for each split the (pool, indices) it takes.

    Within a class the training pool is walked in a fixed random order: first train, then what moves to val,
    then holdout, so a larger train_per_class contains a smaller one only while the others stay at 0.
    """
    wanted = data.classes
    if wanted is None:
        chosen = list(range(len(pools.keys)))
    elif isinstance(wanted, int):
        if not 2 <= wanted <= len(pools.keys):
            raise DataError(f"data.classes: {wanted} of {len(pools.keys)} classes; take 2 to {len(pools.keys)}")
        chosen = list(range(wanted))
    else:
        missing = [w for w in wanted if w not in pools.keys]
        if missing:
            raise DataError(f"data.classes: no class {', '.join(missing)}; there are: {', '.join(pools.keys[:10])}…")
        chosen = sorted(pools.keys.index(w) for w in wanted)
    taken: dict[str, list[np.ndarray]] = {"train": [], "moved": [], "holdout": []}
    apart = data.val_from_train_per_class + data.holdout_per_class
    for c in chosen:
        own = np.flatnonzero(pools.train.labels == c)
        own = own[seeds.split(c).permutation(len(own))]
        n = data.train_per_class or len(own) - apart
        if n < 1 or n + apart > len(own):
            raise DataError(
                f"class {pools.keys[c]}: {len(own)} training images, but train_per_class "
                f"({data.train_per_class or 'at least 1'}) + val_from_train_per_class "
                f"({data.val_from_train_per_class}) + holdout_per_class ({data.holdout_per_class}) asks for more"
            )
        taken["train"].append(own[:n])
        taken["moved"].append(own[n : n + data.val_from_train_per_class])
        taken["holdout"].append(own[n + data.val_from_train_per_class : n + apart])
    rows = {k: np.sort(np.concatenate(v)).astype(np.int64) for k, v in taken.items()}
    splits = {"train": [("train", rows["train"])], "val": [], "holdout": [("train", rows["holdout"])]}
    if pools.val is not None:
        splits["val"].append(("val", np.flatnonzero(np.isin(pools.val.labels, chosen))))
    splits["val"].append(("train", rows["moved"]))
    if not sum(len(i) for _, i in splits["val"]):
        raise DataError(
            f"'{data.name}' has no validation split of its own: set data.val_from_train_per_class in the study"
        )
    return chosen, splits


# --- decoding


def _decode(data: Data, pools: _Pools, folder: Path, progress: Progress) -> None:
    chosen, splits = _choose(data, pools)
    size = data.image_size
    total = sum(len(i) for parts in splits.values() for _, i in parts)
    need = total * size * size * 3
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < need * 1.02:
        raise DataError(f"{folder.parent}: the decoded images need {need:,} bytes and {free:,} are free")
    new_label = np.full(len(pools.keys), -1, np.int64)
    new_label[chosen] = np.arange(len(chosen))
    hashed = hashlib.sha256(json.dumps([pools.classes[c] for c in chosen]).encode())
    jobs = []  # what processes decode: (reader, names, array file, first row)
    for split, parts in splits.items():
        n = sum(len(i) for _, i in parts)
        path = folder / f"{split}_images.npy"
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, size, size, 3))
        row = 0
        labels = []
        for pool_name, index in parts:
            pool = getattr(pools, pool_name)
            labels.append(new_label[pool.labels[index]])
            if pool.array is not None:
                for k, i in enumerate(index):
                    images[row + k] = _resize(pool.array[i], size)
            else:
                for start in range(0, len(index), 1000):
                    names = [pool.names[i] for i in index[start : start + 1000]]
                    jobs.append((pool.reader, names, path, row + start))
            row += len(index)
        images.flush()
        del images
        np.save(folder / f"{split}_labels.npy", np.concatenate(labels))
    _decode_files(jobs, progress)
    for split in splits:
        for what in ("images", "labels"):
            array = np.load(folder / f"{split}_{what}.npy", mmap_mode="r")
            hashed.update(f"{split} {what} {array.shape}".encode())
            hashed.update(memoryview(array).cast("B") if array.size else b"")
    meta = {
        "fingerprint": hashed.hexdigest(),
        "classes": [pools.classes[c] for c in chosen],
        "keys": [pools.keys[c] for c in chosen],
        "counts": {s: int(sum(len(i) for _, i in parts)) for s, parts in splits.items()},
        "image_size": size,
    }
    files.write_json(folder / "meta.json", meta)


def _decode_files(jobs: list[tuple], progress: Progress) -> None:
    total = sum(len(names) for _, names, _, _ in jobs)
    if total <= 1000:  # not worth a start of processes
        for job in jobs:
            _decode_some(*job)
        return
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), len(jobs))
    done = 0
    progress("decoding images", 0, total)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = {pool.submit(_decode_some, *job): len(job[1]) for job in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                done += futures[future]
                progress("decoding images", done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _decode_some(reader: _Reader, names: list[str], path: Path, row: int) -> None:
    from PIL import Image

    images = np.load(path, mmap_mode="r+")
    for k, name in enumerate(names):
        encoded = reader.read(name)
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except Exception as e:
            raise DataError(
                f"{reader.source}: {name} is not an image that can be decoded ({e}); "
                "replace it, or delete it if the data set may do without"
            ) from None
        images[row + k] = _resize(pixels, images.shape[1])
    images.flush()


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """The whole image at size x size, bicubic; an image of that size is kept to the bit."""
    from PIL import Image

    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def download(url: str, path: Path, md5: str, size: int, progress: Progress | None = None) -> None:
    """Fetch url to path, going on where an earlier attempt stopped; path is there only when the MD5 is right.

    size in bytes. Raises DataError, with the address and what to do.
    """
    import requests

    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    hint = f"download {url} by hand and name it: kd data STUDY --source FILE"
    have = part.stat().st_size if part.is_file() else 0
    try:
        if have < size:
            headers = {"Range": f"bytes={have}-"} if have else {}
            with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
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
    if hashed.hexdigest() != md5:
        part.unlink()
        raise DataError(f"{url}: the file's MD5 is {hashed.hexdigest()}, not {md5}, and it was removed; {hint}")
    os.replace(part, path)
