import contextlib
import json

import numpy as np
import pytest
from helpers import SMALL, write_study

import kd_utils
from kd_utils import schema
from kd_utils.cells import Cell
from kd_utils.keys import digest, key, student_settings, teacher_settings
from kd_utils.records import read
from kd_utils.study import as_read, load
from kd_utils.validation import StudyError


def test_the_cells_are_distinct_and_alpha_1_is_one_run(root):
    cells = load("small").cells()
    assert len(cells) == len(set(cells)) == 2 * (1 + 2 * 2)
    assert [c for c in cells if c.alpha == 1] == [Cell("test_byobnet", None, 1.0, 0), Cell("efficient", None, 1.0, 0)]


def test_the_published_grid_has_25_cells_a_student(root):
    content = {**SMALL, "grid": {"T": [1, 2, 4, 10, 20, 100], "alpha": [0, 0.1, 0.5, 0.9, 1]}}
    write_study(root, content)
    assert len(load("small").cells()) == 2 * 25


def test_the_baseline_is_there_without_alpha_1(root):
    write_study(root, {**SMALL, "grid": {"T": [4], "alpha": [0.5]}})
    assert Cell("test_byobnet", None, 1.0, 0) in load("small").cells()


def test_further_methods_are_cells_of_their_own_and_change_no_other(root):
    plain = load("small")
    rows = [{"method": "dkd", "T": [2, 4]}, {"method": "label_smoothing", "alpha": [0.9]}, {"method": "self"}]
    write_study(root, {**SMALL, "methods": rows})
    more = load("small")
    assert more.cells()[: len(plain.cells())] == plain.cells()
    added = [c for c in more.cells() if c.method != "kd" and c.student == "efficient"]
    assert [(c.method, c.T, c.alpha) for c in added] == [
        ("dkd", 2, 0.5),
        ("dkd", 4, 0.5),
        ("label_smoothing", 1, 0.9),
        ("self", 4, 0.5),
    ]
    assert [more.taught_by(c) for c in added] == ["teacher", "teacher", "", "self"]

    def key(study, cell):
        return digest(student_settings(study, cell, "data", "teacher"))

    for cell in plain.cells():
        assert key(plain, cell) == key(more, cell)
    assert len({key(more, c) for c in more.cells()}) == len(more.cells())
    write_study(root, {**SMALL, "methods": [{"method": "dkd", "T": [2], "nontarget": 2}]})
    assert key(load("small"), added[0]) != key(more, added[0])


def test_the_customary_cell_and_the_corners_of_the_grid_come_first(root):
    write_study(root, {**SMALL, "grid": {"T": [1, 4, 20], "alpha": [0, 0.5, 0.9, 1]}})
    first = [(None, 1), (1, 0), (1, 0.9), (4, 0.5), (20, 0), (20, 0.9)]
    wanted = [(student, *point) for student in ("test_byobnet", "efficient") for point in first]
    assert [(c.student, c.T, c.alpha) for c in load("small").cells()][:12] == wanted


def test_the_first_seed_comes_whole_then_the_first_cells_of_the_others(root):
    content = {**SMALL, "grid": {"T": [1, 4, 20], "alpha": [0, 0.5, 0.9]}, "methods": [{"method": "dkd"}]}
    write_study(root, content)
    whole = load("small").cells()
    write_study(root, {**content, "seeds": [7, 0, 3]})
    cells = load("small").cells()
    head = 2 * 6  # of two students the baseline, the customary cell and four corners
    seeds = [c.seed for c in cells]
    rest = len(whole) - head
    assert seeds == [7] * len(whole) + [0] * head + [3] * head + [0] * rest + [3] * rest

    def of(seed):
        return [(c.student, c.method, c.T, c.alpha) for c in cells if c.seed == seed]

    assert of(7) == of(0) == of(3) == [(c.student, c.method, c.T, c.alpha) for c in whole]


LISTED = [("efficient", 4, 0.5), ("efficient", 20, 0), ("test_byobnet", 1, 0.9)]


def listed(*cells):
    return {"cells": [{"student": s, "T": T, "alpha": alpha} for s, T, alpha in cells]}


def test_listed_cells_keep_their_order_each_for_every_seed_and_the_baseline_first(root):
    write_study(root, {**SMALL, "grid": listed(*LISTED), "seeds": [0, 1], "methods": [{"method": "dkd"}]})
    study = load("small")
    points = [("efficient", None, 1.0), *LISTED[:2], ("test_byobnet", None, 1.0), LISTED[2]]
    points += [("efficient", 4, 0.5), ("test_byobnet", 4, 0.5)]  # dkd
    cells = study.cells()
    assert [(c.student, c.T, c.alpha) for c in cells[::2]] == [(c.student, c.T, c.alpha) for c in cells[1::2]]
    assert sorted((c.student, c.T, c.alpha) for c in cells[10::2]) == sorted(points[5:])
    assert [(c.student, c.T, c.alpha) for c in cells[:10:2]] == points[:5]
    assert [c.seed for c in cells] == [0, 1] * 7 and study.grid.temperatures == [1, 4, 20]
    assert study.grid.alphas == [0, 0.5, 0.9]


def test_a_listed_cell_is_the_run_that_it_is_in_a_grid(root):
    grid = load("small")
    write_study(root, {**SMALL, "grid": listed(("efficient", 4, 0.5))})
    cell = Cell("efficient", 4.0, 0.5, 0)
    assert cell in load("small").cells()
    assert key(student_settings(grid, cell, "d", "t")) == key(student_settings(load("small"), cell, "d", "t"))


def test_contrasts_are_the_plateau_and_the_customary_cell_unless_others_are_asked(root):
    first = load("small").asked_first()
    assert [(c.cells, c.against) for c in first] == [([(4, 0), (4, 0.5), (20, 0), (20, 0.5)], []), ([(4, 0.5)], [])]
    write_study(root, {**SMALL, "contrasts": [{"name": "labels", "cells": [[20, 0.5]], "against": [[20, 0]]}]})
    (asked,) = load("small").asked_first()
    assert (asked.name, asked.cells, asked.against) == ("labels", [(20, 0.5)], [(20, 0)])
    write_study(root, {**SMALL, "contrasts": [{"name": "the baseline", "cells": [[20, 0]], "against": [[4, 1]]}]})
    (asked,) = load("small").asked_first()
    assert asked.against == [(4, 1)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grid": {"alpha": [0.5]}}, "grid: grid.T is missing or empty; give T and alpha, or a list of cells"),
        ({"grid": {"T": [4], **listed(*LISTED)}}, "grid has T and alpha, or a list of cells, and not both"),
        ({"grid": listed(*LISTED, LISTED[0])}, "grid.cells names a value twice"),
        ({"grid": listed(("eficient", 4, 0.5))}, "did you mean 'efficient'"),
        ({"grid": listed(("efficient", 4, 1))}, "grid.cells.0.alpha: .*less than 1"),
        ({"contrasts": [{"name": "x", "cells": [[5, 0.5]]}]}, "'x' asks of T = 5, alpha = 0.5, which is no cell"),
        (
            {
                "contrasts": [{"name": "x", "cells": [[1, 0.3]]}],
                "methods": [{"method": "label_smoothing", "alpha": [0.3]}],
            },
            "'x' asks of T = 1, alpha = 0.3, which is no cell",
        ),
        ({"contrasts": [{"name": "x", "cells": [[4, 1]]}]}, "'x' compares cells with themselves"),
        ({"contrasts": [{"name": "x", "cells": [[4]]}]}, "'contrasts.0.cells.0.1' is missing"),
        ({"contrasts": 2 * [{"name": "x", "cells": [[4, 0.5]]}]}, r"contrasts: \['x'\] named twice"),
    ],
)
def test_a_list_of_cells_and_contrasts_are_checked(root, change, says):
    write_study(root, {**SMALL, **change})
    with pytest.raises(StudyError, match=says):
        load("small")


def test_threads_of_a_model_are_its_own_and_in_its_key_alone(root):
    plain = load("small")
    candidates = [{"model": "test_byobnet", "threads": 2}, SMALL["teacher"]["candidates"][1]]
    write_study(root, {**SMALL, "teacher": {**SMALL["teacher"], "candidates": candidates}})
    keys = [
        [key(teacher_settings(s, candidate, "d")) for candidate in s.teacher.candidates] for s in (plain, load("small"))
    ]
    assert keys[0][0] != keys[1][0] and keys[0][1] == keys[1][1]


def test_every_cell_has_a_name_of_its_own(root):
    write_study(root, {**SMALL, "grid": {"T": [4, 4.0000001, 1e6], "alpha": [-0.0, 0.1, 1 / 3]}})
    names = [c.name for c in load("small").cells() if c.student == "efficient"]
    assert len(set(names)) == len(names) == 10
    assert {"efficient-T4-a0-s0", "efficient-T4.0000001-a0.1-s0", "efficient-T1e+06-a0.3333333333333333-s0"} < set(
        names
    )


@pytest.mark.parametrize("stem", ["a b", "x" * 65, "..", "-x"])
def test_a_study_s_file_is_named_as_a_folder_can_be(root, stem):
    path = write_study(root, SMALL, stem)
    with pytest.raises(StudyError, match="rename the file: .*cannot be a name"):
        load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grid": {"T": [0], "alpha": [0.5]}}, "grid.T.0: .*greater than or equal to 0.001"),
        ({"grid": {"T": [4], "alpha": [1.5]}}, "grid.alpha.0: .*less than or equal to 1"),
        ({"grid": {"T": [4, 4.0], "alpha": [1]}}, "grid.T names a value twice"),
        ({"grid": {"T": ["4"], "alpha": [1]}}, "grid.T.0: .*number"),
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'"),
        ({"data": {"name": "digits", "clases": 3}}, "unknown key 'data.clases'; did you mean 'classes'"),
        ({"data": {"name": "mnist"}}, "data.name: .*'digits', 'tiny-imagenet', 'cifar100' or 'folder'"),
        ({"data": {"name": "cifar10"}}, "data.name: did you mean 'cifar100'"),
        ({"data": {"name": "digits", "classes": ["1", "1"]}}, "data.classes: the class '1' is named twice"),
        ({"data": {"name": "digits", "classes": ["1"]}}, "data.classes: at least 2 classes"),
        ({"data": {"name": "digits", "classes": []}}, "data.classes: at least 2 classes"),
        ({"data": {"name": "digits", "classes": 0}}, "data.classes: at least 2 classes"),
        ({"students": [{"model": "resnet18", "name": "../../../../evil"}]}, "students.0: .*cannot be a name"),
        ({"students": [{"model": "resnet18", "name": "a/b"}]}, "students.0: 'a/b' cannot be a name"),
        ({"students": [{"model": "resnet18", "name": "a" * 300}]}, "students.0: .*at most 64"),
        ({"students": ["timm/.."]}, "students.0: '..' cannot be a name"),
        ({"teacher": {"candidates": [{"model": "a", "name": "b c"}]}}, "teacher.candidates.0: 'b c' cannot be"),
        ({"methods": [{"method": "dkd", "name": "/dkd"}]}, "methods.0: '/dkd' cannot be a name"),
        ({"methods": [{"method": "dkd", "T": [4, 4.0]}]}, "two runs would be called test_byobnet-dkd-t4-a0.5-s0"),
        ({"students": ["Net", "net"]}, "two runs would be called net-baseline-s0"),
        ({"grid": {"T": [float("inf")], "alpha": [0.5]}}, "grid.T.0: .*finite"),
        ({"grid": {"T": [1e300], "alpha": [0.5]}}, r"grid.T.0: .*less than or equal to 1000000"),
        ({"grid": {"T": [10**400], "alpha": [0.5]}}, "grid.T.0: .*finite"),
        ({"grid": {"T": [4], "alpha": [float("nan")]}}, "grid.alpha.0: .*finite"),
        ({"train": {"lr": float("inf")}}, "train.lr: .*(finite|less than or equal to 1000)"),
        ({"train": {"lr": 1e300}}, "train.lr: .*less than or equal to 1000"),
        ({"students": [{"model": "resnet18", "train": {"lr": 1e300}}]}, "train of resnet18: lr: .*less than or equal"),
        ({"seeds": [10**26]}, "seeds.0: .*less than 4294967296"),
        ({"teacher": {"candidates": ["a"], "seed": 10**26}}, "teacher.seed: .*less than 4294967296"),
        ({"threads": 100000}, "threads: .*less than or equal to 1024"),
        ({"methods": [{"method": "dkd", "target": float("inf")}]}, "methods.0.target: .*finite"),
        ({"data": {"name": "folder"}}, "data.source must name the folder"),
        ({"data": {"name": "digits", "source": "x"}}, "data: data.name is 'digits', which has no source"),
        ({"train": {"epochs": 0}}, "train.epochs"),
        ({"students": [{"model": "resnet18", "train": {"epoch": 3}}]}, "train of resnet18: unknown key 'epoch'"),
        ({"students": ["resnet18", "resnet18"]}, "named twice"),
        ({"name": "other"}, "unknown key 'name'"),
        ({"students": [{"model": "test_byobnet", "mean": [0.5] * 3}]}, "mean and std go together"),
        ({"train": {"schedule": "step"}}, "train: schedule step and milestones go together"),
        ({"train": {"milestones": [3]}}, "train: schedule step and milestones go together"),
        ({"train": {"schedule": "step", "milestones": [3, 3]}}, "train: milestones: epochs in ascending order"),
        (
            {"students": [{"model": "resnet18", "stem": "small", "pretrained": True}]},
            "no ImageNet weights for stem: sm",
        ),
        ({"students": [{"model": "a.py:Net", "pretrained": True}]}, "students.0: .*no ImageNet weights for a model of"),
        ({"students": [{"model": "a.py:Net", "stem": "small"}]}, "write it into your own"),
        ({"methods": [{"method": "hinton"}]}, "methods.0.method: .*'dkd', 'standardised', 'dist'"),
        ({"methods": [{"method": "dist_"}]}, "methods.0.method: did you mean 'dist'.*got 'dist_'"),
        ({"methods": [{"method": "kd"}]}, "methods.0.method: .*must be 'dkd'"),
        ({"methods": ["dkd"]}, "methods.0: "),
        ({"methods": [{}]}, "'methods.0.method' is missing"),
        ({"methods": [{"method": "dkd", "nontarge": 2}]}, "'nontarge' is not of method dkd; did you mean 'nontarget'"),
        ({"methods": [{"method": "dkd", "nontarget": "2"}]}, "methods.0.nontarget: .*number"),
        ({"methods": [{"method": "dkd", "target": -1}]}, "methods.0.target: .*greater than or equal to 0"),
        ({"methods": [{"method": "dkd", "inter": 2}]}, "'inter' is not of method dkd; it takes target, nontarget"),
        ({"methods": [{"method": "self", "inter": 2}]}, "'inter' is not of method self; it takes no weights"),
        ({"methods": [{"method": "label_smoothing", "T": [4]}]}, "label_smoothing has no temperature"),
        ({"methods": [{"method": "self", "alpha": [1]}]}, "methods.0.alpha.0: .*less than 1"),
        ({"methods": [{"method": "dkd"}, {"method": "dkd", "nontarget": 2}]}, "methods: .*named twice"),
        ({"methods": [{"method": "dkd", "name": "kd"}]}, "the name 'kd' is the grid's"),
        (
            {
                "methods": [{"method": "random_teacher"}],
                "teacher": {"candidates": ["a", "b", {"ensemble": ["a", "b"]}]},
            },
            "methods: random_teacher needs a teacher that is one model, and candidate ensemble may be chosen",
        ),
        (
            {"methods": [{"method": "early_teacher"}], "teacher": {"candidates": ["a"], "train": {"epochs": 1}}},
            "methods: early_teacher is the teacher after its first epoch, and candidate a is trained for less than two",
        ),
        ({"students": ["mine.py"]}, "model mine.py: a model of one's own is FILE.py:NAME"),
        ({"students": ["folder/mine.py:"]}, "mine.py:: a model of one's own is FILE.py:NAME"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(root, change, says):
    write_study(root, {**SMALL, **change})
    with pytest.raises(StudyError, match=says) as e:
        load("small")
    assert "small.yaml" in str(e.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"T": float("inf")}, "T: .*finite"),
        ({"T": 1e300}, "T: .*less than or equal to 1000000"),
        ({"T": "4"}, "T: .*number"),
        ({"T": True}, "T: .*number"),
        ({"alpha": float("nan")}, "alpha: .*finite"),
        ({"alpha": 1.5}, "alpha: .*less than or equal to 1"),
        ({"seed": 10**26}, "seed: .*less than 4294967296"),
        ({"epochs": -1}, "epochs: .*greater than or equal to 0"),
        ({"seed": np.float64(1)}, "seed: .*integer"),
        ({"T": np.array([4, 5])}, "T: .*number"),
        ({"method": "mse", "alpha": 1}, "alpha: method 'mse' needs one below 1"),
    ],
)
def test_a_run_asked_for_by_hand_has_the_study_file_s_limits(root, change, says):
    with pytest.raises(StudyError, match=f"^{says}"):
        kd_utils.student("small", **change)


@pytest.mark.parametrize(
    ("asked", "cell"),
    [
        ({"T": np.int64(2), "alpha": np.float64(0.25), "seed": np.int64(3)}, Cell("test_byobnet", 2.0, 0.25, 3)),
        ({"T": 7, "alpha": np.int32(1)}, Cell("test_byobnet", None, 1.0, 0)),
        ({"method": "mse"}, Cell("test_byobnet", 1.0, 0.5, 0, "mse")),  # it has no temperature, whatever T is
        ({"method": "dkd"}, Cell("test_byobnet", 4.0, 0.5, 0, "dkd")),
    ],
)
def test_a_run_asked_for_by_hand_is_that_cell(root, monkeypatch, asked, cell):
    from kd_utils.learning import run

    planned = []
    monkeypatch.setattr(run.data, "load", lambda study: None)
    monkeypatch.setattr(run, "plan_student", lambda shelf, cell: planned.append(cell))
    monkeypatch.setattr(run, "Run", lambda plan, device: None)
    write_study(root, {**SMALL, "methods": [{"method": "mse"}, {"method": "dkd"}]})
    kd_utils.student("small", **asked)
    assert planned == [cell] and all(type(x) in (float, int, str, type(None)) for x in vars(planned[0]).values())


def test_a_key_given_twice_is_refused(root):
    path = root / "studies" / "small.yaml"
    path.write_text(path.read_text() + "\nseeds: [1]\n")
    with pytest.raises(StudyError, match="'seeds' is given twice"):
        load("small")


def test_yaml_that_runs_code_is_refused(root):
    (root / "studies" / "small.yaml").write_text("data: !!python/object/apply:os.system ['true']")
    with pytest.raises(StudyError, match="not YAML"):
        load("small")


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB + "title: *j\n", "more than 10,000 values; use fewer aliases"),
        ("title: &t [*t]\n", "more than 10,000 values"),
        ("title: " + "[" * 5000, "nested too deep"),
        ("title: Schülerin\n".encode("latin-1"), "not UTF-8 .*save the file as UTF-8"),
        ("# " + "x" * 1_000_000, "1,000,002 bytes, and at most 1,000,000 are read"),
        ("seeds: [" + "9" * 5000 + "]", "not YAML: Exceeds the limit"),
        ("title: 2026-99-99\n", "not YAML: month must be"),
        ("title: [\n", "not YAML: while parsing"),
        (f"title: {['x' * 100] * 100}\n", r"title: .*valid string \(got \['x"),
        ("~: 1\n", "line 1: the key None is no word"),
        ("title: x\ndata: {2020-01-01: 1}\n", "line 2: the key datetime.date.* is no word"),
        ("[1, 2]: 1\n", "line 1: the key .* is no word"),
        ("on: 1\n", "line 1: the key True is no word"),
        ('title: !!int ""\n', "not YAML: a value is not of the type that its tag says"),
        ('title: !!float ""\n', "not YAML: a value is not of the type that its tag says"),
        ('title: !!bool ""\n', "not YAML: a value is not of the type that its tag says"),
        ('title: !!timestamp "x"\n', "not YAML: a value is not of the type that its tag says"),
        (f"seeds: {['x'] * 200}\n", r"seeds.0: .*; and 199 more$"),
        (f"{'x' * 900}: 1\n", r"unknown key 'x+ … x+'; allowed: "),
        (f"data: {{name: {'x' * 100_000}}}\n", "data.name: .*must be 'digits'"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(root, content, says):
    (root / "studies" / "small.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StudyError, match=says) as e:
        load("small")
    assert "\n" not in str(e.value) and len(str(e.value)) < 1000


def test_aliases_and_merge_keys_work(root):
    path = root / "studies" / "small.yaml"
    train = "train: &usual {epochs: 3, batch_size: 8}\nteacher: {candidates: [a], train: {<<: *usual, epochs: 5}}\n"
    rest = "students: [a]\ngrid: {T: [4], alpha: [0.5]}\ndata: {name: digits, val_from_train_per_class: 5}\n"
    path.write_text(train + rest)
    asked = load("small").training(load("small").teacher.candidates[0], teacher=True)
    assert (asked.epochs, asked.batch_size) == (5, 8)


def test_a_name_of_300_letters_is_one_line(root):
    with pytest.raises(StudyError, match="no study file .*…; in studies/ there are: small"):
        load("x" * 300)
    write_study(root, {**SMALL, "data": {"name": "folder", "source": "x" * 300}})
    with pytest.raises(StudyError, match="small.yaml: no file is called 'x+...x+'"):
        load("small")


def test_a_path_that_leads_nowhere_is_one_line(root):
    (root / "loop").symlink_to("loop")
    write_study(root, {**SMALL, "data": {"name": "folder", "source": "~nobody-of-this-name/x"}})
    with pytest.raises(StudyError, match="the path '~nobody-of-this-name/x' leads nowhere"):
        load("small")
    write_study(root, {**SMALL, "data": {"name": "folder", "source": str(root / "loop" / "x")}})
    with contextlib.suppress(StudyError):  # Python 3.13 takes a loop as it is
        load("small")


def test_an_exponent_is_a_number(root):
    path = root / "studies" / "small.yaml"
    path.write_text(path.read_text().replace("lr: 0.005", "lr: 3e-3"))
    assert load("small").train.lr == 0.003


def test_a_missing_study_lists_those_there_are(root):
    with pytest.raises(StudyError, match="small"):
        load("smal")


def test_training_is_overridden_from_the_general_to_the_particular(root):
    content = {
        **SMALL,
        "teacher": {"train": {"epochs": 7}, "candidates": ["a", {"model": "b", "train": {"epochs": 9}}]},
    }
    write_study(root, content)
    s = load("small")
    assert [s.training(c, teacher=True).epochs for c in s.teacher.candidates] == [7, 9]
    assert s.training(s.students[0], teacher=False).epochs == 3
    assert s.training(s.teacher.candidates[0], teacher=True).lr == 0.005


def test_the_key_follows_everything_that_the_figures_depend_on(root):
    s = load("small")
    cell = s.cells()[1]

    def key(s, cell=cell, data="d", teacher="t"):
        return digest(student_settings(s, cell, data, teacher))

    keys = [
        key(s),
        key(s, data="e"),
        key(s, teacher="u"),
        key(s, s.cells()[2]),
        key(s.with_epochs(4)),
        key(s.model_copy(update={"augment": schema.Augment(shift=2)})),
        key(s.model_copy(update={"threads": 2})),
    ]
    assert len(set(keys)) == len(keys)
    assert key(s.model_copy(update={"title": "another", "grid": schema.Grid(T=[4.0], alpha=[0.5])})) == keys[0]


def test_the_studies_of_the_checkout_are_valid(checkout, monkeypatch):
    monkeypatch.delenv("KD_ROOT", raising=False)
    files = sorted((checkout / "studies").glob("*.yaml"))
    assert {"digits", "tiny-imagenet", "tiny-imagenet-20"} <= {f.stem for f in files}
    for f in files:
        teacher_seed, seeds = load(f).teacher.seed, load(f).seeds
        # the records of tiny-imagenet-20 came before this rule; their report says so
        assert teacher_seed not in seeds or f.stem == "tiny-imagenet-20"
    full = load("tiny-imagenet")
    assert len(full.teacher.candidates) >= 10 and any("convnext" in c.model for c in full.teacher.candidates)
    assert full.grid.T == [1, 2, 4, 10, 20, 100] and full.grid.alpha == [0, 0.1, 0.5, 0.9, 1]
    assert full.train.optimizer == "adam" and full.train.lr == 1e-3 and full.train.batch_size == 128


def test_a_study_as_read_is_the_same_for_what_a_command_starts(root, checkout, monkeypatch):
    """All that a file can say comes back, and for this file alone."""
    monkeypatch.setenv("KD_ROOT", str(checkout))
    more = {
        **SMALL,
        "title": "\u202e 'title' \ud800",
        "augment": {"flip": False, "crop": "none"},
        "methods": [{"method": "dkd", "nontarget": 4, "T": [2.5]}, {"method": "label_smoothing", "alpha": [0.9]}],
        "contrasts": [{"name": "c", "cells": [[4, 0.5]]}],
    }
    candidates = [
        {"model": "resnet18", "train": {"epochs": 2}},
        "test_byobnet",
        {"ensemble": ["resnet18", "test_byobnet"]},
    ]
    more["teacher"] = {"candidates": [*candidates, {"logits": "a.npy"}, {"model": "n.py:Net", "pretrained": "w.pth"}]}
    whole = write_study(root, {**more, "students": ["n.py:Net"]})
    for path in (*(checkout / "studies").glob("*.yaml"), whole):
        asked = load(path)
        later = asked.with_epochs(77)
        with as_read(later):
            assert load(path) == later != asked
            assert load("digits") == (later if path.stem == "digits" else load(checkout / "studies" / "digits.yaml"))
        assert load(path) == asked


def test_a_method_has_the_weights_of_its_row():
    plain, given = schema.Method(method="dkd"), schema.Method(method="dkd", nontarget=2)
    assert plain.weights == {"target": 1, "nontarget": 8} and given.weights == {"target": 1, "nontarget": 2}
    assert type(given.weights["nontarget"]) is float  # 2 and 2.0 are one key
    assert schema.Method(**given.model_dump()) == given
    assert schema.Method(method="standardised").weights == {}
    assert schema.Method(method="label_smoothing").T == [1] and plain.T == [4]


def test_committed_records_have_the_keys_of_their_study(checkout, monkeypatch):
    """The settings of every run of the committed study, computed again from the file, are to the letter as recorded."""
    monkeypatch.delenv("KD_ROOT", raising=False)
    folder = checkout / "results" / "tiny-imagenet-20"
    asked, fingerprint = load("tiny-imagenet-20"), json.loads((folder / "data.json").read_text())["fingerprint"]
    students, teachers = ([read(p) for p in sorted((folder / kind).iterdir())] for kind in ("students", "teachers"))
    assert len(students) >= 94 and {r.method for r in students} == {"kd", "dkd", "label_smoothing", "self"}
    asked_for = [(r, student_settings(asked, r.cell, fingerprint, r.settings["teacher_sha256"])) for r in students]
    asked_for += [(r, teacher_settings(asked, asked.candidate(r.teacher), fingerprint)) for r in teachers]
    for record, settings in asked_for:
        assert settings == record.settings and key(settings) == record.key, record.id
