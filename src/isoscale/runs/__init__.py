"""Grids of trials: what to run (`Sweep`), what runs together (shards), where (engines), what is kept (store)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
