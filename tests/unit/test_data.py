import errno
import hashlib
import http.server
import inspect
import io
import json
import os
import re
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, write_study
from PIL import Image

from kd_utils import paths
from kd_utils.learning import data, loaders
from kd_utils.shelf import Shelf, ShelfError
from kd_utils.sources import SOURCES, Download
from kd_utils.study import load

COUNTS = {"classes": 3, "train": 6, "val": 2}


def jpeg(value: int, size: int = 64) -> bytes:
    f = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(f, "JPEG", quality=95)
    return f.getvalue()


def tiny_files() -> dict[str, bytes]:
    """A TinyImageNet of 3 classes: class k's images are grey of value 40 k + 10 i; val is out of order."""
    top, files = "tiny-imagenet-200/", {}
    wnids = ["n03", "n01", "n02"]
    files[top + "wnids.txt"] = "\n".join(wnids).encode()
    files[top + "words.txt"] = b"n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tboa\nn99\tother\n"
    rows = []
    for k, wnid in enumerate(sorted(wnids)):
        for i in range(COUNTS["train"]):
            files[f"{top}train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(60 * k + 10 * i)
        for i in range(COUNTS["val"]):
            number = 5 * (7 * i + 2 * k) % 31
            files[f"{top}val/images/val_{number}.JPEG"] = jpeg(60 * k + 5)
            rows.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62")
    files[top + "val/val_annotations.txt"] = "\n".join(reversed(rows)).encode()
    return files


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return path


@pytest.fixture
def tiny(root, monkeypatch):
    monkeypatch.setitem(SOURCES, "tiny-imagenet", replace(SOURCES["tiny-imagenet"], **COUNTS))
    write_study(root, {**SMALL, "data": {"name": "tiny-imagenet", "image_size": 64}})
    return root


def prepare(root, files=None, **changes):
    if changes:
        write_study(root, {**SMALL, "data": {"name": "tiny-imagenet", "image_size": 64, **changes}})
    return data.prepare(load("small"), write_zip(root / "tiny.zip", files or tiny_files()))


def values(dataset, split):
    """(label, grey value) of each image."""
    grey = dataset.images(split).mean((1, 2, 3)).round().astype(int)
    return sorted(zip(dataset.labels(split).tolist(), grey.tolist(), strict=True))


def test_tiny_imagenet_has_its_classes_names_and_labels(tiny):
    found = prepare(tiny)
    assert found.classes == ["goldfish", "bullfrog", "boa"]
    assert found.meta["counts"] == {"train": 18, "val": 6, "holdout": 0}
    assert values(found, "train") == [(k, 60 * k + 10 * i) for k in range(3) for i in range(6)]
    assert values(found, "val") == [(k, 60 * k + 5) for k in range(3) for _ in range(2)]
    assert found.images("train").shape == (18, 64, 64, 3) and found.images("train").dtype == np.uint8


def test_a_folder_is_the_same_as_its_zip(tiny):
    zipped = prepare(tiny).fingerprint
    shutil.rmtree(tiny / "cache")
    zipfile.ZipFile(tiny / "tiny.zip").extractall(tiny / "unpacked")
    assert data.prepare(load("small"), tiny / "unpacked").fingerprint == zipped
    shutil.rmtree(tiny / "cache")
    assert data.prepare(load("small"), tiny / "unpacked" / "tiny-imagenet-200").fingerprint == zipped


def test_a_second_start_reads_no_image(tiny, monkeypatch):
    first = prepare(tiny)
    (tiny / "tiny.zip").unlink()
    monkeypatch.setattr(data, "_pools", lambda *a: pytest.fail("read the source again"))
    assert data.prepare(load("small")).fingerprint == first.fingerprint == data.load(load("small")).fingerprint


def test_pixels_are_pil_s(tiny):
    files = tiny_files()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    f = io.BytesIO()
    noise.save(f, "JPEG")
    name = "tiny-imagenet-200/train/n02/images/n02_3.JPEG"
    files[name] = f.getvalue()
    found = prepare(tiny, files)
    want = np.asarray(Image.open(io.BytesIO(f.getvalue())).convert("RGB"))
    assert any(np.array_equal(image, want) for image in found.images("train")[found.labels("train") == 1])


def test_subsets_are_disjoint_and_complete(tiny):
    found = prepare(tiny, classes=2, train_per_class=3, holdout_per_class=1, val_from_train_per_class=2)
    assert found.meta["counts"] == {"train": 6, "val": 8, "holdout": 2}
    pool = values(found, "train") + values(found, "holdout") + [v for v in values(found, "val") if v[1] % 10 == 0]
    assert sorted(pool) == [(k, 60 * k + 10 * i) for k in range(2) for i in range(6)]


def test_classes_by_name(tiny):
    assert prepare(tiny, classes=["n03", "n01"]).classes == ["goldfish", "boa"]
    with pytest.raises(data.DataError, match="no class n7"):
        prepare(tiny, classes=["n7", "n01"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_per_class": 7}, "n01: 6 training images.*asks for more"),
        ({"holdout_per_class": 6}, "asks for more"),
        ({"classes": 4}, "4 of 3 classes"),
    ],
)
def test_more_than_there_is(tiny, changes, says):
    with pytest.raises(data.DataError, match=says):
        prepare(tiny, **changes)


def leaves_nothing(root):
    return not [p for p in (root / "cache").rglob("*") if not p.name.endswith(".lock") and p.is_file()]


def test_a_corrupt_image_is_named_and_nothing_half_written_is_left(tiny):
    files = tiny_files()
    name = "tiny-imagenet-200/train/n02/images/n02_3.JPEG"
    files[name] = files[name][:200]
    with pytest.raises(data.DataError, match=re.escape(name)):
        prepare(tiny, files)
    assert leaves_nothing(tiny)
    assert prepare(tiny).meta["counts"]["train"] == 18  # and a good archive is taken afterwards


def test_a_missing_class_is_named(tiny):
    files = {k: v for k, v in tiny_files().items() if "/train/n02/" not in k}
    with pytest.raises(data.DataError, match="class n02 has 0 train images, not 6"):
        prepare(tiny, files)


@pytest.mark.parametrize("name", ["../evil.JPEG", "/etc/evil.JPEG", "tiny-imagenet-200/train/../../../x.JPEG"])
def test_an_archive_that_leaves_its_folder_is_refused(tiny, name):
    with pytest.raises(data.DataError, match="leaves the archive"):
        prepare(tiny, {**tiny_files(), name: b"x"})
    assert leaves_nothing(tiny)


TOP = "tiny-imagenet-200/"


@pytest.mark.parametrize("name", ["words.txt", "train/n02/images/n02_3.JPEG"])
def test_a_size_is_judged_before_anything_is_read(tiny, monkeypatch, name):
    monkeypatch.setattr(loaders, "MOST_TEXT", 2000)
    monkeypatch.setattr(loaders.Reader.read, "__defaults__", (2_000_000,))
    path = tiny / "tiny.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for entry, content in {**tiny_files(), TOP + name: bytes(3_000_000)}.items():
            z.writestr(entry, content)
    assert path.stat().st_size < 100_000
    with pytest.raises(data.DataError, match=rf"{name} has 3,000,000 bytes, and at most 2,000"):
        data.prepare(load("small"), path)
    zipfile.ZipFile(path).extractall(tiny / "unpacked")
    with pytest.raises(data.DataError, match=rf"{name} has 3,000,000 bytes, and at most 2,000"):
        data.prepare(load("small"), tiny / "unpacked")


def test_an_entry_that_lies_about_its_size_is_not_read_past_it(tmp_path):
    path = tmp_path / "lies.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a", bytes(3_000_000))
    path.write_bytes(path.read_bytes().replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(data.DataError, match="a cannot be read"):
        loaders.Reader(path).read("a")


def test_an_image_s_pixels_are_judged_by_its_header(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(Image.DecompressionBombWarning, match="100 pixels"):
        data.decoded(encoded(Image.new("L", (10, 10)), "PNG"))


@pytest.mark.parametrize(("flag", "method", "says"), [(1, 0, "encrypted"), (0, 99, "neither stored nor deflated")])
def test_entries_that_cannot_be_unpacked_are_named(tmp_path, flag, method, says):
    reader = loaders.Reader(write_zip(tmp_path / "a.zip", {"words.txt": b"x"}))
    entry = reader.zip.getinfo("words.txt")
    entry.flag_bits |= flag
    entry.compress_type = method
    with pytest.raises(data.DataError, match=rf"a\.zip: words\.txt cannot be read \(it is {says}.*name the folder"):
        reader.read("words.txt")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("val/val_annotations.txt", b"val_0.JPEG n01\n", r"val_annotations\.txt, line 1: no tab"),
        ("words.txt", "n01\tS\u00e4ule".encode("latin-1"), r"words\.txt is not UTF-8"),
        ("wnids.txt", b"\xff", r"wnids\.txt is not UTF-8"),
    ],
)
def test_lists_that_cannot_be_read_are_named(tiny, name, content, says):
    with pytest.raises(data.DataError, match=says):
        prepare(tiny, {**tiny_files(), TOP + name: content})


def test_a_file_s_name_that_is_not_utf_8_is_named(root):
    image_folder(root)
    folder = os.fsencode(root / "pictures" / "train") + b"/\xe4"
    os.mkdir(folder)
    shutil.copy(root / "pictures" / "train" / "a" / "0.png", folder + b"/0.png")
    with pytest.raises(data.DataError, match="xe4.*is not UTF-8; rename"):
        data.prepare(load("small"))


def test_a_source_of_300_letters_is_one_line(tiny):
    with pytest.raises(data.DataError, match="there is no xxx"):
        data.prepare(load("small"), "x" * 300)


def test_not_a_zip(tiny):
    (tiny / "tiny.zip").write_bytes(b"hello")
    with pytest.raises(data.DataError, match=r"tiny\.zip: not a zip"):
        data.prepare(load("small"), tiny / "tiny.zip")


def test_a_full_disk_leaves_nothing_behind(tiny, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(data.np, "save", full)
        with pytest.raises(OSError, match="free some and run the same command again"):
            prepare(tiny)
    assert leaves_nothing(tiny)
    prepare(tiny)


def test_space_is_taken_before_it_is_mapped(tiny, monkeypatch):
    """A mapped file with holes in it, on a full disk, would end the process by a bus error."""

    def full(fd, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="free some and run the same command again"):
        prepare(tiny)
    assert leaves_nothing(tiny)


def test_another_source_is_refused_once_the_data_are_decoded(tiny):
    found = prepare(tiny)
    assert prepare(tiny).fingerprint == found.fingerprint  # the same one is not
    with pytest.raises(data.DataError, match=r"decoded already, from .*tiny\.zip, so .*other\.zip would not be read"):
        data.prepare(load("small"), tiny / "other.zip")
    data.prepare(load("small"))
    meta = found.folder / "meta.json"  # as it was before sources were noted
    meta.write_text(
        json.dumps({k: v for k, v in json.loads(meta.read_text()).items() if k not in ("source", "checksum")})
    )
    data.prepare(load("small"), tiny / "other.zip")


def test_unprepared_data_name_the_command(root):
    with pytest.raises(data.DataError, match="kd data small"):
        data.load(load("small"))


def test_damaged_arrays_are_named(root):
    found = data.prepare(load("small"))
    path = found.folder / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(data.DataError, match="train_images.npy: damaged.*kd data"):
        found.images("train")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 64
    path.write_bytes(content)


def roll(path):
    np.save(path, np.roll(np.load(path), 1))


def empty(path):
    path.write_bytes(b"")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def lose(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "name"),
    [(flip, "train_images.npy"), (flip, "val_images.npy"), (roll, "train_labels.npy"), (roll, "val_labels.npy")]
    + [(how, name) for how in (empty, truncate, lose) for name in ("train_images.npy", "val_labels.npy", "meta.json")],
)
def test_damaged_data_are_named_and_decoded_again(root, damage, name):
    before = data.prepare(load("small"))
    wanted = before.fingerprint, before.images("train").copy(), before.labels("val").copy()
    damage(before.folder / name)
    with pytest.raises(data.DataError, match="kd data"):
        data.load(load("small")).check()
    said = []
    after = data.prepare(load("small"), say=said.append)
    assert damage is lose and name == "meta.json" or name in said[0]
    data.load(load("small")).check()
    assert after.fingerprint == wanted[0]
    assert (after.images("train") == wanted[1]).all() and (after.labels("val") == wanted[2]).all()


def test_data_that_were_decoded_before_digests_were_noted(root):
    """They are compared with their fingerprint once, and their digests are noted."""
    found = data.prepare(load("small"))
    meta = found.folder / "meta.json"
    noted = json.loads(meta.read_text())
    old = json.dumps({k: v for k, v in noted.items() if k not in ("sha256", "checksum")})
    meta.write_text(old)
    assert data.load(load("small")).images("train").shape == (120, 16, 16, 3)
    data.prepare(load("small"), say=pytest.fail)
    assert json.loads(meta.read_text()) == noted
    meta.write_text(old)
    roll(found.folder / "train_labels.npy")
    said = []
    data.prepare(load("small"), say=said.append)
    assert "changed after it was written" in said[0] and json.loads(meta.read_text()) == noted


META_CHANGES = [
    {"sha256": None},
    {"sha256": 5},
    {"sha256": [1]},
    {"sha256": {}},
    {"counts": {}},
    {"counts": {"train": 119, "val": 100, "holdout": 0}},
    {"classes": []},
    {"classes": [str(9 - k) for k in range(10)]},
    {"classes": [1, 2]},
    {"image_size": 8},
    {"source": 7},
    {"checksum": 3},
]


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("change", META_CHANGES)
def test_what_is_noted_of_the_data_is_not_believed_when_it_was_changed(root, change, sealed):
    """With and without the checksum, which the first notes do not have."""
    meta = data.prepare(load("small")).folder / "meta.json"
    noted = json.loads(meta.read_text())
    changed = {**noted, **change}
    if not sealed and "checksum" not in change:
        del changed["checksum"]
    meta.write_text(json.dumps(changed))
    said = []
    data.prepare(load("small"), say=said.append)
    assert len(said) == 1 and said[0].endswith("decodes the data set again: this is done now")
    assert json.loads(meta.read_text()) == noted


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("change", [*META_CHANGES[4:10], {"spec": 5}, {"file": "a\0b"}, {"pretrained": {"a": 5}}])
def test_nor_is_what_is_noted_beside_the_records(root, change, sealed):
    """Without the checksum it is compared with what is noted beside the images."""
    data.prepare(load("small"))
    path = paths.results("small") / "data.json"
    noted = json.loads(path.read_text())
    assert Shelf(load("small")).dataset == noted
    old = {k: v for k, v in noted.items() if k != "checksum"}
    path.write_text(json.dumps(old))
    assert Shelf(load("small")).dataset == old
    path.write_text(json.dumps({**(noted if sealed else old), **change}))
    with pytest.raises(ShelfError, match=r"data\.json: damaged; restore it, or write it again with: kd data small"):
        Shelf(load("small")).dataset  # noqa: B018 - raises
    data.prepare(load("small"))
    assert json.loads(path.read_text()) == noted


def test_digits_are_scikit_learn_s(root):
    found = data.prepare(load("small"))
    assert found.meta["counts"] == {"train": 120, "val": 100, "holdout": 0}
    assert np.bincount(found.labels("train")).tolist() == [12] * 10
    assert found.images("val").shape == (100, 16, 16, 3)


def test_the_fingerprint_of_decoded_images_stays(root):
    """It is in the keys of records. At 8 pixels the digits are as scikit-learn has them, so no resizing is in it."""
    content = {"name": "digits", "image_size": 8, "train_per_class": 8, "val_from_train_per_class": 5}
    write_study(root, {**SMALL, "data": {**content, "holdout_per_class": 3, "classes": 7}})
    wanted = "899a64c6b88ce362d62a82dffd6715638ab1828699b38e256ad7ae2c99428523"
    found = data.prepare(load("small"))
    assert found.fingerprint == wanted and found.folder.name == "digits-72d1052dfdbb"


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda s: s.name)
def test_every_source_has_its_loader(source):
    assert list(inspect.signature(getattr(loaders, source.loader)).parameters) == ["path", "progress"]
    assert source.licence and bool(source.cited) == bool(source.reference)


def test_only_images_that_may_be_shown_are(root):
    assert {s.name for s in SOURCES.values() if s.shown} == {"digits", "folder"}
    study = load("small")
    assert data.pictures(study) is None  # not decoded yet
    data.prepare(study)
    assert data.pictures(study).shape == (100, 16, 16, 3)


def test_a_source_is_refused_where_the_data_set_takes_none(root):
    with pytest.raises(data.DataError, match="a source is for tiny-imagenet; the data set here is 'digits'"):
        data.prepare(load("small"), root / "x.zip")
    data.prepare(load("small"))
    with pytest.raises(data.DataError, match="a source is for tiny-imagenet"):
        data.prepare(load("small"), root / "x.zip")


def image_folder(root):
    for split, classes in (("train", "ab"), ("val", "ab")):
        for c in classes:
            (root / "pictures" / split / c).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20 + i, 30), (50 * i,) * 3).save(root / "pictures" / split / c / f"{i}.png")
    write_study(root, {**SMALL, "data": {"name": "folder", "source": "../pictures", "image_size": 16}})


def test_a_folder_of_images(root):
    image_folder(root)
    found = data.prepare(load("small"))
    assert found.classes == ["a", "b"] and found.meta["counts"] == {"train": 6, "val": 6, "holdout": 0}
    Image.new("RGB", (20, 20), (9, 9, 9)).save(root / "pictures" / "train" / "a" / "new.png")
    assert data.prepare(load("small")).fingerprint != found.fingerprint


def test_a_folder_with_a_strange_class_in_val(root):
    image_folder(root)
    (root / "pictures" / "val" / "c").mkdir()
    Image.new("RGB", (20, 20)).save(root / "pictures" / "val" / "c" / "x.png")
    with pytest.raises(data.DataError, match="class folders c are not in train"):
        data.prepare(load("small"))


def test_class_folders_alone_are_split_and_that_is_said(root):
    """One in five of each class validates, none of them trains; the same each time."""
    for c, count in (("a", 10), ("b", 7)):
        folder = root / "pictures" / c
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((16, 16, 3), 20 * i + (c == "b"), np.uint8)).save(folder / f"{i}.png")
    write_study(root, {**SMALL, "data": {"name": "folder", "source": "../pictures", "image_size": 16}})
    said = []
    found = data.prepare(load("small"), say=said.append)
    assert found.classes == ["a", "b"] and found.meta["counts"] == {"train": 14, "val": 3, "holdout": 0}
    assert [np.bincount(found.labels(split)).tolist() for split in ("train", "val")] == [[8, 6], [2, 1]]
    shades = [found.images(split)[:, 0, 0, 0].tolist() for split in ("train", "val")]
    assert not set(shades[0]) & set(shades[1]) and len(set(sum(shades, []))) == 17
    assert len(said) == 1 and "one in 5 of each class's is set apart for validation" in said[0]


def test_folders_without_images_are_named_and_hidden_ones_left_out(root):
    image_folder(root)
    before = data.prepare(load("small")).fingerprint
    checkpoints = root / "pictures" / "train" / ".ipynb_checkpoints"
    checkpoints.mkdir()
    for place in (checkpoints, root / "pictures" / "train" / "a"):
        Image.new("RGB", (20, 20)).save(place / "._x.png" if place.name == "a" else place / "x.png")
    assert data.prepare(load("small")).fingerprint == before
    (root / "pictures" / "train" / "c").mkdir()
    (root / "pictures" / "train" / "c" / "notes.txt").write_text("no image")
    with pytest.raises(data.DataError, match="train/c has no images.*remove the folder"):
        data.prepare(load("small"))


def test_one_class_is_refused_and_so_is_one_without_validation_images(root):
    image_folder(root)
    shutil.rmtree(root / "pictures" / "val" / "b")
    with pytest.raises(data.DataError, match="class b has no validation image"):
        data.prepare(load("small"))
    shutil.rmtree(root / "pictures" / "train" / "b")
    with pytest.raises(data.DataError, match="one class, a; at least 2"):
        data.prepare(load("small"))


def encoded(image, format, **options):
    f = io.BytesIO()
    image.save(f, format, **options)
    return f.getvalue()


GREY8 = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_become_8(format):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = data.decoded(encoded(Image.fromarray(every), format))
    assert grey.shape == (256, 256, 3) and (grey == np.round(every / 257)[..., None]).all()
    assert (data.decoded(encoded(Image.fromarray(GREY8.astype(np.uint16) * 257), format)) == GREY8[..., None]).all()


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_pixels_of_no_known_range_are_refused_by_name(root, values):
    image_folder(root)
    (root / "pictures" / "train" / "a" / "9.tif").write_bytes(
        encoded(Image.fromarray(np.linspace(0, 1000, 64).reshape(8, 8).astype(values)), "TIFF")
    )
    with pytest.raises(data.DataError, match=r"train/a/9\.tif is not an image.*save it with 8 or 16 bits"):
        data.prepare(load("small"))


def test_signed_pixels_and_a_transparent_grey_of_16_bits_are_refused():
    """Which Pillow reads as unsigned, and as opaque."""
    signed = encoded(Image.fromarray(GREY8), "TIFF", tiffinfo={data.SAMPLE_FORMAT: 2})
    assert Image.open(io.BytesIO(signed)).tag_v2[data.SAMPLE_FORMAT] == (2,)
    with pytest.raises(ValueError, match="signed"):
        data.decoded(signed)
    clear = encoded(Image.fromarray(GREY8.astype(np.uint16)), "PNG", transparency=7)
    with pytest.raises(ValueError, match="transparent"):
        data.decoded(clear)


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(turn):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[0x0112] = turn
    ways = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"]
    ways += ["TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
    upright = image.transpose(Image.Transpose[ways[turn]]) if ways[turn] else image
    assert (data.decoded(encoded(image, "PNG", exif=exif)) == np.asarray(upright)[..., None]).all()


def test_what_is_transparent_shows_white_and_a_palette_is_looked_up():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = (200, 100, 0, 255)
    shown = data.decoded(encoded(Image.fromarray(pixels), "PNG"))
    assert (shown[:4] == (200, 100, 0)).all() and (shown[4:] == 255).all()
    palette = Image.fromarray(np.repeat([[0], [1]], 2, axis=1).astype(np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert data.decoded(encoded(palette, "PNG"))[:, 0].tolist() == [[10, 20, 30], [40, 50, 60]]
    seen_through = data.decoded(encoded(palette, "PNG", transparency=1))
    assert seen_through[:, 0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_the_fingerprint_of_images_of_8_bits_stays(root):
    """It is in the keys of records: grey and colour in PNG, whose pixels no decoder may change."""
    image_folder(root)
    for split, c, seed in (("train", "a", 0), ("train", "b", 1), ("val", "a", 2), ("val", "b", 3)):
        values = np.arange(16 * 16 * 3, dtype=np.uint32).reshape(16, 16, 3) * (seed + 7) % 256
        folder = root / "pictures" / split / c
        Image.fromarray(values.astype(np.uint8)).save(folder / "colour.png")
        Image.fromarray(values.astype(np.uint8)[..., 0]).save(folder / "grey.png")
        for i in range(3):
            (folder / f"{i}.png").unlink()
    wanted = "17a80b6dd61937c7d44da46115a2d7b3cf6bf71a5db539399a4a8579de9149d2"
    assert data.prepare(load("small")).fingerprint == wanted


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK"])
def test_pixels_of_8_bit_images_are_pillow_s(mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).convert(mode)
    content = encoded(noise, "TIFF" if mode == "1" else "JPEG")
    assert np.array_equal(data.decoded(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_cifar100_comes_through_torchvision(root, monkeypatch):
    import torchvision

    class Fake:
        classes = ["apple", "bee"]

        def __init__(self, folder, train, download):
            n = 20 if train else 10
            self.targets = [k % 2 for k in range(n)]
            self.data = np.full((n, 32, 32, 3), 7, np.uint8)

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Fake)
    write_study(root, {**SMALL, "data": {"name": "cifar100", "image_size": 32, "train_per_class": 4}})
    found = data.prepare(load("small"))
    assert found.classes == Fake.classes and found.meta["counts"] == {"train": 8, "val": 10, "holdout": 0}

    archive = paths.downloads() / "cifar-100-python.tar.gz"
    archive.parent.mkdir()
    with open(archive, "wb") as f:
        f.truncate(10**12)  # of which nothing is on disk
    with pytest.raises(data.DataError, match=r"cifar-100-python\.tar\.gz: not a file of at most 200,000,000 bytes"):
        loaders.cifar100(None, print)


def test_what_has_no_end_is_no_image():
    with pytest.raises(data.DataError, match="zero cannot be read .*not a file"):
        data.image(Path("/dev/zero"), 16)


def test_what_has_no_end_is_no_archive():
    with pytest.raises(data.DataError, match="/dev/zero: not a zip archive that can be read .*neither a file nor"):
        loaders.Reader(Path("/dev/zero")).names()


class Server(http.server.BaseHTTPRequestHandler):
    content = bytes(range(256)) * 5000
    asked: list = []
    cut = 0  # bytes after which the connection breaks off; 0: never

    def do_GET(self):
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.asked.append(start)
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut] if self.cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.asked, Server.cut = [], 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as s:
        threading.Thread(target=s.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{s.server_port}/tiny.zip"
        s.shutdown()


def fetch(url, path):
    md5 = hashlib.md5(Server.content).hexdigest()
    loaders.fetch(Download(url=url, bytes=len(Server.content), md5=md5), path)


def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    Server.cut = 700_000
    with pytest.raises(data.DataError, match="run the command again to go on"):
        fetch(server, tmp_path / "tiny.zip")
    assert not (tmp_path / "tiny.zip").exists()
    Server.cut = 0
    fetch(server, tmp_path / "tiny.zip")
    assert (tmp_path / "tiny.zip").read_bytes() == Server.content
    assert Server.asked[0] == 0 and 0 < Server.asked[1] <= 700_000


def test_a_download_with_a_wrong_md5_is_removed(server, tmp_path):
    with pytest.raises(data.DataError, match="MD5"):
        loaders.fetch(Download(url=server, bytes=len(Server.content), md5="0" * 32), tmp_path / "tiny.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_how_to_do_without(tmp_path):
    with pytest.raises(data.DataError, match="--source FILE"):
        loaders.fetch(Download(url="http://127.0.0.1:9/tiny.zip", bytes=10, md5="0"), tmp_path / "tiny.zip")


@pytest.mark.tinyimagenet
def test_the_real_tiny_imagenet(root):
    source = os.environ.get("KD_TINY_IMAGENET")
    if not source:
        pytest.skip("KD_TINY_IMAGENET does not name the zip or the folder")
    write_study(root, {**SMALL, "data": {"name": "tiny-imagenet", "image_size": 64, "classes": 3}})
    found = data.prepare(load("small"), source)
    assert found.meta["counts"] == {"train": 1500, "val": 150, "holdout": 0}
    assert found.classes[0] == "goldfish" and np.bincount(found.labels("val")).tolist() == [50] * 3


@pytest.mark.parametrize("count", [3, 13])
def test_all_files_that_cannot_be_decoded_are_named_at_once(tmp_path, count):
    """The first ten, and how many more."""
    names = tuple(f"{k:02}.png" for k in range(15))
    for k, name in enumerate(names):
        (tmp_path / name).write_bytes(b"broken" if k < count else encoded(Image.new("RGB", (8, 8)), "PNG"))
    array = tmp_path / "images.npy"
    np.save(array, np.zeros((15, 8, 8, 3), np.uint8))
    jobs = [(loaders.Reader(tmp_path), names[a:b], array, a) for a, b in ((0, 7), (7, 15))]
    with pytest.raises(data.DataError) as e:
        data._decode_files(jobs, lambda *_: None)
    says = str(e.value)
    assert says.startswith(f"{tmp_path}: {count} files are no images that can be decoded: 00.png (no")
    assert [name in says for name in names] == [k < min(count, 10) for k in range(15)] and "; replace them" in says
    assert ("; and 3 more" in says) == (count == 13)
