"""What the forwards of target and base multiply by, compared: numbers that depend on the size.

A number that is the same in both is part of the architecture. One that differs is a multiplier that the target has
already, and what a rule asks for is asked of the two together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from isoscale.errors import PlanError
from isoscale.graph.anatomy import Anatomy
from isoscale.graph.attention import Attention
from isoscale.graph.factors import LOGITS, READOUT
from isoscale.parametrization.sizes import Base
from isoscale.scaling.tensor import TensorFacts, starred

# A number may have been kept in single precision.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Logits:
    """One attention beside its counterpart in the base.

    Attributes:
        attention: The target's.
        head_size: Size of its heads, target / base.
        base_scale: What the base multiplies its logits by.
        forward: What the forward multiplies them by, target / base.
    """

    attention: Attention
    head_size: float
    base_scale: float
    forward: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The forward of a target beside its base's.

    Attributes:
        multipliers: By place, what base and target multiply by, where the two differ.
        logits: One for each attention of the target.
        uses: How often each parameter acts, target / base.
        notes: What could not be read or compared.
    """

    multipliers: Mapping[str, tuple[float, float]]
    logits: tuple[Logits, ...] = ()
    uses: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def ratio(self, place: str) -> float:
        """What the forward multiplies by at a place, target / base."""
        if place not in self.multipliers:
            return 1.0
        base, target = self.multipliers[place]
        # Weights are drawn alike with either sign.
        return abs(target / base)

    @property
    def head_size(self) -> float:
        """Target / base size of the attention heads; of most attentions, if they differ."""
        counts = Counter(one.head_size for one in self.logits)
        return max(counts, key=lambda ratio: (counts[ratio], ratio), default=1.0)

    def completed(self, facts: TensorFacts) -> TensorFacts:
        """A tensor's facts with what the forwards say of it."""
        logits = next((one for one in self.logits if facts.name in one.attention.foldable_into), None)
        return replace(
            facts,
            forward=self.ratio(facts.name),
            head_size=logits.head_size if logits else 1.0,
            logits=logits.forward if logits else 1.0,
            uses=self.uses.get(facts.name, 1.0),
        )


def compare(anatomy: Anatomy, base: Base, pairs: Mapping[str, str], facts: Sequence[TensorFacts]) -> Comparison:
    """Compare the forwards.

    Args:
        anatomy: Of the target.
        base: The base.
        pairs: For each parameter of the target its counterpart.
        facts: Of the target's parameters.

    Raises:
        PlanError: Attentions that share a query weight need multipliers that differ, or do not correspond.
    """
    multipliers, notes = _multipliers(anatomy, base, pairs, facts)
    irregular = _irregular_scales(anatomy, base)
    for kind in sorted(irregular):
        notes.append(
            f"what the forward multiplies the attention logits of `{kind}` by differs from block to block: not counted"
        )
    logits = tuple(_logits(anatomy, base, pairs, irregular))
    for one in logits:
        if not math.isclose(one.forward, 1.0, rel_tol=_ROUNDING):
            multipliers[one.attention.name + LOGITS] = (one.base_scale, one.base_scale * one.forward)
    uses: dict[str, float] = {}
    for name, number in anatomy.uses.items():
        before = None if base.uses is None else base.uses.get(pairs[name])
        if before:
            uses[name] = number / before
    return Comparison(multipliers=multipliers, logits=logits, uses=uses, notes=tuple(notes))


# --- multipliers at parameters ---
def _multipliers(
    anatomy: Anatomy, base: Base, pairs: Mapping[str, str], facts: Sequence[TensorFacts]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    there = base.factors
    here = anatomy.factors.places
    if there is None:
        if not here:
            return {}, []
        return {}, [
            "the base was not traced: what its forward multiplies by (the target's does, at "
            f"{_listed(here)}) is taken to be free of its size. Give the base as a module, or "
            "isoscale.shapes(base, example_inputs)"
        ]
    found: dict[str, tuple[float, float]] = {}
    unknown: list[str] = []
    places = {place: _counterpart(place, pairs, there) for place in here}
    for name, other in pairs.items():
        for suffix in ("", READOUT):
            if other + suffix in there:
                places[name + suffix] = other + suffix
    for place, other in places.items():
        pair = there.get(other, 1.0), here.get(place, 1.0)
        if pair[0] is None or pair[1] is None:
            unknown.append(place)
        elif not math.isclose(pair[0], pair[1], rel_tol=_ROUNDING):
            found[place] = pair[0], pair[1]
    notes: list[str] = []
    if unknown:
        notes.append(
            f"the forward multiplies by a number that cannot be read, or by several, at {_listed(unknown)}: taken to "
            "be free of the size"
        )
    for kind in _irregular(facts, pairs, found, there, here):
        notes.append(f"what the forward multiplies `{kind}` by differs from block to block: not counted")
    if not _alike(anatomy.factors.elsewhere, base.elsewhere):
        notes.append(
            f"the forward multiplies by {_numbers(anatomy.factors.elsewhere)} and, in the base, by "
            f"{_numbers(base.elsewhere)} where no parameter takes it (the residual stream, a product of activations, "
            "behind a nonlinearity): not counted"
        )
    return found, notes


def _counterpart(place: str, pairs: Mapping[str, str], there: Mapping[str, float | None]) -> str:
    """The base's name of a place."""
    name, suffix, _ = place.partition(" ")
    rest = place[len(name) :] if suffix else ""
    if name in pairs:
        return pairs[name] + rest
    # A Multiplier is no parameter: the one of any block answers.
    return next((other for other in there if starred(other) == starred(place)), place)


def _irregular(
    facts: Sequence[TensorFacts],
    pairs: Mapping[str, str],
    found: dict[str, tuple[float, float]],
    there: Mapping[str, float | None],
    here: Mapping[str, float | None],
) -> Iterator[str]:
    """Kinds of tensors whose factors differ between blocks, as 1/sqrt(layer) does; they are removed from `found`."""
    kinds: dict[str, list[str]] = {}
    for one in facts:
        kinds.setdefault(one.kind, []).append(one.name)
    for kind, names in kinds.items():
        own = {here.get(name, 1.0) for name in names}
        others = {there.get(pairs[name], 1.0) for name in names}
        if (len(own) > 1 or len(others) > 1) and any(name in found for name in names):
            for name in names:
                found.pop(name, None)
            yield kind


def _alike(these: Sequence[float], those: Sequence[float]) -> bool:
    if len(these) != len(those):
        return False
    return all(math.isclose(a, b, rel_tol=_ROUNDING) for a, b in zip(these, those, strict=True))


def _listed(places: Sequence[str] | Mapping[str, object]) -> str:
    shown = [f"`{place}`" for place in list(places)[:3]]
    return ", ".join([*shown, "..."] if len(places) > 3 else shown)


def _numbers(factors: Sequence[float]) -> str:
    return ", ".join(f"{factor:.4g}" for factor in factors) or "none"


# --- attention ---
def _irregular_scales(anatomy: Anatomy, base: Base) -> set[str]:
    """Kinds of attentions whose scale depends on the block as well, as 1/layer does: none answers to another."""
    names, sizes, scales = base.queries or (), base.head_sizes or (), base.logit_scales or ()
    if len(names) == len(anatomy.attentions):
        return set()
    kinds: dict[str, set[float]] = {}
    known = [(one.name, one.head_size, one.scale) for one in anatomy.attentions]
    # Those of a target differ from the base's by one ratio, so each model is looked at by itself.
    for prefix, attentions in (("", known), ("base ", zip(names, sizes, scales, strict=False))):
        for name, size, scale in attentions:
            relative = 1.0 if scale is None else scale * size**0.5
            kinds.setdefault(prefix + starred(name), set()).add(float(f"{relative:.6g}"))
    return {kind.removeprefix("base ") for kind, found in kinds.items() if len(found) > 1}


def _logits(anatomy: Anatomy, base: Base, pairs: Mapping[str, str], irregular: set[str]) -> Iterator[Logits]:
    multiplied: dict[str, Logits] = {}
    for position, attention in enumerate(anatomy.attentions):
        head_size, scale = _base_attention(attention, position, anatomy, base, pairs)
        ratio = attention.head_size / head_size
        forward = ratio**-0.5
        # Where a scale cannot be read it is taken to be torch's own.
        if attention.scale is not None and scale is not None and starred(attention.name) not in irregular:
            forward = _as_power(attention.scale / scale, ratio)
        one = Logits(
            attention=attention,
            head_size=ratio,
            base_scale=head_size**-0.5 if scale is None else scale,
            forward=forward,
        )
        for name in attention.foldable_into | attention.packed:
            other = multiplied.setdefault(name, one)
            if (other.head_size, other.forward) != (one.head_size, one.forward):
                raise PlanError(
                    f"attentions whose queries `{name}` makes have head sizes that grow by x{other.head_size:g} and "
                    f"x{one.head_size:g} and logits that the forward scales by x{other.forward:g} and "
                    f"x{one.forward:g}: one tensor cannot take two multipliers. Give each its own weight"
                )
        yield one


def _base_attention(
    attention: Attention, position: int, anatomy: Anatomy, base: Base, pairs: Mapping[str, str]
) -> tuple[int, float | None]:
    """Head size and scale of the logits of what answers to an attention of the target.

    The attention of its counterpart's weight answers. In a stack of blocks with heads of several sizes that is a matter
    of luck: if all sizes have grown by one ratio, one that has this ratio answers.
    """
    sizes, scales = base.head_sizes or (), base.logit_scales or ()
    if not sizes:
        return attention.head_size, attention.scale
    counterpart = pairs.get(attention.name)
    answering = [i for i, name in enumerate(base.queries or ()) if name == counterpart]
    if not answering and len(sizes) == len(anatomy.attentions):
        answering = [position]
    common = _common_ratio({one.head_size for one in anatomy.attentions}, set(sizes))
    if common is not None:
        fitting = [i for i, size in enumerate(sizes) if attention.head_size == size * common]
        answering = [i for i in answering if i in fitting] or fitting
    kinds = [starred(name) for name in base.queries or ()]
    alike = {sizes[i] for i, kind in enumerate(kinds) if kind == starred(attention.name)}
    ambiguous = common is None and len(alike) > 1 and len(sizes) != len(anatomy.attentions)
    if ambiguous or not answering:
        own = sorted({one.head_size for one in anatomy.attentions})
        raise PlanError(
            f"head sizes {own} and, in the base, {sorted(set(sizes))} are in no one ratio, and which attention of the "
            f"base answers to that of `{attention.name}` is open: scale all heads alike, or keep the head sizes and "
            "scale their numbers"
        )
    first = answering[0]
    return sizes[first], scales[first] if first < len(scales) else None


def _common_ratio(here: set[int], there: set[int]) -> float | None:
    """The one ratio between all head sizes of target and base; None if there is no such."""
    ratios = {a / b for a, b in zip(sorted(here), sorted(there), strict=False)}
    return ratios.pop() if len(here) == len(there) and len(ratios) == 1 else None


def _as_power(ratio: float, head_size: float) -> float:
    """A power of the head size's ratio to the last bit, so that what is already there asks for nothing."""
    for power in (-0.5, -1.0, 0.0):
        if math.isclose(ratio, head_size**power, rel_tol=1e-9):
            return head_size**power
    return ratio
