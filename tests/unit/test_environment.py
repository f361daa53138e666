import ast
import re
import subprocess
import sys
import tomllib

import yaml

CONDA_NAMES = {"torch": "pytorch"}


def test_environment_yml_says_the_same_as_pyproject(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    wanted = {
        CONDA_NAMES.get(m[1], m[1]) + m[2] for m in (re.match(r"([\w-]+)(.*)", d) for d in project["dependencies"])
    }
    listed = yaml.safe_load((checkout / "environment.yml").read_text())["dependencies"]
    pip = next(d["pip"] for d in listed if isinstance(d, dict))
    conda = {d for d in listed if isinstance(d, str)} - {"pip"}
    assert "-e ." in pip
    assert wanted | {"python" + project["requires-python"]} == conda | set(pip) - {"-e ."}


def test_status_loads_nothing_that_computes():
    code = "import sys, kd_utils.cli, kd_utils.console; print({'numpy', 'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_what_says_that_it_loads_no_torch_loads_none(checkout):
    """PyTorch takes seconds, and what the terminal and the report start with does without.

    Modules are asked one after the other in one process: the first one that does is named.
    """
    paths = sorted((checkout / "kd_utils").rglob("*.py"))
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in paths}
    saying = [path for path, said in docstrings.items() if re.search(r"(?i)\bno torch\b", said)]
    names = [".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__") for path in saying]
    assert {"kd_utils", "kd_utils.cli", "kd_utils.running.pipeline", "kd_utils._preload_report"} < set(names)
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(name)
"""
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_importing_the_package_loads_nothing():
    code = "import sys; before = set(sys.modules); import kd_utils; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert [m for m in loaded if not m.startswith("__editable__")] == ["kd_utils"]


def test_every_public_function_has_a_docstring(checkout):
    import ast

    bare = []
    for path in sorted((checkout / "kd_utils").rglob("*.py")):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                bare.append(f"{path.name}: {node.name}")
    assert not bare


# who may import whom: a module of a folder imports from its own folder and from these; '' is the ground floor
MAY_IMPORT = {"": {""}, "learning": {"", "learning"}, "running": {"", "learning", "running"}}
MAY_IMPORT["reporting"] = {"", "learning", "reporting"}
# of the ground floor's files, those that may import everything
ABOVE_ALL = {"__init__", "__main__", "cli", "console", "_preload", "_preload_report"}
MAKES_THE_REPORT = ("running.pipeline", "reporting")  # the pipeline's last stage


def test_imports_run_one_way(checkout):
    """ground floor <- learning <- running; ground floor, learning <- reporting; console and cli above all."""
    import ast

    wrong = []
    for path in sorted((checkout / "kd_utils").rglob("*.py")):
        module = path.relative_to(checkout / "kd_utils").with_suffix("").as_posix().replace("/", ".")
        folder = module.rpartition(".")[0]
        if module in ABOVE_ALL:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                inside = [part for part in folder.split(".") if part]
                base = inside[: len(inside) - node.level + 1] + (node.module.split(".") if node.module else [])
                for name in node.names:
                    target = ".".join([*base, name.name] if not node.module else base)
                    first = target.split(".")[0]
                    to = first if (checkout / "kd_utils" / first).is_dir() else ""
                    above = not to and first in ABOVE_ALL
                    if (to not in MAY_IMPORT[folder] or above) and (module, target) != MAKES_THE_REPORT:
                        wrong.append(f"{module} imports {target}")
    assert not wrong
