import json
import subprocess
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from scattershot_common.errors import StudyFileError
from scattershot_common.study.settings import Kill, Stage, StudyFile
from scattershot_common.study.study_file import load, parse
from scattershot_common.task.task_names import named_tasks

EXAMPLE = Path(__file__).parents[3] / "examples" / "digits.toml"

GOOD = """\
[study]
name = "digits"
task = "digits"

[space]
lr = { loguniform = [1e-6, 10] }

[[stage]]
name = "coarse"
trials = 10
epochs = 2

[[stage]]
name = "fine"
refine = 0.25
trials = 5
epochs = 8

[[stage]]
name = "final"
continue = 3
epochs = 30

[kill]
rule = "halving"
"""


def complaints(text: str, folder: Path = Path()) -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        parse(text, "digits.toml", folder)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


# --- what a good file gives ------------------------------------------------------------------


def test_the_example_is_the_three_stage_study_of_the_design() -> None:
    file = load(EXAMPLE)
    assert [(s.name, s.trials, s.refine, s.continue_, s.epochs) for s in file.stages] == [
        ("coarse", 48, None, None, 2),
        ("fine", 24, 0.25, None, 8),
        ("final", None, None, 5, 30),
    ]
    assert file.kill.rule == ("halving",)
    assert file.space.names == (
        "lr", "weight_decay", "dropout", "hidden", "optimizer", "momentum", "batch_size",
    )  # fmt: skip
    assert file.space.fixed == {"batch_size": 32}


def test_what_is_not_written_has_its_default() -> None:
    file = parse(GOOD)
    assert (file.study.metric, file.study.goal, file.study.seed) == ("val_accuracy", "maximize", 0)
    assert file.kill == Kill(rule=("halving",)) and file.checkpoints.keep == 20
    assert file.ensemble.size == 5 and file.worker.threads == 1


def test_a_stage_may_have_its_own_rules_and_sampler() -> None:
    text = changed("trials = 5", 'trials = 5\nkill = ["median", "diverged"]\nsampler = "sobol"')
    coarse, fine, final = (file := parse(text)).stages
    assert file.rules(coarse) == ("halving",) == file.rules(final)
    assert file.rules(fine) == ("median", "diverged")
    assert (file.sampler(coarse), file.sampler(fine)) == ("random", "sobol")
    for none in ('"none"', '["none"]', "[]"):
        file = parse(changed("trials = 5", f"trials = 5\nkill = {none}"))
        assert file.rules(file.stages[1]) == ()
        assert parse(changed('"halving"', none)).kill.rule == ()


def test_a_study_file_comes_back_from_its_json() -> None:
    file = load(EXAMPLE)
    again = StudyFile.model_validate(
        json.loads(json.dumps(file.model_dump(mode="json", by_alias=True)))
    )
    assert again == file and again.space == file.space and again.identity() == file.identity()
    assert Stage(name="final", epochs=30, continue_=3) == parse(GOOD).stages[2]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('task = "digits"', 'task = "digits"\nseed = 0\ngoal = "maximize"', True),
        ('task = "digits"', 'task = "digits"\ndata = "/elsewhere"', True),
        ('rule = "halving"', 'rule = ["halving"]\neta = 3', True),
        ("[kill]", "[checkpoints]\nkeep = 3\n[ensemble]\nsize = 9\n[kill]", True),
        ("[kill]", "[worker]\nthreads = 2\n[kill]", True),
        ("[kill]", "# a comment\n[kill]", True),
        ('task = "digits"', 'task = "digits"\nseed = 1', False),
        ("lr = { loguniform = [1e-6, 10] }", "lr = { loguniform = [1e-6, 1] }", False),
        ("[space]", "[space]\nwidth = 3", False),
        ("trials = 10", "trials = 11", False),
        ("epochs = 30", "epochs = 31", False),
        ('rule = "halving"', 'rule = "median"', False),
    ],
)  # fmt: skip
def test_the_identity_changes_with_what_decides_the_trials_alone(
    old: str, new: str, same: bool
) -> None:
    assert (parse(changed(old, new)).identity() == parse(GOOD).identity()) is same


def test_the_identity_knows_the_order_of_the_dimensions() -> None:
    """A coordinate belongs to the dimension at its place."""
    a, b = "a = { uniform = [0, 1] }\n", "b = { uniform = [0, 1] }\n"
    first, second = (parse(changed("[space]\n", "[space]\n" + ab)) for ab in (a + b, b + a))
    assert first.identity() != second.identity()


def test_the_identity_ignores_the_order_of_the_keys_of_a_dimension() -> None:
    one = parse(changed("{ loguniform = [1e-6, 10] }", "{ integer = [1, 9], log = true }"))
    other = parse(changed("{ loguniform = [1e-6, 10] }", "{ log = true, integer = [1, 9] }"))
    assert one.identity() == other.identity()


def test_the_identity_is_the_same_in_every_version() -> None:
    assert parse(GOOD).identity() == "c5df561be2a54258"


# --- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "loguniform = [1e-6, 10]", "loguniform = [0, 10]",
            "6: space.lr.loguniform: the lower end must be above 0 (found 0); "
            "use uniform for a range that contains 0",
        ),
        ("[1e-6, 10]", '["1e-6", 10]', '6: space.lr.loguniform: needs a number (found "1e-6", '
            "which is text): remove the quotes"),
        ("[1e-6, 10]", "[10, 1e-6]", "6: space.lr.loguniform: the range is empty: "),
        ("loguniform", "choice", None),
        ("loguniform = [1e-6, 10]", "choice = []", "6: space.lr.choice: needs a list of at least"),
        ("loguniform = [1e-6, 10]", "choice = [[64, 64], [128]]", "6: space.lr.choice: a choice "
            'is a number, text, true or false (found [64, 64]); write "64-64" and take it apart'),
        ("loguniform = [1e-6, 10]", "choice = [{ a = 1 }]", "6: space.lr.choice: a choice is a "
            'number, text, true or false (found {"a": 1}); write a name, as "wide" and take it'),
        ("loguniform", "loguniforn", '6: space.lr: needs exactly one of loguniform, uniform, '
            'integer, choice, value (found loguniforn); did you mean "loguniform"?'),
        ('task = "digits"', 'task = "digit"', "3: study.task: must be an installed task (cifar10, "
            'diabetes, digits, fashion_mnist, mnist, unicode_names) or your own as '
            '"package.module:Name" (found "digit"); '
            'did you mean "digits"?'),
        ('task = "digits"', "task = 3", "3: study.task: needs text, in quotes (found 3)"),
        ('task = "digits"', "", "1: study.task: is missing; write task = ..."),
        ('name = "digits"', 'name = "../digits"', "2: study.name: must be letters, digits and - _ ."
            ' only, 64 at most, and not start with . or - (found "../digits")'),
        ('name = "digits"', 'name = "-rf"', "2: study.name: must be letters"),
        ('name = "digits"', f'name = "{"d" * 65}"', "2: study.name: must be letters"),
        ('name = "digits"', 'name = ""', "2: study.name: must be letters"),
        ("[space]", 'metrc = "x"\n[space]', "5: study.metrc: unknown key (known: name, task, "
            'metric, goal, seed, sampler, data); did you mean "metric"?'),
        ("[space]", "seed = 1.5\n[space]", "5: study.seed: needs a whole number (found 1.5)"),
        ("[space]", 'seed = "1"\n[space]', '5: study.seed: needs a whole number (found "1", which '
            "is text): remove the quotes"),
        ("[space]", "seed = true\n[space]", "5: study.seed: needs a whole number (found true)"),
        ("[space]", "seed = -1\n[space]", "5: study.seed: must be at least 0 (found -1)"),
        ("[space]", f"seed = {10**30}\n[space]", "5: study.seed: must be below 92233720368547"),
        ("[space]", 'goal = "max"\n[space]', "5: study.goal: must be maximize or minimize (found "
            '"max")'),
        ("[space]", 'sampler = "sobel"\n[space]', "5: study.sampler: must be random or sobol "
            '(found "sobel"); did you mean "sobol"?'),
        ("[space]", 'metric = "val_loss"\n[space]', '5: study.metric: "val_loss" looks better when '
            'smaller, but the default goal is "maximize"; write goal = "minimize" '),
        ("[space]", 'metric = "RMSE"\n[space]', '5: study.metric: "RMSE" looks better when'),
        ("[space]", 'metric = "val_loss_ema"\n[space]', '5: study.metric: "val_loss_ema" looks'),
        ("[space]", 'metric = "val_f1"\n[space]', None),
        ("[space]", 'metric = "epoch"\n[space]', "5: study.metric: 'epoch' is a column of "
            "scattershot's own; report the metric under another name"),
        ("[space]", 'metric = "val\\nf1"\n[space]', "5: study.metric: 'val\\nf1' has"),
        ("[space]", 'metric = " "\n[space]', "5: study.metric: ' ' is empty; report"),
        ("[space]", 'metric = "loss"\ngoal = "minimize"\n[space]', None),
        ("[space]", 'metric = "loss"\ngoal = "maximize"\n[space]', None),
        ('name = "fine"', 'name = "coarse"', '14: stage[2].name: stage 1 is called "coarse"'),
        ('name = "fine"', "", "13: stage[2].name: is missing"),
        ("trials = 10", "trials = 0", "10: stage[1].trials: must be at least 1 (found 0)"),
        ("trials = 10", 'trials = "10"', "10: stage[1].trials: needs a whole number"),
        ("trials = 10", "", "8: stage[1]: needs trials = ... (new points) or continue = ..."),
        ("trials = 10", "trails = 10", '10: stage[1].trails: unknown key (known: name, epochs, '
            'trials, refine, continue, kill, sampler); did you mean "trials"?'),
        ("trials = 10", "trials = 10\ncontinue_ = 3", '11: stage[1].continue_: unknown key (known: '
            'name, epochs, trials, refine, continue, kill, sampler); did you mean "continue"?'),
        ("trials = 10", "continue = 3", "10: stage[1].continue: the first stage has no earlier"),
        ("trials = 10", "trials = 10\nrefine = 0.5", "11: stage[1].refine: the first stage has no"),
        ("epochs = 2", "epochs = 0", "11: stage[1].epochs: must be at least 1 (found 0)"),
        ("epochs = 2", "epochs = 2.0", "11: stage[1].epochs: needs a whole number (found 2.0); "
            "write 2"),
        ("refine = 0.25", "refine = 0", "15: stage[2].refine: must be above 0 (found 0)"),
        ("refine = 0.25", "refine = 25", "15: stage[2].refine: must be at most 1 (found 25)"),
        ("refine = 0.25", "refine = nan", "15: stage[2].refine: needs a finite number (found nan)"),
        ("refine = 0.25", "refine = 1", None),
        ("trials = 5\n", "", "15: stage[2].refine: needs trials = ..., the number of new points"),
        ("continue = 3", "continue = 15", None),
        ("continue = 3", "continue = 16", "21: stage[3].continue: the earlier stages have 15 "
            "trials (found 16)"),
        ("continue = 3", "continue = 3\ntrials = 3", "22: stage[3].trials: a stage has trials (new "
            "points) or continue, not both"),
        ("continue = 3", "continue = 3\nrefine = 0.5", "22: stage[3].refine: a stage has refine"),
        ("epochs = 30", "epochs = 8", "22: stage[3].epochs: must be above 8, which trials of an "
            "earlier stage have done already (found 8)"),
        ("epochs = 30", "epochs = 9", None),
        ('"halving"', '"halvin"', '25: kill.rule: must be one or more of halving, sync_halving, '
            'median, percentile, diverged, patience, or "none" alone (found "halvin"); '
            'did you mean "halving"?'),
        ('"halving"', '["median", "none"]', "25: kill.rule: must be one or more of"),
        ('"halving"', "3", "25: kill.rule: needs a rule or a list of rules (found 3)"),
        ('"halving"', '"halving"\ngrace = 0', "26: kill.grace: must be at least 1 (found 0)"),
        ('"halving"', '"halving"\ngrace = 30', "26: kill.grace: must be below 30, the epochs of "
            "the longest stage with a rule, or no trial is ever judged (found 30)"),
        ('"halving"', '"none"\ngrace = 30', None),
        ('"halving"', '"halving"\neta = 1', "26: kill.eta: must be at least 2 (found 1)"),
        ('"halving"', '"halving"\nfactor = inf', "26: kill.factor: needs a finite number"),
        ('"halving"', '"halving"\npercentile = 100', "26: kill.percentile: must be below 100"),
        ('"halving"', '"median"\neta = 4', "26: kill.eta: belongs to halving and "
            "sync_halving, not to median"),
        ('"halving"', '["median", "diverged"]\nmin_peers = 4\nfactor = 3', None),
        ('"halving"', '"none"\neta = 4', None),
        ("lr = {", 'optimizer = "adamx"\nlr = {', "6: space.optimizer: must be one of "
            'sgd, adagrad, rmsprop, adam, adamw (found "adamx"); did you mean "adam'),
        ("lr = {", 'optimizer = "AdamW"\nlr = {', None),
        ("lr = {", 'schedule = { choice = ["cosine", "stap"] }\nlr = {', "6: space.schedule"
            ".choice: must be one of constant, "),
        ("lr = {", 'model = "resnett"\nlr = {', "6: space.model: must be one of linear, "),
        ("lr = {", 'clip_norm = { choice = ["none", 1.0] }\nlr = {', "6: space.clip_norm.cho"
            'ice: needs a number (found "none"); for trials without clip_norm give it a condition'),
        ("[kill]", "[kil]", '24: kil: unknown table (known: study, space, stage, kill, '
            'checkpoints, ensemble, worker); did you mean "kill"?'),
        ("[kill]", "[ensemble]\nmethod = 'best'\n[kill]", "25: ensemble.method: must be greedy or"),
        ("[study]\n", "seed = 1\n[study]\n", "1: seed: unknown key (known: study, space, stage, "
            "kill, checkpoints, ensemble, worker); it belongs under [study]"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_with_what_was_found_and_what_is_allowed(
    old: str, new: str, complaint: str | None
) -> None:
    if complaint is None:
        parse(changed(old, new))
    else:
        (line,) = complaints(changed(old, new))
        assert line.startswith(f"digits.toml:{complaint}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[study\n", "digits.toml:1: not TOML at column 7: "),
        (
            "[study]\nname = digits\n",
            "digits.toml:2: not TOML at column 8: Invalid value; text needs",
        ),
        ("[study]\nseed = 1\nseed = 2", "digits.toml:3: not TOML at its end: Cannot overwrite"),
        ("[study]\n[space]\n[study]\n", "digits.toml:3: not TOML at column 7: Cannot declare"),
        (f"[study]\nseed = {'1' * 5000}", "digits.toml:2: not TOML at its end: Exceeds the limit"),
        ('[study]\nname = "digits', "digits.toml:2: not TOML at its end: Unterminated string"),
    ],
)
def test_what_is_not_toml_is_named_with_its_line(text: str, complaint: str) -> None:
    (line,) = complaints(text)
    assert line.startswith(complaint)


def test_a_stage_is_not_judged_by_an_earlier_one_that_is_wrong_itself() -> None:
    (line,) = complaints(changed("trials = 10", "trials = true").replace("= 3\n", "= 12\n"))
    assert "stage[1].trials" in line


def test_a_continued_stage_goes_beyond_the_longest_stage_before_it() -> None:
    text = changed("epochs = 2", "epochs = 9").replace("epochs = 30", "epochs = 9")
    (line,) = complaints(text)
    assert "stage[3].epochs: must be above 9" in line


def test_a_rule_may_be_useless_by_default_but_not_by_a_written_grace() -> None:
    text = GOOD.partition("[[stage]]")[0] + "[[stage]]\nname = 'a'\ntrials = 2\nepochs = 1\n"
    parse(text + "[kill]\nrule = 'halving'")
    (line,) = complaints(text + "kill = 'halving'\n[kill]\ngrace = 1")
    assert "kill.grace: must be below 1" in line
    parse(text + "kill = 'none'\n[kill]\nrule = 'halving'\ngrace = 1")


def test_missing_tables_are_named() -> None:
    assert complaints("") == [
        "digits.toml: the table [study] is missing",
        "digits.toml: the table [space] is missing",
        "digits.toml: the table [[stage]] is missing",
    ]


def test_a_table_of_the_wrong_form_is_told_its_form() -> None:
    assert complaints("study = 1\nspace = 2\nkill = 4\nstage = [5]") == [
        "digits.toml:1: study: must be a table, [study] (found 1)",
        "digits.toml:2: space: must be a table, [space] (found 2)",
        "digits.toml:3: kill: must be a table, [kill] (found 4)",
        "digits.toml:4: stage[1]: must be a table, [[stage]] (found 5)",
    ]
    for form in ("stage = []", "stage = {}", "stage = 1"):
        lines = complaints(f"{form}\n[study]\nname = 'a'\ntask = 'digits'\n[space]\n")
        assert lines == ["digits.toml:1: stage: needs two brackets, [[stage]], once for each stage"]


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace('"digits"\ntask', '"a b"\ntask')
        .replace('task = "digits"', 'task = "digit"\nseed = "0"')
        .replace("[1e-6, 10] }", "[-1, 10], wden = 3 }")
        .replace("trials = 10", "trials = -1")
        .replace("refine", "refin")
        .replace('"halving"', '"halving"\npatience = 0')
    )
    keys = [line.split(": ")[:2] for line in complaints(text)]
    assert keys == [
        ["digits.toml:2", "study.name"],
        ["digits.toml:3", "study.task"],
        ["digits.toml:4", "study.seed"],
        ["digits.toml:7", "space.lr.wden"],
        ["digits.toml:7", "space.lr.loguniform"],
        ["digits.toml:11", "stage[1].trials"],
        ["digits.toml:16", "stage[2].refin"],
        ["digits.toml:27", "kill.patience"],
    ]


def test_lines_are_found_in_every_way_of_writing_a_key() -> None:
    text = GOOD.replace(
        "lr = { loguniform = [1e-6, 10] }",
        """\
# lr = { uniform = [0, 1] }
a.uniform = [1, 0]
"b" = { uniform = [1, 0] }
c = { uniform = [
  3,
  2,
] }
[space.d]
uniform = [1, 0]
[space . "e"]   # = a comment
integer = [
    2, 1 ]
[space.e.when]
nowhere = 1""",
    )
    assert [line.split(": ")[:2] for line in complaints(text)] == [
        ["digits.toml:7", "space.a.uniform"],
        ["digits.toml:8", "space.b.uniform"],
        ["digits.toml:9", "space.c.uniform"],
        ["digits.toml:14", "space.d.uniform"],
        ["digits.toml:16", "space.e.integer"],
        ["digits.toml:19", "space.e.when.nowhere"],
    ]


def test_a_space_without_axes_may_have_many_trials() -> None:
    """They differ by their seeds: the noise of a study."""
    assert parse(changed("lr = { loguniform = [1e-6, 10] }", "lr = 0.1")).space.axes == ()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes('name = "é"'.encode("latin-1"))
    for path, words in [
        (tmp_path / "none.toml", "there is no such study file"),
        (tmp_path, "cannot be read"),
        (latin, "is not UTF-8 text (byte 8)"),
    ]:
        with pytest.raises(StudyFileError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {words}")


def test_a_file_with_a_byte_order_mark_and_windows_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path) == parse(GOOD)


# --- the task --------------------------------------------------------------------------------

MODULE = """\
raise RuntimeError("imported")
import os.path, json as js
from elsewhere import Borrowed, other as Renamed
class Plain: pass
def train(trial): pass
async def train_async(trial): pass
first, (second, *third) = fourth = 1, (2, 3)
annotated: int = 3
declared: int
if True:
    class Conditional: pass
else:
    try:
        class Tried: pass
    except ImportError:
        Caught = None
class Outer:
    class Inner: pass
def function():
    local = 1
"""


def task_complaint(task: str, folder: Path) -> str:
    (line,) = complaints(changed('task = "digits"', f'task = "{task}"'), folder)
    assert line.startswith("digits.toml:3: study.task: ")
    return line.removeprefix("digits.toml:3: study.task: ")


def accept(task: str, folder: Path) -> None:
    parse(changed('task = "digits"', f'task = "{task}"'), folder=folder)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "name",
    ["Plain", "train", "train_async", "first", "second", "third", "fourth", "annotated", "os", "js",
     "Borrowed", "Renamed", "Conditional", "Tried", "Caught", "Outer"],
)  # fmt: skip
def test_a_task_that_its_module_defines_is_found_without_an_import(
    name: str, tmp_path: Path
) -> None:
    write(tmp_path / "mine.py", MODULE)
    accept(f"mine:{name}", tmp_path)
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    "name", ["Inner", "local", "function_", "declared", "elsewhere", "json", "trial", "train_"]
)
def test_a_task_that_its_module_lacks_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.py", MODULE)
    assert task_complaint(f"mine:{name}", tmp_path).startswith(
        f"{tmp_path / 'mine.py'} defines no {name}"
    )


def test_the_nearest_name_of_the_module_is_offered(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", MODULE)
    assert task_complaint("mine:Plane", tmp_path).endswith('no Plane; did you mean "Plain"?')


@pytest.mark.parametrize("text", ["from torch import *", "def __getattr__(name): ..."])
def test_names_made_while_a_module_runs_are_taken_on_trust(text: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.py", text)
    accept("mine:Anything", tmp_path)


def test_parent_packages_do_not_run(tmp_path: Path) -> None:
    write(tmp_path / "pack" / "__init__.py", "raise RuntimeError('imported')")
    write(tmp_path / "pack" / "inner" / "__init__.py", "raise RuntimeError('imported')")
    write(tmp_path / "pack" / "inner" / "tasks.py", "class Birds: ...")
    accept("pack.inner.tasks:Birds", tmp_path)
    assert not {"pack", "pack.inner", "pack.inner.tasks"} & set(sys.modules)
    assert "has no module nets" in task_complaint("pack.inner.nets:Birds", tmp_path)
    assert "pack.inner.tasks is a module, not a package" in task_complaint(
        "pack.inner.tasks.deep:Birds", tmp_path
    )


def test_a_folder_without_init_is_a_package_too(tmp_path: Path) -> None:
    write(tmp_path / "loose" / "deep" / "tasks.py", "class Birds: ...")
    accept("loose.deep.tasks:Birds", tmp_path)
    assert "is a folder without __init__.py" in task_complaint("loose.deep:Birds", tmp_path)


def test_the_study_file_s_folder_comes_before_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in ((tmp_path / "mine", "Mine"), (tmp_path / "cwd", "Theirs")):
        write(folder / "common" / "__init__.py")
        write(folder / "common" / "tasks.py", f"class {name}: ...")
    write(tmp_path / "cwd" / "other.py", "class Other: ...")
    monkeypatch.chdir(tmp_path / "cwd")
    accept("common.tasks:Mine", tmp_path / "mine")
    assert "no Theirs" in task_complaint("common.tasks:Theirs", tmp_path / "mine")
    accept("other:Other", tmp_path / "mine")
    monkeypatch.syspath_prepend(str(tmp_path / "cwd"))
    accept("common.tasks:Mine", tmp_path / "mine")


def test_a_task_is_found_among_installed_packages(tmp_path: Path) -> None:
    accept("json.decoder:JSONDecoder", tmp_path)


def test_a_task_is_found_where_an_editable_installation_says_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "src" / "birds.py", "class Birds: ...")

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, *rest: object) -> ModuleSpec | None:
            return spec_from_file_location(fullname, tmp_path / "src" / f"{fullname}.py")

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    accept("birds:Birds", tmp_path)
    assert "no Fish" in task_complaint("birds:Fish", tmp_path)


def test_a_compiled_module_is_taken_on_trust(tmp_path: Path) -> None:
    accept("_json:Anything", tmp_path)
    accept("sys:Anything", tmp_path)


def test_an_unknown_module_is_refused_with_the_folders_that_were_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    message = task_complaint("nowhere.tasks:Birds", tmp_path)
    assert message.startswith(
        f"there is no module nowhere (looked in {tmp_path}, {tmp_path / 'cwd'} and "
    )


def test_a_module_that_is_not_python_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", "x = 1\nclass Birds(:\n")
    message = task_complaint("mine:Birds", tmp_path)
    assert message.startswith(f"{tmp_path / 'mine.py'} is not valid Python at line 2: ")


@pytest.mark.parametrize("task", ["mine.py:Birds!", "mine", "mine:", ":Birds", "a..b:C", "a-b:C"])
def test_a_task_of_the_wrong_form_is_told_the_form(task: str, tmp_path: Path) -> None:
    assert task_complaint(task, tmp_path).startswith(
        f"must be an installed task ({', '.join(named_tasks())}) or your own as "
    )


def test_reading_a_study_file_imports_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; from scattershot_common.study.study_file import load; "
        "load(sys.argv[1]).space; "
        "print(sorted({'torch', 'scipy', 'numpy', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
