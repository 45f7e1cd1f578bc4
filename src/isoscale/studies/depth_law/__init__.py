"""The depth law of learning rates: how the best learning rate falls with depth (docs/theory.md, section 6).

`depth_law` measures it by sweeps and, beside them, by the sweep-free estimate; `preset` has the networks of the papers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
