import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner, Result
from helpers import kd
from papermill import cli
from tasks import run_notebook_in

from kd_utils import paths
from kd_utils.running import pool

BIN = Path(sys.executable).parent
NOTEBOOK = str(paths.notebook("distill"))
NOTEBOOKS = sorted((paths.CHECKOUT / "notebooks").glob("*.ipynb"))


def here(*words) -> Result:
    """papermill's command within this process."""
    return CliRunner().invoke(cli.papermill, [str(w) for w in words])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stripped_and_define_nothing(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert [c.metadata.get("tags") for c in nb.cells].count(["parameters"]) == 1
    for cell in code:
        assert len(cell.source.splitlines()) <= 15 and not re.search(r"^\s*[!%]", cell.source, re.M)
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.While), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_help_lists_every_parameter_with_type_and_help(path):
    nb = nbformat.read(path, as_version=4)
    source = next(c.source for c in nb.cells if c.metadata.get("tags") == ["parameters"])
    shown = here("--help-notebook", path).output
    for line in source.splitlines():
        name, kind, help = re.match(r"(\w+): (\w+) = .*?  # (.+)", line).groups()
        assert re.search(rf"^  {name}: {kind} \(default", shown, re.M) and help in shown


def test_the_line_of_the_readme_works_from_anywhere(copied, tmp_path_factory):
    """In notebooks/ as typed there, and from another folder: the same run, found done the second time."""
    words = ("-p", "study", "small", "-p", "student", "efficient", "-p", "T", "20", "-p", "alpha", "0.1")
    elsewhere, students = tmp_path_factory.mktemp("elsewhere"), copied / "results" / "small" / "students"
    before = set(students.iterdir())
    line = [BIN / "papermill", "distill.ipynb", elsewhere / "a.ipynb", *words]
    first = subprocess.run(line, cwd=paths.CHECKOUT / "notebooks", capture_output=True, text=True)
    assert first.returncode == 0 and "without encryption" not in first.stderr, first.stderr  # no port is opened
    assert re.search(r"epoch 3 of 3, val top-1 .* left|3 epochs in .* val top-1", first.stderr), "the bar tells it"
    (made,) = set(students.iterdir()) - before
    assert made.name.rsplit("-", 1)[0] == "efficient-T20-a0.1-s0"
    record = json.loads((made / "record.json").read_text())
    assert (record["T"], record["alpha"]) == (20, 0.1)
    given = {"study": "small", "student": "efficient", "T": 20, "alpha": 0.1}
    arguments = {"folder": str(elsewhere), "notebook": NOTEBOOK, "output": "b.ipynb", "parameters": given}
    task = pool.Task("again", run_notebook_in, arguments, elsewhere / "run")
    assert pool.run_tasks([task], [{}]) == [] and "was done before" in (elsewhere / "b.ipynb").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-p", "alhpa", "0.1"), "unknown parameter 'alhpa'; did you mean 'alpha'?"),
        (("-p", "T", "hot"), "parameter 'T' is float, not 'hot'"),
        (("-p", "seed", "0.5"), "parameter 'seed' is int, not 0.5"),
        (("-p", "T", "-3"), "T: input should be greater than or equal to 0.001 (got -3)"),
        (("-p", "device", "gpu"), "device is auto, cpu, cuda, mps or one GPU, as cuda:0, not 'gpu'"),
        (
            ("-p", "student", "resnet81"),
            "no student of study 'digits' is called 'resnet81'; there are: resnet18, shufflenet_v2_x1_0",
        ),
    ],
)
def test_a_wrong_parameter_stops_before_anything_runs(words, says, tmp_path):
    done = here(paths.notebook("distill"), tmp_path / "out.ipynb", *words)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), "no traceback"
    assert done.output.splitlines()[-1] == f"Error: {says}"


def test_without_a_teacher_the_command_is_named(root):
    kd(root, "data", "small")
    given = {"study": "small", "student": "efficient"}
    arguments = {"folder": str(root), "notebook": NOTEBOOK, "output": "out.ipynb", "parameters": given}
    task = pool.Task("run", run_notebook_in, arguments, root / "run")
    (failure,) = pool.run_tasks([task], [{}])
    assert "run: kd teacher small" in failure.error


def test_other_notebooks_run_as_ever(tmp_path, monkeypatch):
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell("print(y)"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(nb, tmp_path / "other.ipynb")
    monkeypatch.chdir(tmp_path)
    assert here("other.ipynb", "out.ipynb", "-p", "y", "5").exit_code == 0
