"""Ensembles: the trials of a sweep that share every shape, trained as one batched program."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
