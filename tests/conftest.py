"""Shapes and types are checked at run time under test, where numbers are made.

Not where a user's arguments come in: there our own errors are what is tested.
"""

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

from fuzzing import NIGHTLY, NIGHTLY_CASES

install_import_hook(
    ["isoscale.models.layers", "isoscale.training.ensemble", "isoscale.training.config", "isoscale.stats"],
    "beartype.beartype",
)

# A test process a core: more threads than cores spend their time waiting for one another.
torch.set_num_threads(1)

# A first example that imports scipy, or a busy machine, is no failure. By day the same cases each time: what fails does
# so for everybody, and because of a change; fresh ones are tried at night.
settings.register_profile("isoscale", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=NIGHTLY_CASES)
settings.load_profile("nightly" if NIGHTLY else "isoscale")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes runs at night: `HYPOTHESIS_PROFILE=nightly pytest`."""
    if not NIGHTLY:
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: HYPOTHESIS_PROFILE=nightly runs it"))
