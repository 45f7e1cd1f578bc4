"""What a trace makes of a model's parameters, for tables of expected roles."""

from __future__ import annotations

from isoscale.graph.anatomy import from_graph
from isoscale.graph.trace import trace
from isoscale.models import Model
from isoscale.scaling.roles import Role


def roles_of(model: Model) -> dict[str, Role]:
    """Role of each parameter, by its name."""
    anatomy = from_graph(trace(model, model.example_inputs), dict(model.named_parameters()))
    return {name: part.role for name, part in anatomy.parts.items()}
