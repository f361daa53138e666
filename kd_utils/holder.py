"""Who works on a study: the command that holds it, as it is noted beside the results. Loads no torch."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from . import files, paths


@dataclass(frozen=True)
class Holder:
    """A command that holds a study: its process, on which machine, and the time from which on, with its zone."""

    pid: int
    host: str
    since: str

    @classmethod
    def here(cls) -> "Holder":
        """This process, from now on."""
        return cls(os.getpid(), files.HOST, datetime.now().astimezone().isoformat(" ", "seconds"))

    @classmethod
    def of(cls, folder: Path) -> "Holder | None":
        """Who is noted in a study's results; None where nobody is, or what is noted cannot be read."""
        try:
            noted = files.read_json(folder / paths.HOLDER, pid=int, host=str, since=str)
        except OSError:
            return None
        return cls(noted["pid"], noted["host"], noted["since"]) if noted else None

    def write(self, folder: Path) -> None:
        """Note it in a study's results, whatever is there, which may be a pipe. Raises OSError."""
        with files.whole(folder / paths.HOLDER, durable=False) as tmp:
            tmp.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def gone(self) -> bool:
        """Whether its process has ended; of another machine's it cannot be told."""
        return self.host == files.HOST and not files.alive(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"
