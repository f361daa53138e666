"""A packed study that is not what it should be: nothing of it stays. Its files are those of a committed study."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from kd_utils import paths
from kd_utils.running import pack
from kd_utils.running.pack import PackError

STUDY = "tiny-imagenet-20"
YAML, DATA = f"studies/{STUDY}.yaml", f"results/{STUDY}/data.json"


@pytest.fixture
def entries():
    """The study file, what is noted of its data and one record."""
    run = next((paths.CHECKOUT / "results" / STUDY / "students").glob("resnet18-baseline-s0-*"))
    inside = [
        YAML,
        DATA,
        *(str((run / name).relative_to(paths.CHECKOUT)) for name in ("record.json", "predictions.npz")),
    ]
    return {name: (paths.CHECKOUT / name).read_bytes() for name in inside}


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, **manifest) -> Path:
    listed = {k: {"bytes": len(v), "sha256": hashlib.sha256(v).hexdigest()} for k, v in entries.items()}
    about = {"format": 1, "study": STUDY, "files": listed, **manifest}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {"manifest.json": json.dumps(about), "README.md": "card", **entries}.items():
            archive.writestr(name, content)
    return path


def test_an_empty_folder_stays_and_is_filled(entries, tmp_path):
    """A shell may be in it."""
    path = zipped(tmp_path / "a.zip", entries)
    (tmp_path / "there").mkdir()
    before = (tmp_path / "there").stat().st_ino
    for folder in ("there", "new"):
        study, done = pack.unpack(path, tmp_path / folder)
        assert study.file == str(tmp_path / folder / YAML) and done.count == len(entries)
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == ["README.md", "results", "studies"]
    assert (tmp_path / "there").stat().st_ino == before


def without(name):
    return lambda entries: entries.pop(name)


def spoilt(end, content):
    return lambda entries: entries.update({next(k for k in entries if k.endswith(end)): content})


def relabelled(entries):
    about = json.loads(entries[DATA])
    entries[DATA] = json.dumps({**about, "classes": about["classes"][::-1]}).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without(YAML), rf"no study file {YAML}"),
        (spoilt(".yaml", b"data: ["), rf"{YAML}: not YAML"),
        (spoilt(".yaml", b"\xff\xfe"), rf"{YAML}: not UTF-8"),
        (without(DATA), rf"{DATA} is not there, or is damaged"),
        (spoilt("data.json", b"{}"), rf"{DATA} is not there, or is damaged"),
        (relabelled, rf"{DATA} is not there, or is damaged"),
        (spoilt("record.json", b"{}"), r"record\.json: written by another version"),
        (spoilt("record.json", b"\xff"), r"record\.json: not a record"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_what_cannot_be_read_is_not_left_there(entries, tmp_path, change, says, exists):
    change(entries)
    path = zipped(tmp_path / "a.zip", entries)
    if exists:
        (tmp_path / "there").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PackError, match=f"^{path}: .*{says}.*; pack it again$"):
        pack.unpack(path, tmp_path / "there")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_what_pack_does_not_write_is_not_read(entries, tmp_path, method):
    path = zipped(tmp_path / "a.zip", entries, method)
    with pytest.raises(PackError, match="is neither stored nor deflated"):
        pack.unpack(path, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_folder_that_cannot_be_made_is_not_the_pack_s_fault(entries, tmp_path):
    path = zipped(tmp_path / "a.zip", entries)
    for folder in (tmp_path / ("x" * 240), tmp_path / ("x" * 300), path / "below"):
        with pytest.raises(PackError, match=f"^{folder}: cannot be made .*; name another folder$"):
            pack.unpack(path, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("format", [2, None, "\x1b[31m", ["x" * 100_000]])
def test_another_format_is_shown_in_a_line(entries, tmp_path, format):
    with pytest.raises(PackError, match="written by another version") as e:
        pack.unpack(zipped(tmp_path / "a.zip", entries, format=format), tmp_path / "there")
    assert str(e.value).isprintable() and len(str(e.value)) < 400
