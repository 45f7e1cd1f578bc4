"""The claims of the papers, each as one command that decides it.

A claim is a file: a sentence, its source, a protocol for each preset, what it measures with the verbs of the other
rooms, and the rule, stated beforehand, by which the measured numbers decide it.

    run("nfd-7", preset="cpu")      measure and decide; by identifier or by alias ("collapse")
    names()                         identifiers of all claims
    get("collapse")                 one claim: sentence, source, rule, presets
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
