"""Notebooks run in kernels that are forked from this process, with all that it has imported.

A plain kernel spends 4 to 6 seconds on imports and shutdown; a forked one half a second. A kernel is spoken to through
sockets in a folder that only this user can enter. There are no ports, which two kernels could draw at once.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import get_temp_dir
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from .pool import FORKS, die_with

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo
    from nbformat import NotebookNode
    from traitlets.config import Config


def run_notebook(notebook: str, output: str, parameters: dict) -> "NotebookNode":
    """Execute a notebook by papermill, and return it; the output is written as cells finish.

    Raises what papermill raises.
    """
    if FORKS:
        ForkProvisioner.ready = _ForkedKernel()
        os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "kd-fork"
    from nbclient.exceptions import DeadKernelError
    from papermill.execute import execute_notebook

    with private_connection() as config:
        try:
            return execute_notebook(notebook, output, parameters, progress_bar=False, start_timeout=300, config=config)
        except RuntimeError as e:
            # as jupyter_client says that it died, or did not respond
            if type(e) is RuntimeError and str(e).startswith("Kernel d"):
                raise DeadKernelError(str(e)) from e
            raise


@contextmanager
def private_connection() -> "Iterator[Config]":
    """The configuration of a kernel that is spoken to in a folder of this user alone, which goes with the block."""
    from traitlets.config import Config

    # the folder is removed by the command that was typed, even where this process is killed
    with TemporaryDirectory(prefix="kernel-", dir=get_temp_dir()) as private:
        connection = {"transport": "ipc", "connection_file": os.path.join(private, "connection.json")}
        yield Config(KernelManager=connection)


class _ForkedKernel:
    """An ipykernel forked from this process, before this process starts a thread; it waits for its connection file.

    Has what jupyter_client uses of subprocess.Popen.
    """

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.returncode: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._write)
                self._serve(read, parent)
                code = 0
            finally:
                os._exit(code)  # nothing to clean up that the operating system does not
        os.close(read)

    @staticmethod
    def _serve(read: int, parent: int) -> None:
        die_with(parent)
        os.setsid()  # signals for the kernel's process group are the kernel's alone
        with os.fdopen(read, encoding="utf-8") as pipe:
            request = json.loads(pipe.read() or "null")
        if request is None:
            return
        os.environ.update(request["env"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from ipykernel.kernelapp import IPKernelApp

        sys.__stdout__ = open(os.devnull, "w")  # noqa: SIM115 - where it says how to connect to it
        asyncio.set_event_loop(asyncio.new_event_loop())
        IPKernelApp.launch_instance(["-f", request["connection_file"], "--HistoryManager.enabled=False"])

    def start(self, connection_file: str, env: dict[str, str]) -> None:
        with os.fdopen(self._write, "w", encoding="utf-8") as pipe:
            json.dump({"connection_file": connection_file, "env": env}, pipe)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ForkProvisioner(LocalProvisioner):
    """Starts the kernel that `run_notebook` has forked."""

    ready: _ForkedKernel | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> "KernelConnectionInfo":
        kernel, ForkProvisioner.ready = ForkProvisioner.ready, None
        if kernel is None:
            return await super().launch_kernel(cmd, **kwargs)
        kernel.start(cmd[cmd.index("-f") + 1], kwargs.get("env", {}))
        self.process = kernel
        self.pid = self.pgid = kernel.pid
        return self.connection_info
