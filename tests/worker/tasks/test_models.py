import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scattershot_common.errors import TaskError
from scattershot_worker.tasks.models import IMAGES, TABULAR, TEXT, choose
from scattershot_worker.tasks.models.vision import mlp


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in model.parameters()]


# ---- the choice


def test_the_model_is_chosen_by_name_and_a_default_stands_for_none() -> None:
    table = {"small": 1, "large": 2}
    assert choose(table, {"model": "large"}, "small") == 2
    assert choose(table, {"hidden": 3}, "small") == 1


def test_an_unknown_model_is_told_with_those_that_there_are() -> None:
    with pytest.raises(TaskError) as caught:
        choose({"small": 1, "large": 2}, {"model": "lagre"}, "small")
    assert str(caught.value) == (
        "no model is called 'lagre' here; there are small, large; did you mean \"large\"?"
    )


# ---- what holds for all


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
def test_images_are_taken_flat_or_not_with_the_same_result(
    name: str, shape: tuple[int, int, int]
) -> None:
    model = IMAGES[name](shape, 7, {"channels": 4}).eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    outputs = model(x)
    assert outputs.shape == (3, 7)
    assert torch.equal(model(x.flatten(1)), outputs)


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "mlp"])
def test_the_first_loss_on_images_is_that_of_chance(name: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 3, 16, 16), torch.arange(64) % 10
    loss = nn.functional.cross_entropy(IMAGES[name]((3, 16, 16), 10, {})(x), y)
    assert loss.item() == pytest.approx(math.log(10), abs=0.1)


@pytest.mark.parametrize("name", TABULAR)
def test_rows_of_numbers_are_taken(name: str) -> None:
    assert TABULAR[name]((10,), 1, {})(torch.zeros(4, 10)).shape == (4, 1)


TEXTS: list[tuple[str, Mapping[str, Any]]] = [
    ("cnn", {"hidden": 8, "span": 3}),
    ("gru", {"hidden": 8, "layers": 2}),
    ("transformer", {"hidden": 8, "heads": 2, "layers": 2}),
]


@pytest.mark.parametrize(("name", "params"), TEXTS)
def test_every_symbol_of_a_text_counts(name: str, params: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    model = TEXT[name]((12, 9), 4, params).eval()
    text = torch.tensor([[3, 1, 4, 1, 5, 0, 0, 0, 0]])
    outputs = model(text)
    assert outputs.shape == (1, 4)
    for at in range(5):
        other = text.clone()
        other[0, at] = 9 + at % 2
        assert not torch.equal(model(other), outputs), f"symbol {at}"


@pytest.mark.parametrize(("name", "params"), TEXTS[1:])
def test_what_is_behind_a_texts_end_does_not_count(name: str, params: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    model = TEXT[name]((12, 9), 4, params).eval()
    text = torch.tensor([[3, 1, 4, 1, 5, 0, 0, 0, 0]])
    before = model(text)
    with torch.no_grad():
        dict(model.named_parameters())[EMBEDDINGS[name]][0] = 7.0
    assert torch.allclose(model(text), before)


EMBEDDINGS = {"gru": "embed.weight", "transformer": "0.embed.weight"}


@pytest.mark.parametrize("table", [IMAGES, TEXT], ids=["images", "text"])
def test_every_parameter_gets_a_gradient(table: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    for name, make in table.items():
        x: Tensor = torch.randn(8, 1, 8, 8) if table is IMAGES else torch.randint(1, 12, (8, 9))
        model = make((1, 8, 8) if table is IMAGES else (12, 9), 3, {"dropout": 0.1})
        model(x).logsumexp(1).sum().backward()
        for parameter, values in model.named_parameters():
            assert values.grad is not None and values.grad.any(), (name, parameter)


# ---- linear, cnn, resnet, transformer


def test_a_linear_model_is_one_layer() -> None:
    assert shapes(IMAGES["linear"]((3, 4, 4), 10, {"hidden": 64})) == [(10, 48), (10,)]


def test_the_cnn_is_as_wide_as_asked_for() -> None:
    model = IMAGES["cnn"]((3, 8, 8), 10, {"channels": 4, "hidden": 6, "dropout": 0.25})
    weights = [shape for shape in shapes(model) if len(shape) > 1]
    assert weights == [(4, 3, 3, 3), (8, 4, 3, 3), (6, 8 * 2 * 2), (10, 6)]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25]


def test_the_resnet_has_6n_plus_2_layers_and_carries_its_input_around_each_block() -> None:
    for blocks in (1, 2):
        model = IMAGES["resnet"]((3, 16, 16), 10, {"channels": 4, "blocks": blocks})
        weights = [shape for shape in shapes(model) if len(shape) > 1]
        layers = [shape for shape in weights if len(shape) == 2 or shape[-1] == 3]
        assert len(layers) == 6 * blocks + 2
        assert [shape for shape in weights if shape[2:] == (1, 1)] == [(8, 4, 1, 1), (16, 8, 1, 1)]
        assert shapes(model)[-2:] == [(10, 16), (10,)]
    block: Any = next(module for module in model.modules() if hasattr(module, "carry"))
    with torch.no_grad():
        for layer in block.body:
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.zero_()
    x = torch.rand(2, 4, 16, 16)
    assert torch.equal(block(x), x)


def test_a_transformers_width_is_divided_among_its_heads() -> None:
    with pytest.raises(TaskError, match="hidden = 10 cannot be divided among heads = 4"):
        TEXT["transformer"]((12, 9), 4, {"hidden": 10})


# ---- mlp


def kinds(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model.children()]


def test_the_network_is_as_deep_and_wide_as_asked_for() -> None:
    model = mlp((6,), 3, {"hidden": 5, "layers": 2, "dropout": 0.25})
    hidden = ["Linear", "ReLU", "Dropout"]
    assert kinds(model) == ["Flatten", *hidden, *hidden, "Linear"]
    assert [tuple(p.shape) for p in model.parameters()] == [
        (5, 6),
        (5,),
        (5, 5),
        (5,),
        (3, 5),
        (3,),
    ]
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.25, 0.25]


def test_by_default_the_network_has_one_layer_of_128_and_no_dropout() -> None:
    assert kinds(mlp((6,), 3, {})) == ["Flatten", "Linear", "ReLU", "Linear"]
    assert kinds(mlp((6,), 3, {"dropout": 0.0})) == kinds(mlp((6,), 3, {}))
    assert sum(p.numel() for p in mlp((6,), 3, {}).parameters()) == 6 * 128 + 128 + 128 * 3 + 3


def test_no_hidden_layer_is_a_linear_classifier() -> None:
    assert kinds(mlp((6,), 3, {"layers": 0})) == ["Flatten", "Linear"]


def test_weights_begin_as_he_et_al_have_it_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    first = next(m for m in mlp((500,), 10, {"hidden": 400}) if isinstance(m, nn.Linear))
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert not first.bias.any()
