import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import scattershot as ss
from scattershot.task import Data, Task


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


def test_accuracy_of_nothing_is_nothing() -> None:
    assert Line().metrics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == {"accuracy": 0.0}


def test_the_optimizer_is_left_to_the_hyperparameters() -> None:
    task = Line()
    assert task.optimizer(task.model({}), {"optimizer": "adam"}) is None
