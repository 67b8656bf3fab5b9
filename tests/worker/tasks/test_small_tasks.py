"""The tasks whose data comes with Python and scikit-learn; what they ask can be learned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scattershot_common.study.study_file import load
from scattershot_common.task.task import Task
from scattershot_common.task.task_names import named_tasks
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.tasks.diabetes import Diabetes
from scattershot_worker.tasks.digits import Digits
from scattershot_worker.tasks.unicode_names import _CLASSES, _SYMBOLS, UnicodeNames

EXAMPLES = Path(__file__).parents[3] / "examples"


def parts(task: Task) -> list[tuple[Tensor, Tensor]]:
    """Return the train, validation and test part."""
    data = task.data()
    all_parts: Any = [data.train, data.val, data.test]
    return list(all_parts)


def trained(task: Task, params: Mapping[str, Any], epochs: int) -> dict[str, float]:
    """Return the validation metrics after some epochs of AdamW."""
    torch.manual_seed(0)
    (x, y), (val_x, val_y), _ = parts(task)
    model = task.model(params)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            task.loss(model(x[index]), y[index]).backward()
            optimizer.step()
    with torch.no_grad():
        return task.metrics(model.eval()(val_x), val_y)


@pytest.mark.parametrize("task", [Diabetes(), UnicodeNames()], ids=["diabetes", "unicode_names"])
def test_no_example_is_in_two_parts_and_all_are_parted_the_same_way_always(task: Task) -> None:
    first = parts(task)
    rows = [set(map(tuple, x.tolist())) for x, _ in first]
    assert sum(map(len, rows)) == len(set.union(*rows)) == sum(len(x) for x, _ in first)
    torch.manual_seed(12345)
    for (x, y), (other_x, other_y) in zip(first, parts(task), strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


def names(x: Tensor) -> list[str]:
    return ["".join(("\0" + _SYMBOLS)[symbol] for symbol in row).rstrip("\0") for row in x.tolist()]


#: 480 of 3,630 where a class has as many.
SHARES = [0.13, 0.13, 0.13, 0.13, 0.13, 0.08, 0.13, 0.13]


def test_unicode_names_are_real_names_with_their_kind() -> None:
    import unicodedata

    for (x, y), count in zip(parts(UnicodeNames()), (2400, 600, 630), strict=True):
        assert x.shape == (count, 32) and (x.dtype, y.dtype) == (torch.int64, torch.int64)
        for name, number in zip(names(x), y.tolist(), strict=True):
            category = unicodedata.ucd_3_2_0.category(unicodedata.lookup(name))
            assert category.startswith(_CLASSES[number]), name
        shares = y.bincount(minlength=8) / count
        assert torch.allclose(shares, torch.tensor(SHARES), atol=0.05)


def test_the_first_unicode_names_are_these_in_every_version_of_python() -> None:
    (x, y), _, (test_x, test_y) = parts(UnicodeNames())
    assert list(zip(names(x[:3]), y[:3].tolist(), strict=True)) == FIRST
    assert list(zip(names(test_x[:3]), test_y[:3].tolist(), strict=True)) == FIRST_OF_TEST


FIRST = [("SET MINUS", 6), ("ARMENIAN SMALL LIGATURE ECH YIWN", 1), ("EN DASH", 5)]
FIRST_OF_TEST = [
    ("SMALL ROMAN NUMERAL ELEVEN", 4),
    ("MYANMAR VOWEL SIGN AA", 3),
    ("DOUBLE CIRCLED DIGIT ONE", 4),
]


def test_diabetes_is_standardized_by_the_training_part() -> None:
    shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in parts(Diabetes())]
    assert shapes == [((266, 10), (266, 1)), ((88, 10), (88, 1)), ((88, 10), (88, 1))]
    for values in parts(Diabetes())[0]:
        assert values.dtype == torch.float32
        assert torch.allclose(values.mean(0), torch.zeros(()), atol=1e-5)
        assert torch.allclose(values.std(0), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_diabetes_is_told_better_than_by_the_mean(model: str) -> None:
    _, (_, y), _ = parts(Diabetes())
    mean = y.square().mean().sqrt().item()
    rmse = trained(Diabetes(), {"model": model}, 15)["rmse"]
    assert 0.5 * mean < rmse < 0.9 * mean


@pytest.mark.parametrize(("model", "above"), [("cnn", 0.7), ("gru", 0.5), ("transformer", 0.4)])
def test_unicode_names_are_learned(model: str, above: float) -> None:
    accuracy = trained(UnicodeNames(), {"model": model, "hidden": 32}, 2)["accuracy"]
    assert above < accuracy < 0.99  # chance: 0.14


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "resnet"])
def test_digits_are_learned_by_each_model(model: str) -> None:
    accuracy = trained(Digits(), {"model": model, "channels": 8}, 2)["accuracy"]
    assert accuracy > 0.8


@pytest.mark.parametrize("name", named_tasks())
def test_every_built_in_task_has_an_example_of_a_study(name: str) -> None:
    study = load(EXAMPLES / f"{name}.toml")
    assert (study.study.name, study.study.task) == (name, name)
    task = load_task(name, None)
    assert isinstance(task, Task)
    for corner in (0.0, 0.25, 0.5, 0.75, 1 - 1e-9):
        task.model(study.space.at([corner] * len(study.space.axes)))
