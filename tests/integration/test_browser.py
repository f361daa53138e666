"""JupyterLab as its users see it: a real server, a real kernel, a real browser."""

import re

import pytest

pytestmark = pytest.mark.xdist_group("lab")


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1600})
    page.set_default_timeout(120_000)
    return page


@pytest.fixture
def shown(lab, checkout):
    """The address of a notebook in JupyterLab, with other values in its cell of parameters."""

    def put(name: str, file: str = "", **values) -> str:
        text = (checkout / "notebooks" / f"{name}.ipynb").read_text()
        for parameter, value in {"study": "small", **values}.items():
            value = f'\\"{value}\\"' if isinstance(value, str) else value
            text, found = re.subn(rf"({parameter}: \w+) = \S+", lambda m, v=value: f"{m[1]} = {v}", text)
            assert found == 1
        (lab.folder / f"{file or name}.ipynb").write_text(text)
        return f"{lab.address}/lab/workspaces/{name}/tree/{file or name}.ipynb?token={lab.token}&reset"

    return put


def watch(page) -> None:
    """Take down all HTML that comes into the page from now on."""
    page.evaluate(
        """() => {
            window.seen = [];
            const note = nodes => nodes.forEach(node => window.seen.push(node.outerHTML ?? node.textContent));
            new MutationObserver(changes => changes.forEach(change => note([...change.addedNodes])))
                .observe(document.querySelector(".jp-Notebook"), {childList: true, subtree: true});
        }"""
    )


def watched(page) -> str:
    return "\n".join(page.evaluate("window.seen"))


def run_all(page, address, before=lambda page: None):
    page.goto(address)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.locator("text=| Idle").first.wait_for()
    before(page)
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


def test_explore_redraws_when_its_controls_move(page, shown):
    run_all(page, shown("explore"))
    page.locator("img.widget-image").nth(2).wait_for()
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count()
    chosen = page.locator(".widget-dropdown select").evaluate_all("all => all.map(one => one.selectedOptions[0]?.text)")
    assert chosen[1] == "val" and all(chosen), "each control shows what it is set to"
    temperature = page.locator(".noUi-handle").nth(1)
    before, said = picture(page, 0), page.locator("text=entropy of the teacher at T = 4:").first.inner_text()
    watch(page)
    temperature.focus()
    temperature.press("ArrowRight")
    page.locator("text=entropy of the teacher at T = 6:").first.wait_for()
    changed(page, 0, before)
    assert "computing …" in watched(page)
    softer = page.locator("text=entropy of the teacher at T = 6:").first.inner_text()
    assert float(softer.split(":")[1].split()[0]) > float(said.split(":")[1].split()[0])
    cells = page.locator("button.jupyter-button")
    cells.first.scroll_into_view_if_needed()
    cells.first.click()
    page.locator("b", has_text=", the baseline").first.wait_for()
    before = picture(page, 1)
    cells.last.click()
    changed(page, 1, before)


def test_distill_shows_a_training_as_it_goes_on(page, shown):
    """A cell and a number of epochs that no other run has: a bar, a curve that grows, and the end without a gain."""
    address = shown("distill", student="efficient", epochs=8)
    run_all(page, address, before=watch)
    page.locator("text=/^8 epochs in .*: val top-1 .* %, loss/").first.wait_for()
    page.locator("text=There is no baseline to compare it with").first.wait_for()
    said = watched(page)
    assert not page.locator("text=Traceback").count() and not page.locator(".jp-OutputArea progress").count()
    epochs = [int(number) for number in re.findall(r"epoch (\d) of 8", said)]
    assert epochs == sorted(epochs) and len(set(epochs)) > 1 and "<polyline" in said and "<progress" in said
    assert re.search(r"epoch \d of 8, .*\d s left", said)


def test_distill_ends_in_a_table_of_a_run_that_was_done_before(page, shown):
    run_all(page, shown("distill", "done", student="efficient", T=20.0, alpha=0.5))
    page.locator("text=This run was done before, on").first.wait_for()
    rows = page.locator(".jp-Cell:last-child .jp-OutputArea table tr")
    rows.nth(3).wait_for()
    assert [row.split()[0] for row in rows.all_inner_texts()[1:]] == ["teacher", "baseline", "student"]
    assert re.search(r"[+−]\d+\.\d\d \[", rows.nth(3).inner_text())
    page.locator("text=/With seed 0 the student has .* % top-1 on .* validation images/").first.wait_for()
    assert not page.locator("text=Traceback").count()
