"""Tracing of a function's tensor operations into a flat program that replays them.

While the function runs, a `TorchDispatchMode` records every operation below autograd and `vmap`:
replaying them skips both, whose overhead is most of what small networks cost.
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
#: Tags of operations whose results have values or shapes that a trace would freeze.
_DATA_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
#: Operations that are left out where shape and strides stay as they are.
_VIEWS = (
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.slice.Tensor,
)
_ALIASES = (_aten.detach.default, _aten.alias.default)
#: Operations that can write their result straight into another tensor (`out=`).
_WITH_OUT: dict[Any, Callable[..., Tensor]] = {
    _aten.bmm.default: torch.bmm,
    _aten.sum.dim_IntList: torch.sum,
}


def trace(
    function: Callable[..., Any], inputs: Sequence[Tensor], arguments: Sequence[Any]
) -> tuple[Callable[..., Any], Any]:
    """Call a function; return a program over `inputs` that does the same again, and its result.

    `inputs` are all tensors in `arguments`, whatever lists they are in. Inputs that are written
    to are written to by the program as well. The result is a tensor or a tuple of tensors; the
    program takes the inputs as separate arguments.

    Raises:
        RuntimeError: what the function does depends on values of its tensors.
    """
    recorder = _Recorder(inputs)
    with recorder:
        result = function(*arguments)
    return recorder.program(result), result


class _Recorder(TorchDispatchMode):
    """Records the operations that are called while it is active."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = Graph()
        self._nodes: dict[int, Node] = {}
        #: Every tensor met: an id is unique only while its tensor lives.
        self._alive: list[Tensor] = []
        self._constants: dict[str, Tensor] = {}
        for number, tensor in enumerate(inputs):
            self._add(tensor, self._graph.placeholder(f"input_{number}"))

    def _add(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation and record it."""
        if any(tag in func.tags for tag in _DATA_DEPENDENT):
            raise RuntimeError(f"{func} depends on the values of a tensor")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _ALIASES or (func in _VIEWS and _same_layout(args[0], result)):
            self._add(result, self._node(args[0]))
            return result
        node = self._graph.call_function(
            func,
            self._argument(args),
            {key: self._argument(value) for key, value in kwargs.items()},
        )
        if isinstance(result, Tensor):
            self._add(result, node)
        elif isinstance(result, (tuple, list)):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._add(part, self._graph.call_function(operator.getitem, (node, index)))
        return result

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, (tuple, list)):
            return type(value)(map(self._argument, value))
        return value

    def _node(self, tensor: Tensor) -> Node:
        if (node := self._nodes.get(id(tensor))) is None:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = tensor
            node = self._graph.get_attr(name)
            self._add(tensor, node)
        return node

    def program(self, result: Tensor | tuple[Tensor, ...]) -> Callable[..., Any]:
        """Return the recorded operations as a function of the inputs."""
        graph = self._graph
        graph.output(self._argument(result))
        _write_in_place(graph)
        for node in reversed([*graph.nodes]):
            if node.op == "call_function" and not node.users and _pure(node):
                graph.erase_node(node)
        for node in graph.nodes:
            if node.op == "call_function" and node.target in _FAST_NAMES and not node.kwargs:
                node.target = _FAST_NAMES[node.target]
        program: Callable[..., Any] = GraphModule(self._constants, graph).forward
        return program


def _same_layout(before: Tensor, after: Tensor) -> bool:
    return before.shape == after.shape and before.stride() == after.stride()


def _pure(node: Node) -> bool:
    """Return whether an operation has no side effects."""
    schema = getattr(node.target, "_schema", None)
    return node.target is operator.getitem or (schema is not None and not schema.is_mutable)


def _write_in_place(graph: Graph) -> None:
    """Compute a result in place where it is only copied to an input."""
    for node in [*graph.nodes]:
        if node.target is not _aten.copy_.default or node.users:
            continue
        target, source = node.args[0], node.args[1]
        if target.op != "placeholder" or len(target.users) > 1:  # read or written elsewhere too
            continue
        if source.target not in _WITH_OUT or len(source.users) > 1:
            continue
        with graph.inserting_before(source):
            write = _WITH_OUT[source.target]
            graph.call_function(write, source.args, {**source.kwargs, "out": target})
        graph.erase_node(node)
        graph.erase_node(source)


def _fast_names() -> dict[Any, Any]:
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


#: Operations that have a function or method with less overhead per call.
_FAST_NAMES = _fast_names()
