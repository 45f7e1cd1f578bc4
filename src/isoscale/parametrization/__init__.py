"""Init and optimizer groups for any PyTorch model, from its own computation graph and a rule."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
