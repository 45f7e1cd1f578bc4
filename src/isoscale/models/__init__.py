"""Small, exact networks: the architectures of the papers, with ordinary weights (std 1/sqrt(fan_in))."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
