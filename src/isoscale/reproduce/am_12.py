"""The depth law holds across data sets, and in vision transformers and GPT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoscale.reproduce import conditions, depth_laws
from isoscale.reproduce.claim import Claim, Ruling, ruling
from isoscale.runs import log2_grid

if TYPE_CHECKING:
    import xarray as xr

_CIFAR = {"dataset": "cifar10", "dataset_args": {"batches": (1,), "pool": 2}}
_TINY = {"dataset": "image-folder", "dataset_args": {"size": 16}}
_QUICK = {
    "digits": depth_laws.residual(block="pre"),
    "synthetic": depth_laws.residual(block="pre", dataset="synthetic", dataset_args={"train": 1000}),
}
_CPU = {
    "CIFAR-10": depth_laws.residual(block="pre", **_CIFAR),
    "Fashion-MNIST": depth_laws.residual(block="pre", dataset="fashion-mnist"),
    "digits": depth_laws.residual(block="pre", dataset="digits"),
}
_MORE = {
    "Tiny ImageNet": depth_laws.residual(block="pre", **_TINY),
    "ViT": {"model": "vit", "model_args": {"patch": 4}, "optimizer": "adam", **_CIFAR},
    "GPT": {"model": "gpt", "model_args": {}, "optimizer": "adam", "dataset": "text", "dataset_args": {"context": 64}},
}
PRESETS = {
    "quick": depth_laws.preset("quick", _QUICK, minutes=1.2),
    "cpu": depth_laws.preset("cpu", _CPU, widths=(16,), depths=(3, 4, 6, 8, 12, 16), seeds=2, minutes=45, gibibytes=3),
    "paper": depth_laws.preset("paper", _CPU | _MORE, lrs=log2_grid(-18, 0), minutes=300, gibibytes=40),
}


def decide(data: xr.Dataset) -> Ruling:
    """-3/2 everywhere."""
    names = conditions.named(data, "exponent, ")
    return ruling([conditions.exponent(data, name, depth_laws.CLAIMED) for name in names])


CLAIM = Claim(
    id="am-12",
    alias="across-data",
    sentence="The exponent -3/2 is the same on other data sets, and in vision transformers and GPT.",
    source="MultiPath, arXiv 2602.07494; docs/theory.md, section 6",
    rule=f"on every data set and in every network: {depth_laws.RULE}",
    reading="The transformers and Tiny ImageNet (a folder of images, by class) are in the preset paper.",
    reason=depth_laws.REASON,
    presets=PRESETS,
    measure=depth_laws.measure,
    decide=decide,
)
