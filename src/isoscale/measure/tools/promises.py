"""What a rule promises of one optimizer step, as powers of the width and of the depth, from the rule's own table.

With the exponents of the table (init s, multiplier c, learning rate e), the coherent sums of docs/theory.md, section 5,
and g the power of the gradient at the value z that a tensor makes:

    start    z before the step                 c + s, and 1/2 for a random sum over fan_in
    update   what the step changes in z        entrywise  c + e,      and 1 for a coherent sum over fan_in
                                               spectral   c + e
                                               linear     2c + e + g, and 1 for a coherent sum over fan_in
    loss     what that changes in the loss     update + g, and 1 for each sum that a kind of tensor has: over the units
                                               of z (in width) and over its branches (in depth)

Their combinations tell where a deviation comes from. The "gain" is the start over the size of the data that a weight
matrix meets. The "action", what a tensor's own learning rate and multiplier do, is the update over that size, and where
steps are proportional to the gradient once more over it and over the gradient. The "gradient" is loss / update, what
the rest of the network does with a change.

In width the gradient at a feature has passed the readout: g = c + s of the output role; at the output itself g = 0. In
depth the gradient at the end of a branch is free of the depth, and inside it has passed the branch's output projection.
Everything is flat under muP and CompleteP, but for the readout's start, n^-1/2. Depth-muP promises inner updates that
fade like L^-1/2, and says so here.
"""

from __future__ import annotations

from collections.abc import Mapping

from isoscale.scaling.optimizers import FAMILIES
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule, WidthRow
from isoscale.scaling.tensor import TensorPlan

START, UPDATE, LOSS = "start", "update", "loss"
GAIN, ACTION, GRADIENT = "gain", "action", "gradient"
QUANTITIES = (START, UPDATE, LOSS, GAIN, ACTION, GRADIENT)
Powers = Mapping[str, float]


def promised(rule: Rule, entry: TensorPlan, role: Role, axis: str, *, tied: bool = False) -> Powers:
    """The power of each quantity along an axis, "width" or "depth"; along any other every one stays.

    Args:
        rule: The rule.
        entry: The tensor.
        role: What it is taken to do: its own role, or another that is tried.
        axis: The size that grows.
        tied: Whether the readout is the embedding, and starts like one.

    >>> from isoscale.scaling import rules
    >>> class entry: optimizer, carries, fan_in, fan_out = "adamw", False, 4.0, 4.0
    >>> promised(rules.get("mup"), entry, Role.HIDDEN, "width")["update"]
    0.0
    >>> promised(rules.get("depth-mup"), entry, Role.BRANCH_INTERNAL, "depth")["update"]
    -0.5
    """
    if axis == "width":
        return _in_width(rule, entry, role, tied)
    if axis == "depth":
        return _in_depth(rule, entry, role)
    return dict.fromkeys(QUANTITIES, 0.0)


def promises_depth(rule: Rule) -> bool:
    """Whether the rule promises anything of the depth: only one whose branches shrink does."""
    return rule.depth.branch < 0


def _in_width(rule: Rule, entry: TensorPlan, role: Role, tied: bool) -> Powers:
    readout = rule.width.get(Role.OUTPUT, WidthRow())
    drawn_as = rule.width.get(Role.INPUT, WidthRow()) if tied else readout
    role = _row_of(entry, role)
    row = FAMILIES[entry.optimizer]
    powers = rule.width.get(role.width_role, WidthRow()).exponents(row)
    sums_inputs = role.is_hidden_map or role is Role.OUTPUT
    has_units = role not in (Role.OUTPUT, Role.SCALAR)
    # The gradient at a feature has passed the readout, and every unit has one.
    gradient = readout.multiplier + drawn_as.init_std if has_units else 0.0
    start = powers.multiplier + powers.init_std + 0.5 * sums_inputs
    update = powers.multiplier + powers.lr
    if row.answer == "spectral":
        # Whatever the sides of a matrix, its step has a spectral norm of the right size.
        update = rule.width.get(Role.HIDDEN, WidthRow()).exponents(row).lr
    else:
        update += sums_inputs
    action = update
    if row.answer == "linear":
        action += powers.multiplier - has_units
        update += powers.multiplier + gradient
    return _all(start, update, action, gradient + has_units)


def _row_of(entry: TensorPlan, role: Role) -> Role:
    """The row that the two sides of a matrix leave of its role: one that sums over a fixed size is an input layer, one
    onto a fixed size an output layer, and only that may begin small."""
    if role.is_hidden_map and entry.fan_in != entry.fan_out:
        if entry.fan_in == 1:
            return Role.INPUT
        if entry.fan_out == 1:
            return Role.OUTPUT
    if role is Role.OUTPUT and entry.fan_out != 1:
        return Role.HIDDEN
    return role


def _in_depth(rule: Rule, entry: TensorPlan, role: Role) -> Powers:
    table = rule.depth
    row = FAMILIES[entry.optimizer]
    if role is Role.STREAM_VECTOR:
        # As many as blocks, each of which acts on what reaches the output as it is.
        return _all(0.0, table.stream, table.stream - (row.answer == "linear"), 1.0)
    if not role.in_branch:
        return dict.fromkeys(QUANTITIES, 0.0)
    # Where a norm follows the branch's last linear layer, that carries the multiplier.
    ends = entry.carries
    multiplier = table.branch if ends else 0.0
    # A gradient inside a branch has passed through its end.
    gradient = 0.0 if ends else table.branch + table.init_last
    lr = table.exponents(role, row).lr
    update = multiplier + lr
    action = update
    if row.answer == "linear":
        # As many tensors as blocks: the gradient of the kind has one power more than that of each.
        action += multiplier - 1
        update += multiplier + gradient
    drawn = table.exponents(role, row).init_std
    return _all(multiplier + drawn, update, action, gradient + 1)


def _all(start: float, update: float, action: float, gradient: float) -> Powers:
    return {
        START: start,
        GAIN: start,
        UPDATE: update,
        LOSS: update + gradient,
        ACTION: action,
        GRADIENT: gradient,
    }
