import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from kd_utils.running import pool

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session", autouse=True)
def warm():
    """The process that runs are forked from, for all commands of this one: its imports go on beside the first tests."""
    pool.warm_up()


@pytest.fixture(scope="session")
def lab(finished, tmp_path_factory):
    """A JupyterLab for all tests: the folder that it shows, its address and token, and its root.

    The root is a copy of the finished study, to be written to. Tests that use it are of the group "lab".
    """
    folder, root = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("lab-root")
    shutil.copytree(finished, root, dirs_exist_ok=True)
    settings = folder / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # all cells are in the page, wherever it is scrolled to
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [str(Path(sys.executable).parent / "jupyter"), "lab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=secret"]
    places = {"JUPYTER_CONFIG_DIR": f"{folder}/.config", "JUPYTERLAB_SETTINGS_DIR": str(folder)}
    with (folder / "server.log").open("w") as log:
        environment = {**os.environ, **places, "KD_ROOT": str(root)}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api?token=secret", timeout=2)
                    break
                except OSError:
                    assert time.monotonic() < deadline, "JupyterLab does not start"
                    time.sleep(0.25)
            yield SimpleNamespace(folder=folder, root=root, address=address, token="secret")
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def browser():
    """Chromium, as playwright drives it; its event loop is in the way of other tests, so that each test has its own."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
