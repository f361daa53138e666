"""How often the tests, and `make soak`, try what must not go wrong: the rows of a table in trust.md."""

import ast
import json
import math
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOAK = ROOT / "docs" / "soak.json"  # of the latest `python tests/soak.py --keep`

UNIT, WHOLE = "tests/unit/", "tests/integration/"
# what happens, what is promised, and the tests that try it: a pattern of their names for each file
ROWS: list[tuple[str, str, dict[str, str]]] = [
    (
        "**Signals**: SIGKILL, SIGTERM, Ctrl-C, to the command or to all its processes; a killed kernel, fork server "
        "or Ray node",
        "The same command goes on, and metrics, weights, predictions and soft targets are to the bit those of a study "
        "left alone. No record changes, and no process outlives its command. Ctrl-C is one line and exit code 130.",
        {
            WHOLE + "test_robustness.py": "killed|die_with",
            WHOLE + "test_cluster.py": "lost_node",
            WHOLE + "test_pool.py": ".",
            UNIT + "test_console.py": "interrupt",
            UNIT + "test_machine.py": "deaf",
            UNIT + "test_store.py": "interrupted",
        },
    ),
    (
        "**Disks**: full, read-only or without end; files that are cut, changed, exchanged or gone; no home, no "
        "working directory",
        "One line names the file and what to do. What is half-written or changed is not trusted: it is made again, or "
        "refused.",
        {
            UNIT + "test_files.py": ".",
            UNIT + "test_data.py": "full_disk|space|damaged|no_end|is_noted",
            UNIT + "test_store.py": "damaged|truncated|missing|finite|says_something_else",
            UNIT + "test_shelf.py": "named_with_its_key|refused|unpack",
            UNIT + "test_pipeline.py": "damaged|cannot_be_written|gone|full_disk",
            UNIT + "test_console.py": "refuses|gone|damaged|cannot_be_read|a_pipe",
            UNIT + "test_machine.py": "home|temporary",
            UNIT + "test_models.py": "damaged",
            WHOLE + "test_records.py": "trusted|missing",
            WHOLE + "test_robustness.py": "damaged|edited|schema",
        },
    ),
    (
        "**Archives and images**: bombs, entries that leave the archive, encrypted or lying; odd pixels; packed "
        "studies; downloads that break off",
        "Sizes are judged before anything is read, and nothing is written outside. Nothing is unpickled or run. What "
        "cannot be converted rightly is refused by name.",
        {
            UNIT + "test_data.py": "archive|size|pixels|entries|lists|utf_8|zip|corrupt|missing_class|300|16_bits|"
            "folders_without|one_class|download|network|cifar|strange_class",
            UNIT + "test_models.py": "runs_code|something_else|without_a_hub",
            UNIT + "test_pack.py": "cannot_be_read|does_not_write|another_format|cannot_be_made",
            WHOLE + "test_pack.py": "no_packed_study",
        },
    ),
    (
        "**Studies**: wrong or huge numbers, unknown keys, YAML that is none, nested deep, aliases without end, code "
        "in tags",
        "One line names the file, the key and what is allowed, before anything runs.",
        {
            UNIT + "test_study.py": "errors_name|limits|twice|runs_code|no_study|300|are_checked|named_as_a_folder",
            UNIT + "test_key.py": "cannot_be_asked",
            UNIT + "test_models.py": "no_model_of_one",
            WHOLE + "test_own_teacher.py": "refused",
        },
    ),
    (
        "**Names**: markup of HTML, Markdown, typst, TeX and terminals; control and right-to-left signs; paths",
        "They are shown as typed, in the report too. None is a path, and none is markup.",
        {
            WHOLE + "test_names.py": ".",
            UNIT + "test_study.py": "named_as_a_folder|300",
            UNIT + "test_new.py": ".",
            UNIT + "test_console.py": "as_they_are_typed|shown_as_it_is",
        },
    ),
    (
        "**Two at once**: two commands on a study, two studies of one name, two machines on a root, edits and removals "
        "in the middle",
        "One command works, and the other says who does. Nothing that a living process writes is removed. A study is "
        "read once a command: what was edited counts from the next one on.",
        {
            WHOLE + "test_robustness.py": "two_commands|changed_study",
            UNIT + "test_store.py": "two_at_once",
            UNIT + "test_files.py": "killed_process|another_machine|temporary_names",
            UNIT + "test_key.py": "belong",
            UNIT + "test_pipeline.py": "as_it_was_read|edited_meanwhile|removed_while|no_record",
        },
    ),
]


def tried(row: dict[str, str]) -> int:
    """How many cases the tests of a row have: those of a parameter each, and each example that hypothesis draws.

    Raises ValueError for a pattern that no test has.
    """
    total = 0
    for file, pattern in row.items():
        counts = [n for name, n in _cases(ROOT / file).items() if re.search(pattern, name.removeprefix("test_"))]
        if not counts:
            raise ValueError(f"docs/tries.py: no test of {file} is called {pattern!r}")
        total += sum(counts)
    return total


def _cases(path: Path) -> Counter[str]:
    """The number of cases of each test of a file, read from its text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return Counter(
        {
            node.name: math.prod(_times(d, values) for d in node.decorator_list if isinstance(d, ast.Call))
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
    )


def _times(decorator: ast.Call, values: dict[str, ast.expr]) -> int:
    """How many cases a decorator makes of a test; 1 where that is not written out."""
    name = ast.unparse(decorator.func)
    if name == "pytest.mark.parametrize":
        return _length(decorator.args[1], values)
    if name == "settings":
        return next((int(ast.unparse(k.value)) for k in decorator.keywords if k.arg == "max_examples"), 1)
    return 1


def _length(node: ast.expr, values: dict[str, ast.expr]) -> int:
    if isinstance(node, ast.Name) and node.id in values:
        return _length(values[node.id], values)
    if isinstance(node, ast.Dict):
        return len(node.keys)
    if isinstance(node, ast.List | ast.Tuple):
        return sum(_length(x.value, values) if isinstance(x, ast.Starred) else 1 for x in node.elts)
    return 1


def soaked() -> dict:
    """What the latest soak that was kept has done: its date, machine, kills by signal and stage."""
    return json.loads(SOAK.read_text(encoding="utf-8"))
