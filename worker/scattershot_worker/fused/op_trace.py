"""Owns the recording of a step: the tensor operations it comes to, as a flat program to replay.

While a step is done for real, a `TorchDispatchMode` writes down every operation below autograd and
`vmap`: replaying them skips both, whose overhead is most of what small networks cost.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
#: Tags of operations that a recording would bake a value or a shape into.
_BAKED = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
#: Operations that leave a tensor as it is, where its shape stays.
_VIEWS = (
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.slice.Tensor,
)
_SAME = (_aten.detach.default, _aten.alias.default)
#: Operations whose result can be written to where it is wanted.
_WRITES: dict[Any, Callable[..., Tensor]] = {
    _aten.bmm.default: torch.bmm,
    _aten.sum.dim_IntList: torch.sum,
}


def record(
    step: Callable[..., Any], inputs: Sequence[Tensor], arguments: Sequence[Any]
) -> tuple[Callable[..., Any], Any]:
    """Do a step; return a function of `inputs` that does the same again, and its result.

    `inputs` are all tensors in `arguments`, in whatever lists those are. Inputs that are written
    to are written to by the replay as well. The result is a tensor or a tuple of some; the
    function takes its inputs one by one.

    Raises:
        RuntimeError: what the step does depends on values of its tensors.
    """
    tape = _Tape(inputs)
    with tape:
        result = step(*arguments)
    return tape.program(result), result


class _Tape(TorchDispatchMode):
    """Writes down what is called while it is on."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = Graph()
        self._nodes: dict[int, Node] = {}
        #: Every tensor met: while it lives its id is its own.
        self._alive: list[Tensor] = []
        self._constants: dict[str, Tensor] = {}
        for number, one in enumerate(inputs):
            self._know(one, self._graph.placeholder(f"input_{number}"))

    def _know(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation and write it down."""
        if any(tag in func.tags for tag in _BAKED):
            raise RuntimeError(f"{func} depends on the values of a tensor")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _SAME or (func in _VIEWS and _alike(args[0], result)):
            self._know(result, self._node(args[0]))
            return result
        node = self._graph.call_function(
            func, self._word(args), {key: self._word(one) for key, one in kwargs.items()}
        )
        if isinstance(result, Tensor):
            self._know(result, node)
        elif isinstance(result, (tuple, list)):
            for index, one in enumerate(result):
                if isinstance(one, Tensor):
                    self._know(one, self._graph.call_function(operator.getitem, (node, index)))
        return result

    def _word(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, (tuple, list)):
            return type(value)(map(self._word, value))
        return value

    def _node(self, tensor: Tensor) -> Node:
        if (node := self._nodes.get(id(tensor))) is None:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = tensor
            node = self._graph.get_attr(name)
            self._know(tensor, node)
        return node

    def program(self, result: Tensor | tuple[Tensor, ...]) -> Callable[..., Any]:
        """Return what was written down as a function of the inputs."""
        graph = self._graph
        graph.output(self._word(result))
        _write_in_place(graph)
        for node in reversed([*graph.nodes]):
            if node.op == "call_function" and not node.users and _pure(node):
                graph.erase_node(node)
        for node in graph.nodes:
            if node.op == "call_function" and node.target in _QUICK and not node.kwargs:
                node.target = _QUICK[node.target]
        program: Callable[..., Any] = GraphModule(self._constants, graph).forward
        return program


def _alike(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and before.stride() == after.stride()


def _pure(node: Node) -> bool:
    """Return whether an operation has no effect but its result."""
    schema = getattr(node.target, "_schema", None)
    return node.target is operator.getitem or (schema is not None and not schema.is_mutable)


def _write_in_place(graph: Graph) -> None:
    """Let what is computed only to be copied to an input be computed there."""
    for node in [*graph.nodes]:
        if node.target is not _aten.copy_.default or node.users:
            continue
        target, source = node.args[0], node.args[1]
        if target.op != "placeholder" or len(target.users) > 1:  # read or written elsewhere too
            continue
        if source.target not in _WRITES or len(source.users) > 1:
            continue
        with graph.inserting_before(source):
            write = _WRITES[source.target]
            graph.call_function(write, source.args, {**source.kwargs, "out": target})
        graph.erase_node(node)
        graph.erase_node(source)


def _quick() -> dict[Any, Any]:
    tensor = torch.Tensor
    return {
        _aten.view.default: tensor.view,
        _aten._unsafe_view.default: tensor.view,
        _aten.transpose.int: tensor.transpose,
        _aten.unsqueeze.default: tensor.unsqueeze,
        _aten.expand.default: tensor.expand,
        _aten.permute.default: tensor.permute,
        _aten.select.int: tensor.select,
        _aten.bmm.default: torch.bmm,
        _aten.baddbmm.default: torch.baddbmm,
        _aten.relu.default: torch.relu,
        _aten.mul.Tensor: torch.mul,
        _aten.add.Tensor: torch.add,
        _aten.sub.Tensor: torch.sub,
        _aten.div.Tensor: torch.div,
        _aten.cat.default: torch.cat,
        _aten.stack.default: torch.stack,
        _aten.exp.default: torch.exp,
        _aten.clone.default: torch.clone,
    }


#: Operations that a replay calls by a name with less of a way to go.
_QUICK = _quick()
