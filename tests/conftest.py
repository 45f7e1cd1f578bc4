"""Shapes and types are checked at run time under test, where numbers are made.

Not where a user's arguments come in: there our own errors are what is tested.
"""

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(
    ["isoscale.models.layers", "isoscale.training.ensemble", "isoscale.training.recipe", "isoscale.laws"],
    "beartype.beartype",
)

# A test process a core: more threads than cores spend their time waiting for one another.
torch.set_num_threads(1)

# A first example that imports scipy, or a busy machine, is no failure.
settings.register_profile("isoscale", deadline=None)
settings.load_profile("isoscale")
