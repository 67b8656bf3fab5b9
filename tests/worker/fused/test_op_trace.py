"""Traces of functions: what a replay does again, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from scattershot_worker.fused.op_trace import trace


def test_a_replay_does_the_same_to_other_inputs() -> None:
    def step(w: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
        own = w.detach().requires_grad_()
        losses = vmap(lambda w, x: torch.tanh(x @ w).square().mean())(own, x)
        (grad,) = torch.autograd.grad(losses.sum(), [own])
        buffer.copy_(grad)
        return losses.detach()

    def inputs(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = ((3, 4, 2), (3, 5, 4))
        return [torch.randn(shape, generator=generator) for shape in shapes]

    buffer = torch.zeros(3, 4, 2)
    first = [*inputs(1), buffer]
    program, losses = trace(step, first, first)
    (w, x), (w2, x2) = inputs(1), inputs(2)
    assert torch.equal(losses, step(w, x, torch.zeros(3, 4, 2)))
    expected = torch.zeros(3, 4, 2)
    expected_losses = step(w2, x2, expected)
    assert torch.equal(program(w2, x2, buffer), expected_losses)
    assert torch.equal(buffer, expected)


def test_a_replay_writes_to_its_inputs_as_the_step_did() -> None:
    def step(x: Tensor, mean: Tensor) -> Tensor:
        before = mean * 2
        mean.copy_(x.sum(0))  # written to after it was read: not to be done sooner
        mean.add_(1)
        return before

    x, mean = torch.ones(2, 3), torch.ones(3)
    program, _ = trace(step, [x, mean], [x, mean])
    assert mean.tolist() == [3, 3, 3]
    assert program(x * 2, mean).tolist() == [6, 6, 6]
    assert mean.tolist() == [5, 5, 5]


def test_a_tensor_from_elsewhere_is_kept() -> None:
    table = torch.arange(3.0)
    x = torch.ones(3)
    program, _ = trace(lambda x: x * table, [x], [x])
    assert program(x * 2).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "step", [lambda x: x * x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero()]
)
def test_what_depends_on_values_is_refused(step: object) -> None:
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match="depends on the values"):
        trace(step, [x], [x])  # type: ignore[arg-type]
