"""Measure: a verdict, not a plot to squint at.

    max_update_lr            the learning rate at which pre-activations change by one unit a step, without a sweep
    race_lr                  a learning rate after a few hundred steps, without a sweep; how far off: race_error
    verify                   whether a plan's first step does at every size what its rule promises
    exponents                the powers of any size that keep what a step does: a rule by measurement
    feature_speed            how fast each layer learns: by its own update, and by what it inherits
    gradient_independence    a real network trained with reused and with independent backward weights
    optimizer_step           the direction in which an optimizer of a family moves each tensor
    forward_jvp              how every module's output changes along such a step, to first order

They take any `nn.Module` and leave it as it was: submodules are observed with hooks that always come off, passes run
on copies of the buffers with random numbers of their own. docs/theory.md, sections 2, 4 and 6.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
