"""Shapes and types are checked at run time under test, where numbers are made.

Not where a user's arguments come in: there our own errors are what is tested.
"""

from jaxtyping import install_import_hook

install_import_hook(
    ["isoscale.models.layers", "isoscale.training.ensemble", "isoscale.training.recipe", "isoscale.laws"],
    "beartype.beartype",
)
