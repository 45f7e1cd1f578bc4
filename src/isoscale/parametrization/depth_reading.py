"""Why the ratio of two depths may not be what the traces of target and base say it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from isoscale.graph.anatomy import Anatomy, block_pattern
from isoscale.parametrization.sizes import Base
from isoscale.scaling.roles import Role


def doubts(anatomy: Anatomy, base: Base, pairs: Mapping[str, str]) -> Iterator[str]:
    """Each thing that makes the depth ratio doubtful, with the way out.

    Args:
        anatomy: The target, traced.
        base: The base, traced.
        pairs: For each parameter of the target its counterpart in the base.
    """
    yield from _other_streams(anatomy, base, pairs)
    yield from _nested(anatomy, base)
    yield from _outside(anatomy, base)


def _other_streams(anatomy: Anatomy, base: Base, pairs: Mapping[str, str]) -> Iterator[str]:
    """A tensor is in a branch of the target, and its counterpart in none, or elsewhere in it."""
    if base.roles is None:
        return
    differing = [name for name, other in pairs.items() if _differ(anatomy.parts[name].role, base.roles[other])]
    if not differing:
        return
    name = differing[0]
    role, there = anatomy.parts[name].role, base.roles[pairs[name]]
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    yield (
        f"`{name}`{more} is {role} here, and its counterpart in the base, `{pairs[name]}`, {there}: with so few blocks "
        "one cannot tell which of its residual additions repeat. Give a base with two blocks or more of each kind, and "
        "one more where the first adds to zeros or to a learned tensor, which is no residual addition"
    )


def _differ(role: Role, there: Role) -> bool:
    if not (role.in_branch or there.in_branch):
        return False
    if Role.SCALAR in (role, there):
        return False
    return role is not there


def _nested(anatomy: Anatomy, base: Base) -> Iterator[str]:
    if base.nested is None or base.nested == anatomy.nested:
        return
    yield (
        f"residual branches hold {_numbers(anatomy.nested)} residual additions of their own, and in the base "
        f"{_numbers(base.nested)}: which of the two streams is the depth is unknown. Keep the number inside a branch, "
        "and scale the number of branches"
    )


def _numbers(counts: tuple[int, ...]) -> str:
    return " or ".join(map(str, counts)) or "no"


def _outside(anatomy: Anatomy, base: Base) -> Iterator[str]:
    patterns = {block_pattern(block) for block in anatomy.outside}
    there: set[str] = set()
    for name in base.shapes:
        there |= {match[0] for pattern in patterns if (match := pattern.match(name))}
    if len(there) == len(anatomy.outside):
        return
    first, last = anatomy.outside[0], anatomy.outside[-1]
    yield (
        f"{len(anatomy.outside)} blocks (`{first}` to `{last}`) look residual and lie in no branch that the trace can "
        "read, so that their depth is unknown. Write them as `x + branch(x)`, where nothing else is done to x, or "
        "keep their number"
    )
