"""isoscale: make a neural network train the same way at every width and depth, proved by measurement."""

from importlib import metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = metadata.version("isoscale")
