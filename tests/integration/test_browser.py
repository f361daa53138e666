"""JupyterLab as its users see it: a real server, a real kernel, a real browser."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers import CHROMIUM


@pytest.fixture
def lab(page, copied, tmp_path_factory, checkout):
    """The address of a JupyterLab whose folder holds the notebooks, set to the small study."""
    tmp_path = tmp_path_factory.mktemp("lab")
    for name in ("explore", "distill"):
        text = (checkout / "notebooks" / f"{name}.ipynb").read_text()
        text = text.replace('study: str = \\"digits\\"', 'study: str = \\"small\\"')
        (tmp_path / f"{name}.ipynb").write_text(
            text.replace('student: str = \\"resnet18\\"', 'student: str = \\"efficient\\"')
        )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [str(Path(sys.executable).parent / "jupyter"), "lab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--ServerApp.root_dir={tmp_path}", "--IdentityProvider.token=secret"]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / ".config"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path),
    }
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=secret", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield lambda name: f"http://127.0.0.1:{port}/lab/workspaces/w{port}/tree/{name}.ipynb?token=secret&reset"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture
def page():
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(120_000)
        yield page
        browser.close()


def run_all(page, address):
    page.goto(address)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.locator("text=| Idle").first.wait_for()
    for _ in range(20):  # the menu is there before the kernel is, and then does nothing
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)
        if any(mark in text for text in page.locator(".jp-InputPrompt").all_inner_texts() for mark in ("[*]", "[1]")):
            return
    raise AssertionError("no cell was run")


def picture(page, number: int) -> bytes:
    return page.locator("img.widget-image").nth(number).screenshot()


def changed(page, number: int, before: bytes) -> bytes:
    for _ in range(120):
        now = picture(page, number)
        if now != before:
            return now
        page.wait_for_timeout(250)
    raise AssertionError(f"picture {number} stayed as it was")


def test_explore_redraws_when_its_controls_move(page, lab):
    run_all(page, lab("explore"))
    page.locator("img.widget-image").nth(2).wait_for()
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count()
    temperature = page.locator(".noUi-handle").nth(1)
    before, said = picture(page, 0), page.locator("text=entropy of the teacher at T = 4:").first.inner_text()
    temperature.focus()
    temperature.press("ArrowRight")
    page.locator("text=entropy of the teacher at T = 6:").first.wait_for()
    changed(page, 0, before)
    softer = page.locator("text=entropy of the teacher at T = 6:").first.inner_text()
    assert float(softer.split(":")[1].split()[0]) > float(said.split(":")[1].split()[0])
    cells = page.locator("button.jupyter-button")
    cells.first.scroll_into_view_if_needed()
    cells.first.click()
    page.locator("b", has_text="-baseline-s0").first.wait_for()
    before = picture(page, 1)
    cells.last.click()
    changed(page, 1, before)


def test_run_all_of_distill_trains_a_cell_of_its_own_and_shows_how_it_went(page, lab):
    run_all(page, lab("distill"))
    page.locator("text=/^3 epochs in .*: val top-1 .* %, loss/").first.wait_for()
    page.locator(".jp-OutputArea-output svg, .jp-OutputArea-output img").nth(2).wait_for()
    assert not page.locator("text=Traceback").count()
