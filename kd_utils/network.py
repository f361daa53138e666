"""What is expected of the network: an answer, or an error soon."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 30  # seconds without a byte from the network


@contextmanager
def impatient() -> Iterator[None]:
    """A network that does not answer is an error after so many seconds, also where a library would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
