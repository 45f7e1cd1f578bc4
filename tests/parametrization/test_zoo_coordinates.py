"""Real architectures move by the same amount at every size under their rule, and do not under sp.

The verdict was fixed before the figures. A slope is d log(change) / d log(size), with the 95 % interval over seeds:
* flat: the interval meets [-0.15, 0.15], and is narrow enough to say so (half width at most 0.3);
* growing: the interval lies above 0.25. Nothing can be both.

Why 0.15. Sizes are finite. In width, the change at one of P positions is its own signal, plus the random overlaps of
its features with those of the others, whose square is ~ P/n of the signal's: change^2 = a (1 + c/n) (GPT-2's logits at
widths 32 to 256 fit it to one percent, with c = 3P). From n to 4n this is a slope of about -c/4n: hence P = 8 positions
and n = 64, which leaves -0.08. In depth there are two effects. What the branches add at init is noise that completep
makes fade (docs/theory.md, section 4): the stream that a final norm divides by shrinks from variance 1 + s to 1 +
s/4, s the
branches' share at the base, so that at s = 1/2 the logits' slope is up to +0.1 and, where the noise amplifies what
moves, the stream's down to -0.1. And layers are finite steps, an error O(1/L) of either sign: from two blocks to eight
it is the larger part of 0.2 in ViT's and the Mixer's logits, from four to sixteen less than half of that. A deeper base
has less of this and more of the noise, whose share s grows with its depth, so two blocks stay the base.

Why 0.25 and more is certain under sp: with Adam all changes are coherent sums, n x lr in width and L x lr in depth, so
their slopes tend to 1; at small sizes the embedding's change, which has slope 0, is added to that.

The protocol follows from the same. The learning rate is so small that the base's stream moves by less than itself in
four steps: else its size changes and with it what all else is relative to. Where branches would start as loud as the
stream (batch norm makes each of unit variance; a U-Net's do nearly so), they are drawn quietly, as is usual for these
nets (see zoo.py); ConvNeXt's LayerScale, 1e-6 by default, starts at 1, since at 1e-6 no branch can be seen and every
rule looks flat in depth. Of three sizes in equal ratios the middle one has no weight in a slope: two do.
"""

from __future__ import annotations

import pytest
from coordinates import Slope, drawn, slopes
from zoo import ZOO

import isoscale

TOLERANCE, RESOLUTION, GROWTH = 0.15, 0.3, 0.25
RULES = {"width": "mup", "depth": "completep"}
# lr under SGD; chosen as for Adam: the base's stream moves by less than itself.
SGD = {"resnet": 0.03, "convnext": 0.03}


def _sizes(kind: str, axis: str, factors: tuple[int, ...] = (1, 4)) -> list[tuple[int, int]]:
    width, depth = ZOO[kind].width, ZOO[kind].depth
    return [(width * (k if "width" in axis else 1), depth * (k if "depth" in axis else 1)) for k in factors]


def _flat(found: dict[str, Slope]) -> None:
    for place, slope in found.items():
        assert slope.half_width <= RESOLUTION, (place, slope)
        assert slope.low <= TOLERANCE, (place, slope)
        assert slope.high >= -TOLERANCE, (place, slope)


def _grows(found: dict[str, Slope]) -> None:
    assert max(slope.low for slope in found.values()) > GROWTH, found


@pytest.mark.parametrize("axis", RULES)
@pytest.mark.parametrize("kind", ZOO)
def test_flat_under_its_rule(kind, axis):
    _flat(slopes(ZOO[kind], _sizes(kind, axis), RULES[axis], lr=ZOO[kind].lr))


@pytest.mark.parametrize("axis", RULES)
@pytest.mark.parametrize("kind", ZOO)
def test_grows_under_sp(kind, axis):
    _grows(slopes(ZOO[kind], _sizes(kind, axis), "sp", lr=ZOO[kind].lr))


@pytest.mark.parametrize("axis", RULES)
@pytest.mark.parametrize("kind", SGD)
def test_flat_with_sgd(kind, axis):
    _flat(slopes(ZOO[kind], _sizes(kind, axis), RULES[axis], "sgd", lr=SGD[kind]))


@pytest.mark.parametrize("kind", SGD)
def test_grows_with_sgd_under_sp(kind):
    """In width: the readout's own change is a sum of n coherent terms."""
    _grows(slopes(ZOO[kind], _sizes(kind, "width"), "sp", "sgd", lr=SGD[kind]))


def test_completep_is_mup_at_the_base_depth():
    """So that the width checks above are completep's as well."""
    specimen = ZOO["gpt2"]
    base, model = (drawn(specimen, (k * specimen.width, specimen.depth), seed=0) for k in (1, 4))
    inputs = specimen.inputs(0)
    deep = isoscale.parametrize(model, base, "completep", lr=1e-3, weight_decay=0.1, example_inputs=inputs)
    wide = isoscale.parametrize(model, base, "mup", lr=1e-3, weight_decay=0.1, example_inputs=inputs)
    assert deep.diff(wide).empty


def test_norms_on_the_stream_of_a_post_norm_net():
    """BERT's norms stand on the stream, not in its branches: trained alone, their changes add up over the layers."""
    norms = "*encoder*LayerNorm*"
    sizes, roles = _sizes("bert", "depth"), {norms: "stream_vector"}
    found = slopes(ZOO["bert"], sizes, "completep", lr=1e-4, trained=norms, roles=roles)
    _flat({"stream": found["stream"]})


@pytest.mark.nightly
@pytest.mark.parametrize("axis", ["width", "depth", "width and depth"])
@pytest.mark.parametrize("kind", ZOO)
def test_flat_at_more_sizes(kind, axis):
    """x1 to x8, sizes apart and together, twelve seeds: under completep, which is mup where only the width grows."""
    _flat(slopes(ZOO[kind], _sizes(kind, axis, (1, 2, 4, 8)), "completep", lr=ZOO[kind].lr, seeds=12))
