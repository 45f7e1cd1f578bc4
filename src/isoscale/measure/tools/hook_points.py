"""Where in a network a measurement looks: the end of the residual stream, pre-activations, the output.

Read off the computation graph, so that it works for any module: a value is seen where a submodule returns it or is
given it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from isoscale.graph.branches import residual_additions, residual_branches
from isoscale.graph.graph import Graph, members
from isoscale.graph.ops import NORMS, VIEWS
from isoscale.graph.trace import trace
from isoscale.measure.tools.observe import INPUT


@dataclass(frozen=True)
class HookPoints:
    """Names for `observe`.

    Attributes:
        stream: Where the residual stream is seen at its end; None if no submodule touches it.
        blocks: Where it is seen after each residual addition.
        branch: Modules whose outputs are pre-activations inside a branch: its linear layers but the last.
        owners: Modules that hold the weight of any linear layer inside a branch, the last one included.
        norms: Whether there is a norm, which divides by the size of the stream.
    """

    stream: str | None
    blocks: tuple[str, ...]
    branch: tuple[str, ...]
    owners: frozenset[str]
    norms: bool


def hook_points(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> HookPoints:
    """Trace a model and find where to look."""
    graph = trace(model, inputs)
    seen = _seen(graph)
    outputs = {node: name for name, node in graph.module_outputs.items()}

    # The stream after each residual addition, as far as a module returns it or is given it.
    blocks: list[str] = []
    for addition in sorted(residual_additions(graph)):
        at = _along(graph, addition, seen)
        if at is not None:
            blocks.append(seen[at])

    pre_activations: list[str] = []
    owners: set[str] = set()
    for branch in residual_branches(graph):
        for index in members(branch.nodes):
            for use in graph.nodes[index].uses:
                if use.kind == "map":
                    owners.add(use.name.rpartition(".")[0])
        # What the output projection returns is the branch's own output, no pre-activation.
        for index in members(branch.nodes & graph.maps):
            at = None if index in branch.last else _along(graph, index, outputs)
            if at is not None:
                pre_activations.append(outputs[at])

    return HookPoints(
        stream=blocks[-1] if blocks else None,
        blocks=tuple(dict.fromkeys(blocks)),
        branch=tuple(dict.fromkeys(pre_activations)),
        owners=frozenset(owners),
        norms=any(node.op in NORMS for node in graph.nodes),
    )


def _seen(graph: Graph) -> dict[int, str]:
    """Values that a submodule returns or is given, by node: what the first one returned, else was given."""
    seen: dict[int, str] = {}
    # Later entries win: outputs over inputs, and of each kind the first module's.
    for name, node in reversed(list(graph.module_inputs.items())):
        seen[node] = f"{INPUT}{name}"
    for name, node in reversed(list(graph.module_outputs.items())):
        seen[node] = name
    return seen


def _along(graph: Graph, index: int, seen: Mapping[int, str]) -> int | None:
    """The first node at or right after `index`, past views and norms, that is seen."""
    at = index
    while at not in seen:
        # Where it forks, the value goes on by itself: no view or norm of it stands for it.
        readers = graph.readers[at]
        if len(readers) != 1:
            return None
        at = readers[0]
        op = graph.nodes[at].op
        if op not in VIEWS and op not in NORMS:
            return None
    return at
