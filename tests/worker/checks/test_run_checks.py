"""The run of the checks: what is restored, what is reported, and their process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scattershot as ss
from scattershot_common.task.check_result import CHECKS, CheckResult
from scattershot_worker.checks import run_checks
from support.checked_tasks import PARAMS, Blobs, Loaded, Pictures, checked


def test_the_table_has_the_checks_that_the_master_knows() -> None:
    assert list(run_checks.CHECKS) == list(CHECKS)


class Kept(ss.Task):
    """A task that returns the same model every time."""

    def __init__(self, inner: ss.Task) -> None:
        super().__init__()
        self.inner = inner
        self.net = inner.model(PARAMS)

    def data(self) -> ss.Data:
        return self.inner.data()

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return self.net


@pytest.mark.parametrize("task", [Blobs, Pictures, Loaded])
def test_weights_buffers_modes_and_random_numbers_are_as_before(task: type[ss.Task]) -> None:
    kept = Kept(task())
    kept.net.eval()
    next(kept.net.parameters()).grad = torch.ones_like(next(kept.net.parameters()))
    before = {name: value.clone() for name, value in kept.net.state_dict().items()}
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    results = ss.check(kept, PARAMS, quiet=True)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    assert len(results) == len(CHECKS)
    after = kept.net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in kept.net.modules())
    assert {m.p for m in kept.net.modules() if isinstance(m, nn.Dropout)} == {PARAMS["dropout"]}
    grads = [parameter.grad for parameter in kept.net.parameters()]
    assert grads[0] is not None and grads[1:] == [None] * (len(grads) - 1)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    assert drawn == (random.random(), np.random.rand(), torch.rand(()).item())


def test_every_check_of_a_kept_model_begins_with_its_weights() -> None:
    kept = Kept(Blobs())
    first = ss.check(kept, PARAMS, only=["initial_loss"], quiet=True)
    ss.check(kept, PARAMS, only=["overfit", "learning", "rates"], quiet=True)
    assert ss.check(kept, PARAMS, only=["initial_loss"], quiet=True) == first


def test_checks_give_the_same_numbers_alone_and_among_others() -> None:
    among = {result.name: result for result in ss.check(Blobs, PARAMS, quiet=True)}
    assert all(checked(Blobs, name) == among[name] for name in CHECKS)


def test_a_train_function_cannot_be_looked_into() -> None:
    def train(trial: ss.TrialHandle) -> None:
        raise AssertionError("it must not be called")

    (result,) = ss.check(train, quiet=True)
    assert (result.name, result.status) == ("task", "skipped")
    assert result.found.startswith("train is a train function")


def lacking(**parts: Any) -> CheckResult:
    *_, result = ss.check(type("Given", (Blobs,), parts), PARAMS, quiet=True)
    assert (result.name, result.status) == ("task", "fail")
    return result


def test_parts_that_do_not_fit_together_are_told_once_with_their_place() -> None:
    result = lacking(model=lambda self, params: nn.Linear(9, 4))
    assert "the model, given a batch, does not work: RuntimeError" in result.found


def test_a_hyperparameter_that_is_missing_is_told() -> None:
    result = lacking(model=lambda self, params: nn.Linear(8, params["width"]))
    assert "model(params) does not work: KeyError: 'width'" in result.found
    assert "test_run_checks.py" in result.found
    assert "The hyperparameters given are: lr, weight_decay" in result.remedy


def test_a_loss_for_each_example_is_told() -> None:
    def loss(self: object, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    assert "it must return the batch's mean as a scalar, not shape [8]" in lacking(loss=loss).found


def test_an_unknown_optimizer_is_told() -> None:
    (result,) = ss.check(Blobs, {"optimizer": "sdg"}, quiet=True)
    assert result.status == "fail" and "no optimizer is called 'sdg'" in result.found


def test_a_hyperparameter_of_the_trainer_that_cannot_be_is_told() -> None:
    (result,) = ss.check(Blobs, {"batch_size": 0}, only=["overfit"], quiet=True)
    assert "the hyperparameter batch_size must be a whole number" in result.found


def test_an_error_in_the_middle_of_a_check_is_its_result() -> None:
    class Late(Blobs):
        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            raise ValueError("no metrics today")

    results = {result.name: result for result in ss.check(Late, PARAMS, quiet=True)}
    assert results["overfit"].status == "fail"
    assert results["overfit"].found.startswith("ValueError: no metrics today (test_run_checks")
    assert results["rates"].status == "pass"


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ss.TaskError, match="the device 'cuda:77' cannot be used here"):
        ss.check(Blobs, PARAMS, device="cuda:77", quiet=True)


def ask(**changes: object) -> tuple[list[dict[str, Any]], str]:
    request = {
        "task": "digits", "data": None, "params": {}, "space": {"lr": {"loguniform": [1e-6, 1e-5]}},
        "only": ["data", "initial_loss"], "device": "cpu", "seed": 0, "threads": 1, "paths": [],
        **changes,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "scattershot_worker.checks"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_process_tells_a_task_that_cannot_be_loaded() -> None:
    answers, _ = ask(task="nowhere:Nothing")
    assert answers[0]["error"].startswith("task 'nowhere:Nothing' cannot be imported")


def test_the_process_answers_a_line_for_each_result_whatever_the_task_prints(tmp_path: Any) -> None:
    (tmp_path / "loud.py").write_text(
        "import torch, scattershot as ss\n"
        "print('imported')\n"
        "class Loud(ss.Task):\n"
        "    def data(self):\n"
        "        print('data')\n"
        "        x = torch.randn(40, 3)\n"
        "        return ss.Data((x, torch.arange(40) % 2), (x + 1, torch.arange(40) % 2))\n"
        "    def model(self, params):\n"
        "        print('model')\n"
        "        return torch.nn.Linear(3, 2)\n"
    )
    answers, said = ask(task="loud:Loud", paths=[str(tmp_path)])
    results = [CheckResult.from_json(answer["result"]) for answer in answers]
    assert [result.name for result in results] == ["data", "initial_loss"]
    assert "imported" in said and "model" in said


class Misnamed(Blobs):
    """A task with a metric that cannot be reported."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": 0.5, "top\n5": 1.0}


def test_a_metric_that_would_be_refused_is_told_before() -> None:
    *_, result = ss.check(Misnamed(), PARAMS, quiet=True)
    assert (result.name, result.status) == ("task", "fail")
    assert result.found == (
        "metrics(outputs, targets) does not work: a metric cannot be called so: 'val_top\\n5' has "
        "characters that are not printable; return it under another name"
    )
