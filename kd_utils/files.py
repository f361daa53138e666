"""Files that are there whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


class DiskFull(OSError):
    """No space is left; names the file and what to do."""


@contextmanager
def whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside path; rename it to path when the block ends well, remove it otherwise.

    Works for a file and for a folder (one that is not there yet). A durable file also survives a loss of power.
    Raises DiskFull where space runs out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    remove(tmp)
    try:
        yield tmp
        if durable and tmp.is_file():
            with open(tmp, "rb") as f:
                os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                e.errno, f"no space left while writing {path}; free some and run the same command again"
            ) from e
        raise
    finally:
        remove(tmp)


def write_json(path: Path, value: object, durable: bool = True) -> None:
    """Write JSON, whole or not at all."""
    with whole(path, durable) as tmp:
        tmp.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove what `whole` left below folder where its process was killed."""
    for path in folder.rglob(".*.tmp"):
        pid = path.name.removesuffix(".tmp").rsplit(".", 1)[-1].split("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            remove(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; none has a name that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, hexadecimal; computed once a process for a file that does not change."""
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
