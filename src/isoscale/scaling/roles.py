"""Roles: what a tensor does in its network, the first word of every rule."""

from __future__ import annotations

import enum

from isoscale.errors import unknown


class Role(enum.StrEnum):
    """What a tensor does in its network; the first word of every rule.

    A `stream_vector` is a gain or bias that acts on the residual stream itself, one after each block, as those of
    post-norm networks do. It is a vector in width; no trace takes one for it, `roles=` does.
    """

    INPUT = "input"
    HIDDEN = "hidden"
    BRANCH_INTERNAL = "branch_internal"
    BRANCH_LAST = "branch_last"
    OUTPUT = "output"
    VECTOR = "vector"
    BRANCH_VECTOR = "branch_vector"
    STREAM_VECTOR = "stream_vector"
    SCALAR = "scalar"

    @property
    def in_branch(self) -> bool:
        """Whether the tensor sits inside a residual branch: only these feel the depth."""
        return self in (Role.BRANCH_INTERNAL, Role.BRANCH_LAST, Role.BRANCH_VECTOR)

    @property
    def is_hidden_map(self) -> bool:
        """Whether both dimensions of the weight matrix grow with the width (Muon's matrices)."""
        return self in (Role.HIDDEN, Role.BRANCH_INTERNAL, Role.BRANCH_LAST)

    @property
    def decays(self) -> bool:
        """Whether weight decay acts on the tensor: on weight matrices, not on biases, gains and scalars."""
        return not self.is_vector and self is not Role.SCALAR

    @property
    def is_vector(self) -> bool:
        """Whether it is a bias or a gain, with one entry for each feature."""
        return self in (Role.VECTOR, Role.BRANCH_VECTOR, Role.STREAM_VECTOR)

    @property
    def width_role(self) -> Role:
        """The row of the width table: a branch map is a hidden map, a vector of a branch or of the stream a vector."""
        if self.is_hidden_map:
            return Role.HIDDEN
        return Role.VECTOR if self.is_vector else self


def check_role(role: Role | str) -> Role:
    """The role of that name; raises InvalidValueError naming the nearest."""
    try:
        return Role(role)
    except ValueError:
        raise unknown("role", role, list(Role)) from None
