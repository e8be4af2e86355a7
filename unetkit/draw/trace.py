"""The calls of a network's modules in one forward pass on tensors without content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

Node = Any
"""A node of autograd's graph: what computed a tensor."""


@dataclass(eq=False)
class Call:
    """One call of a module: `path` in the network, class as `kind`, and what came out.

    `results` are the autograd nodes of its outputs, `shapes` theirs, `inner` the calls made within; `idle` says that
    it handed on what came in.
    """

    path: str
    kind: str
    idle: bool = False
    results: list[Node] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    inner: list[Call] = field(default_factory=list)

    def within(self) -> Iterator[Call]:
        """Yield this call and all below it, in the order in which they ended."""
        for call in self.inner:
            yield from call.within()
        yield self


def trace(network: nn.Module, shape: Sequence[int]) -> Call:
    """Run a network of the meta device on an input [B, C, *S] and return its call with all inner ones."""
    root = Call("", "input")
    stack = [root]
    names = {module: path for path, module in network.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        call = Call(names[module], type(module).__name__)
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = stack.pop()
        call.results = _nodes(output)
        call.idle = bool(call.results) and set(call.results) <= set(_nodes((args, kwargs)))
        call.shapes = [tuple(t.shape) for t in _tensors(output)]

    hooks = [m.register_forward_pre_hook(enter) for m in names]
    hooks += [m.register_forward_hook(leave, with_kwargs=True) for m in names]
    # a product, so that the input is the result of a node too
    image = torch.zeros(tuple(shape), device="meta", requires_grad=True) * 1
    root.results, root.shapes = _nodes(image), [tuple(shape)]
    try:
        with torch.enable_grad():
            network.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    return root


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_iter(values) if isinstance(value, Tensor)]


def _nodes(values: Any) -> list[Node]:
    return [tensor.grad_fn for tensor in _tensors(values) if tensor.grad_fn is not None]


def feeds(call: Call, owners: dict[Node, int]) -> set[int]:
    """Return the owners of the nodes from which a call's results were computed, looking back no further than them."""
    found, seen, waiting = set(), set(), list(call.results)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in owners:
            found.add(owners[node])
        else:
            waiting += [before for before, _ in node.next_functions if before is not None]
    return found
