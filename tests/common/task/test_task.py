import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import scattershot as ss
from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task


class Line(Task):
    def data(self) -> Data:
        x = torch.ones(2, 1)
        return Data((x, x), (x, x))

    def model(self, params: Any) -> nn.Module:
        return nn.Linear(1, 1)


class Slope(Line):
    kind = "regression"


OUTPUTS = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5], [0.2, 0.1]])
CLASSES = torch.tensor([0, 1, 1, 0])


def test_the_face_gives_users_all_they_write_a_task_with() -> None:
    assert (ss.Task, ss.Data) == (Task, Data)


def test_importing_the_face_does_not_import_torch() -> None:
    program = (
        "import sys, scattershot; from scattershot import Task, Data; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_task_without_data_or_model_cannot_be_made() -> None:
    class Half(Task):
        def data(self) -> Data:
            raise NotImplementedError

    with pytest.raises(TypeError, match="model"):
        Half()  # type: ignore[abstract]


def test_a_task_knows_the_folder_of_its_data() -> None:
    assert Line(Path("data")).folder == Path("data")
    assert Line().folder is None


def test_classification_is_the_default_with_cross_entropy_and_accuracy() -> None:
    task = Line()
    assert torch.equal(task.loss(OUTPUTS, CLASSES), functional.cross_entropy(OUTPUTS, CLASSES))
    assert task.metrics(OUTPUTS, CLASSES) == {"accuracy": 0.75}


def test_predictions_of_a_classifier_are_probabilities() -> None:
    predictions = Line().predictions(OUTPUTS)
    assert torch.equal(predictions, OUTPUTS.softmax(1))
    assert torch.allclose(predictions.sum(1), torch.ones(4))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_regression_errors_pair_each_output_with_its_own_target(shape: tuple[int, ...]) -> None:
    """[N, 1] against [N] would broadcast to [N, N]."""
    task, outputs = Slope(), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    targets = torch.tensor([1.0, 2.0, 3.0, 8.0]).view(shape)
    assert task.loss(outputs, targets).item() == 4.0
    assert task.metrics(outputs, targets) == {"rmse": 2.0, "mae": 1.0}
    assert torch.equal(task.predictions(outputs), outputs)


def test_accuracy_of_dense_predictions_counts_every_place() -> None:
    outputs, targets = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)
    targets[0, 0] = 1
    assert Line().metrics(outputs, targets) == {"accuracy": 5 / 6}


class Words(Line):
    """A loss of its own, with classes last."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def test_classes_are_the_second_axis_as_cross_entropy_has_them() -> None:
    targets = torch.randint(3, (2, 3, 3))
    outputs = functional.one_hot(targets, 3).movedim(-1, 1).float()  # where each axis is 3
    assert Line().metrics(outputs, targets) == {"accuracy": 1.0}
    assert torch.equal(Line().predictions(outputs), outputs.softmax(1).movedim(1, -1))
    assert Line().loss(outputs, targets).isfinite()


def test_classes_may_be_last_under_a_loss_of_ones_own() -> None:
    targets = torch.randint(3, (2, 3))
    outputs = functional.one_hot(targets, 3).float()
    assert Words().metrics(outputs, targets) == {"accuracy": 1.0}
    assert torch.equal(Words().predictions(outputs), outputs.softmax(-1))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([0, 1, 1, 1]),
        torch.tensor([False, True, True, True]),
        torch.tensor([0.0, 1.0, 1.0, 0.9]),
        torch.tensor([-1, 1, 1, 1]),
    ],
)
def test_one_output_for_each_target_is_a_logit(shape: tuple[int, ...], targets: Tensor) -> None:
    outputs = torch.tensor([-2.0, 0.3, 0.7, -0.1]).view(shape)
    for given in (targets, targets[:, None]):
        assert Words().metrics(outputs, given) == {"accuracy": 0.75}
    assert torch.equal(Words().predictions(outputs), outputs.sigmoid())


def test_the_labels_of_several_questions_are_told_apart_each_by_its_output() -> None:
    outputs, targets = torch.tensor([[2.0, -1.0], [3.0, 4.0]]), torch.tensor([[1.0, 1], [1, 1]])
    assert Words().metrics(outputs, targets) == {"accuracy": 0.75}


def test_soft_labels_are_right_where_both_have_their_largest() -> None:
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
    assert Line().metrics(OUTPUTS, soft) == {"accuracy": 0.75}
    assert Line().loss(OUTPUTS, soft) == functional.cross_entropy(OUTPUTS, soft.float())


def test_what_cross_entropy_leaves_out_is_neither_right_nor_wrong() -> None:
    targets = torch.tensor([0, -100, -100, 1])
    assert Line().metrics(OUTPUTS, targets) == {"accuracy": 0.5}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16, torch.bool])
def test_labels_may_be_of_any_integer_type_and_a_column(dtype: torch.dtype) -> None:
    expected = functional.cross_entropy(OUTPUTS, CLASSES)
    for targets in (CLASSES.to(dtype), CLASSES.to(dtype)[:, None]):
        assert torch.equal(Line().loss(OUTPUTS, targets), expected)
        assert Line().metrics(OUTPUTS, targets) == {"accuracy": 0.75}


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (OUTPUTS[:, :1], CLASSES, "override loss\\(\\), as by binary_cross_entropy_with_logits"),
        (OUTPUTS[:, 0], CLASSES, "an output for each class \\(outputs \\[4\\], targets \\[4\\]\\)"),
        (OUTPUTS, CLASSES.float(), 'not float32 .*: give y.long\\(\\), or say kind = "regression"'),
        (torch.zeros(4, 6, 9), torch.zeros(4, 6).long(), "its classes as the second axis"),
    ],
)
def test_what_cross_entropy_cannot_take_is_told(
    outputs: Tensor, targets: Tensor, said: str
) -> None:
    with pytest.raises(TaskError, match=said):
        Line().loss(outputs, targets)


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (OUTPUTS[:, :1], torch.tensor([0, 1, 2, 3]), "targets go from 0 to 3 .* override metrics"),
        (OUTPUTS[:, :1], torch.tensor([0.1, -0.5, 1, 1]), 'say kind = "regression"'),
        (torch.zeros(4, 5), torch.zeros(4, 2), "cannot tell which outputs belong to which"),
    ],
)
def test_what_accuracy_has_no_meaning_for_is_told(
    outputs: Tensor, targets: Tensor, said: str
) -> None:
    with pytest.raises(TaskError, match=said):
        Words().metrics(outputs, targets)


def test_a_regression_needs_an_output_for_each_target() -> None:
    for method in (Slope().loss, Slope().metrics):
        with pytest.raises(TaskError, match="an output for each target"):
            method(OUTPUTS, CLASSES.float())


def test_accuracy_of_nothing_is_nothing() -> None:
    assert Line().metrics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == {"accuracy": 0.0}


def test_the_optimizer_is_left_to_the_hyperparameters() -> None:
    task = Line()
    assert task.optimizer(task.model({}), {"optimizer": "adam"}) is None
