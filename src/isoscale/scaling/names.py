"""Numbers in the names of modules and tensors: `h.3`, `encoder.layer_3`, `denselayer3`, `weight_ih_l3`.

A path's indices are its steps that are whole numbers; of a path that has none, the number in its last numbered step.
"""

from __future__ import annotations

import re

# The last run of digits in a step, and what stands before and after it.
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")


def numbered(step: str) -> tuple[str, int] | None:
    """A step with its number left open, and the number; None if it has none.

    >>> numbered("3"), numbered("block1-12"), numbered("weight_hh_l0_reverse"), numbered("mlp")
    (('*', 3), ('block1-*', 12), ('weight_hh_l*_reverse', 0), None)
    """
    found = _NUMBERED.fullmatch(step)
    if found is None:
        return None
    before, number, after = found.groups()
    return f"{before}*{after}", int(number)


def indices(steps: list[str]) -> list[int]:
    """Which steps of a path hold an index, by position.

    >>> indices(["stages", "0", "blocks", "2", "fc1"]), indices(["layers", "layer_3", "mlp"])
    ([1, 3], [1])
    """
    whole = [place for place, step in enumerate(steps) if step.isdecimal()]
    if whole:
        return whole
    return [place for place, step in enumerate(steps) if numbered(step)][-1:]


def starred(path: str) -> str:
    """A path with its indices left open: what a module is called in every block.

    >>> starred("blocks.3.maps.1"), starred("encoder.layers.encoder_layer_11"), starred("layer1.0.conv1")
    ('blocks.*.maps.*', 'encoder.layers.encoder_layer_*', 'layer1.*.conv1')
    """
    steps = path.split(".")
    for place in indices(steps):
        found = numbered(steps[place])
        assert found is not None
        steps[place], _ = found
    return ".".join(steps)
