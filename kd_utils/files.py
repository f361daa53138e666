"""Files that are there whole or not at all."""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path


def _host() -> str:
    """Where this process's number is its own: several machines may share a root, and containers a machine's name."""
    name, told = re.sub(r"\W", "_", platform.node())[:40], ""
    with suppress(OSError):  # elsewhere than on Linux
        told = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return f"{name}_{hashlib.sha256(told.encode()).hexdigest()[:8]}" if told else name


HOST = _host()
OLD = 86_400  # seconds after which what another machine left unfinished is taken to be left for good


class DiskFull(OSError):
    """No space is left; names the file and what to do."""

    @classmethod
    def at(cls, path: Path) -> "DiskFull":
        """The error of this file, or of something in this folder."""
        return cls(errno.ENOSPC, f"no space left while writing {path}; free some and run the same command again")

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside path; rename it to path when the block ends well, remove it otherwise.

    Works for a file and for a folder. A durable file also survives a loss of power.
    Raises DiskFull where space runs out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{HOST}.{os.getpid()}-{threading.get_ident()}.tmp")
    old = tmp.with_name(tmp.name.replace(".tmp", "-old.tmp"))  # a folder is not replaced in one step
    try:
        remove(tmp)
        yield tmp
        if durable and tmp.is_file():
            with open(tmp, "rb") as f:
                os.fsync(f.fileno())
        if tmp.is_dir() and path.is_dir():
            os.replace(path, old)
        os.replace(tmp, path)
    except (OSError, RuntimeError) as e:
        if is_full(e, path.parent):
            raise DiskFull.at(path) from e
        raise
    finally:
        for left in (tmp, old):
            with suppress(OSError):  # where nothing could be written, nothing can be removed
                remove(left)


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error means that space ran out; torch.save says so by a RuntimeError of other words."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, RuntimeError) and folder.is_dir() and shutil.disk_usage(folder).free < 1_000_000


def write_json(path: Path, value: object, durable: bool = True) -> None:
    """Write JSON, whole or not at all."""
    with whole(path, durable) as tmp:
        tmp.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


MOST_TEXT = 100_000_000  # bytes of a text file, unless its reader says otherwise


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """A text file's content, UTF-8, each line's end a newline alone.

    Raises OSError for what is no file, as a pipe or a device, or has more bytes.
    """
    with open(path, "rb", opener=_without_waiting) as f:
        about = os.fstat(f.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        if about.st_size > most:
            raise OSError(errno.EFBIG, f"{about.st_size:,} bytes, and at most {most:,} are read", str(path))
        return f.read().decode("utf-8").replace("\r\n", "\n")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for a pipe's writer


def read_json(path: Path, **kinds: type | tuple[type, ...]) -> dict | None:
    """The object in a JSON file; None if it is not there, or is damaged. Raises OSError where it cannot be read.

    kinds: the keys that it must have, and the types of their values.
    """
    try:
        value = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    whole = isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())
    return value if whole else None


def sweep(folder: Path) -> None:
    """Remove what `whole` left below folder where its process was killed; on another machine, only what is old."""
    for path in folder.rglob(".*.tmp"):
        host, _, writer = path.name.removesuffix(".tmp").rpartition(".")
        pid = writer.split("-")[0]
        if host.endswith(f".{HOST}") and pid.isdigit():
            left = not alive(int(pid))
        else:
            left = _changed(path) < time.time() - OLD
        if left:
            remove(path)


def _changed(path: Path) -> float:
    """When a file, or anything in a folder, was last changed; now, if it is gone meanwhile."""
    try:
        return max(p.stat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    with suppress(OSError):  # Linux: the dead keep their number until they are waited for, in some containers for ever
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
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
    """The SHA-256 of a file's content, hexadecimal; computed once a process for a file that does not change.

    Raises OSError for what is no file, as a pipe or a device.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))
    return _sha256(path, about.st_size, about.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
