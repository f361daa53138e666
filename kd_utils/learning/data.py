"""Data sets as uint8 arrays, decoded once: (N, H, W, 3) images and (N,) labels for train, val and holdout.

A data set is decoded into a folder of .npy files under a temporary name and renamed when it is whole; later
starts map the files into memory and read no JPEG. Its fingerprint is the SHA-256 of all arrays and class names;
meta.json also has the SHA-256 of each file, which is compared once a process, when the file is first read.
Loads no torch.
"""

import hashlib
import io
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from .. import data_notes, files, machine, paths, seeds
from ..keys import digest
from ..schema import Data
from ..sources import SOURCES
from ..study import Study
from . import loaders
from .loaders import DataError, OnProgress, Pool, Pools, Reader

SPLITS = ("train", "val", "holdout")
THE_DOWNLOAD = "the download"  # where data come from that no path was named for


@dataclass(frozen=True)
class Dataset:
    """A decoded data set on disk; study: the name of one that asks for it."""

    folder: Path
    study: str

    @property
    def again(self) -> str:
        return f"`kd data {self.study}` decodes the data set again"

    @cached_property
    def meta(self) -> dict:
        """fingerprint, classes (names), counts (images a split), image_size in pixels, sha256 of each file.

        Raises DataError if it is damaged.
        """
        path = self.folder / paths.META
        meta = data_notes.read_about(path, data_notes.Decoded)
        if meta is None:
            raise DataError(f"{path}: damaged, or not there; {self.again}")
        return meta

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
        path = paths.array(self.folder, split, what)
        try:
            if "sha256" in self.meta and files.sha256(path) != self.meta["sha256"].get(path.name):
                raise ValueError("changed after it was written")
            return np.load(path, mmap_mode="c")  # copy-on-write: shared, and torch takes it
        except FileNotFoundError:
            raise DataError(f"{path} is gone; {self.again}") from None
        except (OSError, EOFError, ValueError) as e:
            raise DataError(f"{path}: damaged ({e}); {self.again}") from e

    def check(self) -> None:
        """Read every file once. Raises DataError for one that is damaged."""
        for split in SPLITS:
            n, size = self.meta["counts"][split], self.meta["image_size"]
            for what, shape in (("images", (n, size, size, 3)), ("labels", (n,))):
                if self._array(split, what).shape != shape:
                    raise DataError(f"{self.folder}: changed after it was written; {self.again}")
        if "checksum" not in self.meta and _fingerprint(self.folder, self.classes) != self.fingerprint:
            raise DataError(f"{self.folder}: changed after it was written; {self.again}")


def pictures(study: Study) -> np.ndarray | None:
    """The val images, (N, H, W, 3) uint8, where they are decoded and a report may show them; else None."""
    if not SOURCES[study.data.name].shown:
        return None
    try:
        return load(study).images("val")
    except DataError:
        return None


def prepare(
    study: Study,
    source: str | Path | None = None,
    progress: OnProgress | None = None,
    say: Callable[[str], None] = print,
) -> Dataset:
    """The study's data set, decoded now if it is not on disk yet, or is damaged, which say() is told.

    source: where the data set lies, for those that may lie anywhere (default: the study's data.source; else it is
    downloaded, if it was not before).
    Raises DataError on anything that is not as it should be, and leaves nothing half-written behind.
    """
    data_notes.claim(study)
    progress = progress or (lambda what, done, total: None)
    if source is not None:
        _may_lie_anywhere(study.data)
    folder = folder_of(study.data)
    if _damage(Dataset(folder, study.name)) or "checksum" not in Dataset(folder, study.name).meta:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if damage := _damage(Dataset(folder, study.name)):
                if (folder / paths.META).exists():
                    say(f"{damage}: this is done now")
                pools = _pools(study.data, source, progress)
                if ignored := pools.ignored():
                    say(ignored)
                if _split_by_itself(study.data, pools):
                    say(
                        f"the data have no validation images: one in {VAL_SHARE} of each class's is set apart for "
                        "validation; data.val_from_train_per_class in the study would say how many"
                    )
                with files.whole(folder) as tmp:
                    tmp.mkdir()
                    _decode(study.data, pools, tmp, progress)
                    if SOURCES[study.data.name].path == "optional":
                        meta = {**Dataset(tmp, study.name).meta, "source": _resolved(source or study.data.source)}
                        data_notes.write_about(tmp / paths.META, meta)
            elif "checksum" not in (meta := Dataset(folder, study.name).meta):  # decoded before these were noted
                data_notes.write_about(folder / paths.META, {**meta, "sha256": _digests(folder)})
    dataset = Dataset(folder, study.name)
    if source is not None and dataset.meta.get("source") not in (None, where := _resolved(source)):
        raise DataError(
            f"the data of study '{study.name}' are decoded already, from {dataset.meta['source']}, so {where} would "
            f"not be read; leave --source out, or delete the folder {folder} to decode from there"
        )
    data_notes.note(study, dataset.meta)
    return dataset


def _damage(dataset: Dataset) -> str:
    """Why a data set cannot be read, '' if it can."""
    try:
        dataset.check()
    except DataError as e:
        return str(e)
    return ""


def load(study: Study) -> Dataset:
    """The study's data set from disk. Raises DataError, naming the command, if it is not decoded yet."""
    dataset = Dataset(folder_of(study.data), study.name)
    if not (dataset.folder / paths.META).is_file():
        raise DataError(f"the data of study '{study.name}' are not prepared; run: kd data {study.name}")
    return dataset


def listed(study: Study) -> Iterator[tuple[str, int, str, str]]:
    """Every image of the study's decoded data, in the order of its arrays: split, label, class and name.

    The splits come one after the other, as in SPLITS. An image of a data set that has no files is named by its number
    in the published split, from 0. Raises DataError where the data are not decoded, or are not where they were.
    """
    came_from = load(study).meta.get("source", THE_DOWNLOAD)
    pools = _pools(study.data, None if came_from == THE_DOWNLOAD else came_from, lambda what, done, total: None)
    chosen, splits = _choose(study.data, pools)
    for split in SPLITS:
        for pool, index in splits[split]:
            published = "train" if pool is pools.train else "val"
            for i in index:
                key = int(pool.labels[i])
                yield split, chosen.index(key), pools.keys[key], pool.names[i] if pool.names else f"{published} {i}"


def folder_of(data: Data) -> Path:
    """Where the data set is decoded to: a folder for all that a study asks of its data. Raises DataError."""
    spec = data_notes.data_spec(data)
    if SOURCES[data.name].path == "required":  # other files are other data: names, sizes and times of all of them
        root = Path(str(data.source))
        if not root.is_dir():
            raise DataError(f"data.source: there is no folder {root}")
        spec["files"] = sorted(
            (str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()
        )
    return paths.arrays(f"{data.name}-{digest(spec)}")


def _may_lie_anywhere(data: Data) -> None:
    if SOURCES[data.name].path != "optional":
        takes = ", ".join(s.name for s in SOURCES.values() if s.path == "optional")
        raise DataError(f"a source is for {takes}; the data set here is '{data.name}'")


def _resolved(source: str | Path | None) -> str:
    return str(Path(source).expanduser().resolve()) if source else THE_DOWNLOAD


def _pools(data: Data, path: str | Path | None, progress: OnProgress) -> Pools:
    """The study's data set as published; path: where it lies, before what the study says."""
    path = path or data.source
    return getattr(loaders, SOURCES[data.name].loader)(Path(path).expanduser() if path else None, progress)


# --- which of them a study takes


VAL_SHARE = 5  # one in so many images of a class validates, where nobody says


def _split_by_itself(data: Data, pools: Pools) -> bool:
    """Whether validation images are to be set apart though the study names no number of them."""
    return pools.val is None and not data.val_from_train_per_class


def check(data: Data, pools: Pools) -> None:
    """See to it that these data can be split as asked. Raises DataError."""
    _choose(data, pools)


def _choose(data: Data, pools: Pools) -> tuple[list[int], dict[str, list[tuple[Pool, np.ndarray]]]]:
    """The chosen classes, and for each split the (pool, indices of images) it takes.

    Within a class the training pool is walked in a fixed random order: first train, then what moves to val,
    then holdout, so a larger train_per_class contains a smaller one only while the others stay at 0.
    Where there are no validation images and the study moves none, one in VAL_SHARE of a class is moved.
    """
    chosen = _choose_classes(data.classes, pools.keys)
    taken: dict[str, list[np.ndarray]] = {"train": [], "moved": [], "holdout": []}
    for c in chosen:
        images = np.flatnonzero(pools.train.labels == c)
        images = images[seeds.split(c).permutation(len(images))]
        moved = len(images) // VAL_SHARE if _split_by_itself(data, pools) else data.val_from_train_per_class
        apart = moved + data.holdout_per_class
        n = data.train_per_class or len(images) - apart
        if n < 1 or n + apart > len(images):
            raise DataError(
                f"class {pools.keys[c]}: {len(images)} training images, but train_per_class "
                f"({data.train_per_class or 'at least 1'}) + val_from_train_per_class "
                f"({moved}) + holdout_per_class ({data.holdout_per_class}) asks for more"
            )
        taken["train"].append(images[:n])
        taken["moved"].append(images[n : n + moved])
        taken["holdout"].append(images[n + moved : n + apart])
    rows = {k: np.sort(np.concatenate(v)).astype(np.int64) for k, v in taken.items()}
    published = [] if pools.val is None else [(pools.val, np.flatnonzero(np.isin(pools.val.labels, chosen)))]
    splits = {
        "train": [(pools.train, rows["train"])],
        "val": [*published, (pools.train, rows["moved"])],
        "holdout": [(pools.train, rows["holdout"])],
    }
    validated = np.concatenate([pool.labels[i] for pool, i in splits["val"]])
    if without := sorted(set(chosen) - set(validated.tolist())):
        raise DataError(
            f"class {pools.keys[without[0]]} has no validation image; add some, leave the class out by data.classes, "
            "or set data.val_from_train_per_class in the study"
        )
    return chosen, splits


def _choose_classes(wanted: int | list[str] | None, keys: list[str]) -> list[int]:
    """The indices of the wanted classes: the first so many, those of these keys, or all. Raises DataError."""
    if wanted is None:
        if len(keys) < 2:
            raise DataError(f"the data have one class, {', '.join(keys)}; at least 2 are needed to tell images apart")
        return list(range(len(keys)))
    if isinstance(wanted, int):
        if not 2 <= wanted <= len(keys):
            raise DataError(f"data.classes: {wanted} of {len(keys)} classes; take 2 to {len(keys)}")
        return list(range(wanted))
    missing = [w for w in wanted if w not in keys]
    if missing:
        raise DataError(f"data.classes: no class {', '.join(missing)}; there are: {', '.join(keys[:10])}…")
    return sorted(keys.index(w) for w in wanted)


# --- decoding


def _decode(data: Data, pools: Pools, folder: Path, progress: OnProgress) -> None:
    """Write the arrays of every split into the folder, then meta.json."""
    chosen, splits = _choose(data, pools)
    size = data.image_size
    total = sum(len(i) for parts in splits.values() for _, i in parts)
    need = total * size * size * 3
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < need * 1.02:
        raise DataError(f"{folder.parent}: the decoded images need {need:,} bytes and {free:,} are free")
    new_label = np.full(len(pools.keys), -1, np.int64)
    new_label[chosen] = np.arange(len(chosen))
    jobs = []  # the arguments of _decode_some
    for split, parts in splits.items():
        n = sum(len(i) for _, i in parts)
        path = paths.array(folder, split, "images")
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, size, size, 3))
        _allocate(path)
        row = 0
        labels = []
        for pool, index in parts:
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
        np.save(paths.array(folder, split, "labels"), np.concatenate(labels))
    _decode_files(jobs, progress)
    classes = [pools.classes[c] for c in chosen]
    meta = {
        "fingerprint": _fingerprint(folder, classes),
        "sha256": _digests(folder),
        "classes": classes,
        "keys": [pools.keys[c] for c in chosen],
        "counts": {s: int(sum(len(i) for _, i in parts)) for s, parts in splits.items()},
        "image_size": size,
    }
    data_notes.write_about(folder / paths.META, meta)


def _allocate(path: Path) -> None:
    """Take a file's space now: where the disk is full, writing to a mapped file with holes ends the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, path.stat().st_size)


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each array's file, by its name."""
    arrays = [paths.array(folder, split, what) for split in SPLITS for what in ("images", "labels")]
    return {path.name: files.sha256(path) for path in arrays}


def _fingerprint(folder: Path, classes: list[str]) -> str:
    """SHA-256 over the classes' names and every split's images and labels, with their shapes; hexadecimal."""
    hashed = hashlib.sha256(json.dumps(classes).encode())
    for split in SPLITS:
        for what in ("images", "labels"):
            array = np.load(paths.array(folder, split, what), mmap_mode="r")
            hashed.update(f"{split} {what} {array.shape}".encode())
            hashed.update(memoryview(array).cast("B") if array.size else b"")
    return hashed.hexdigest()


def _decode_files(jobs: list[tuple], progress: OnProgress) -> None:
    """Decode all jobs, in as many processes as there are cores."""
    total = sum(len(names) for _, names, _, _ in jobs)
    if total <= 1000:  # not worth a start of processes
        _refuse(jobs, {name: why for job in jobs for name, why in _decode_some(*job).items()})
        return
    workers = min(machine.cores(), len(jobs))
    done, damaged, others = 0, {}, set(active_children())
    progress("decoding images", 0, total)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool:
        with machine.deaf_children(), machine.strangers_to_main():
            futures = {pool.submit(_decode_some, *job): len(job[1]) for job in jobs}
        try:
            for future in as_completed(futures):
                damaged |= future.result()
                done += futures[future]
                progress("decoding images", done, total)
        except BaseException:
            for process in set(active_children()) - others:
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise
    _refuse(jobs, damaged)


MOST_NAMED = 10  # of files that cannot be decoded


def _refuse(jobs: list[tuple], damaged: dict[str, str]) -> None:
    """Raises DataError where files could not be decoded; damaged: why, by their names."""
    source = jobs[0][0].source if jobs else ""
    if len(damaged) == 1:
        ((name, why),) = damaged.items()
        raise DataError(
            f"{source}: {name} is not an image that can be decoded ({why}); "
            "replace it, or delete it if the data set may do without"
        )
    if damaged:
        named = [f"{name} ({why})" for name, why in sorted(damaged.items())[:MOST_NAMED]]
        more = f"; and {len(damaged) - MOST_NAMED:,} more" if len(damaged) > MOST_NAMED else ""
        raise DataError(
            f"{source}: {len(damaged):,} files are no images that can be decoded: {'; '.join(named)}{more}; "
            "replace them, or delete those that the data set may do without"
        )


def _end_with_parent() -> None:
    """Let this process end when its parent does, however that ends: a pool's process would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _decode_some(reader: Reader, names: list[str], path: Path, row: int) -> dict[str, str]:
    """Decode these files into the array file at path, from that row on; returns why some could not be, by their names.

    Raises DataError for one that cannot be read at all.
    """
    images, damaged = np.load(path, mmap_mode="r+"), {}
    for k, name in enumerate(names):
        encoded = reader.read(name)
        try:
            pixels = decoded(encoded)
        except Exception as e:
            damaged[name] = why_undecoded(e)
        else:
            images[row + k] = _resize(pixels, images.shape[1])
    images.flush()
    return damaged


def image(path: Path, size: int) -> np.ndarray:
    """An image file as this package stores images: (size, size, 3) uint8. Raises DataError, naming the file."""
    if path.is_dir() or not files.exists(path):
        raise DataError(f"{path} is a folder; name image files" if path.is_dir() else f"there is no file {path}")
    reader = Reader(path.parent)
    try:
        return np.array(_resize(decoded(reader.read(path.name)), size))
    except DataError:
        raise
    except Exception as e:
        raise DataError(f"{path}: not an image that can be decoded ({why_undecoded(e)})") from None


def why_undecoded(error: Exception) -> str:
    """In a line what Pillow, which is given bytes and no name, says of an image."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image, or none in a format that is read"
    return " ".join(str(error).split())[:160]


SAMPLE_FORMAT = 339  # TIFF's tag: 1 unsigned, 2 signed, 3 floating point
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


def decoded(encoded: bytes) -> np.ndarray:
    """An image file's content as pixels, (h, w, 3) uint8, RGB, upright; of several pictures in a file, the first.

    An image is turned as its EXIF says. Grey is the same in all three channels. 16 bits become 8 by dividing by 257
    (in colour, Pillow takes the higher byte). A palette is looked up. What is transparent shows white.
    Raises ValueError, or an error of Pillow's, for what is none of these, such as floating point.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings():  # Pillow judges the size by the header, before it decodes
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(encoded), formats=FORMATS)
    with opened:
        tags: Any = getattr(opened, "tag_v2", {})  # of a TIFF
        if 2 in tags.get(SAMPLE_FORMAT, ()):  # which Pillow reads as unsigned
            raise ValueError("its pixels are signed; save it with 8 or 16 bits, without a sign")
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if opened.mode.startswith("I"):
            return _grey16(np.asarray(image), opened)
    if image.mode == "F":
        raise ValueError("its pixels are floating point; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _grey16(grey: np.ndarray, image: Any) -> np.ndarray:
    """Pixels of 16 bits as RGB of 8. image: as opened. Raises ValueError for others of more than 8 bits."""
    if "transparency" in image.info:
        raise ValueError("one of its 65,536 greys is transparent; save it without transparency, or with 8 bits")
    bits, white_is_0 = (16,), False
    if image.format == "TIFF":
        bits, white_is_0 = image.tag_v2.get(258), image.tag_v2.get(262) == 0
    if bits != (16,) or white_is_0 or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("its pixels are neither 8 nor 16 bits with 0 for black; save it with 8 or 16 bits")
    return np.repeat(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)


def _resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """The whole image at size x size, bicubic; an image of that size is kept to the bit."""
    from PIL import Image

    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
