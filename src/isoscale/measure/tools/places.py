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
class Places:
    """Names for `observe`.

    Attributes:
        stream: Where the residual stream is seen at its end; None if no submodule touches it.
        blocks: Where it is seen after each residual addition.
        branch: Modules whose outputs are pre-activations inside a branch: its maps but the last.
        owners: Modules that hold the weight of any map inside a branch, the last one included.
    """

    stream: str | None
    blocks: tuple[str, ...]
    branch: tuple[str, ...]
    owners: frozenset[str]


def places(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> Places:
    """Trace a model and find where to look."""
    graph = trace(model, inputs)
    seen = _seen(graph)
    blocks = [
        seen[at] for addition in sorted(residual_additions(graph)) if (at := _along(graph, addition, seen)) is not None
    ]
    branches = residual_branches(graph)
    inner = [index for branch in branches for index in members(branch.nodes & graph.maps) if index not in branch.last]
    outputs = {node: name for name, node in graph.module_outputs.items()}
    branch = [outputs[at] for index in inner if (at := _along(graph, index, outputs)) is not None]
    uses = [use for branch in branches for index in members(branch.nodes) for use in graph.nodes[index].uses]
    return Places(
        stream=blocks[-1] if blocks else None,
        blocks=tuple(dict.fromkeys(blocks)),
        branch=tuple(dict.fromkeys(branch)),
        owners=frozenset(use.name.rpartition(".")[0] for use in uses if use.kind == "map"),
    )


def _seen(graph: Graph) -> dict[int, str]:
    """Values that a submodule returns or is given, by node: what the first one returned, else was given."""
    given = {node: f"{INPUT}{name}" for name, node in reversed(list(graph.module_inputs.items()))}
    return given | {node: name for name, node in reversed(list(graph.module_outputs.items()))}


def _along(graph: Graph, index: int, seen: Mapping[int, str]) -> int | None:
    """The first node at or right after `index`, past views and norms, that is seen."""
    at = index
    while at not in seen:
        after = [i for i in graph.readers[at] if graph.nodes[i].op in VIEWS or graph.nodes[i].op in NORMS]
        if len(graph.readers[at]) != 1 or not after:
            return None
        at = after[0]
    return at
