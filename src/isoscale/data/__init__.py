"""Data sets of images, sounds and text, read from a folder in the formats they were published in.

One verb: `load(name, folder)` gives a `Dataset`, two splits of standardised tensors or of tokens, with a
fingerprint and a note that says exactly what they are. What does not fit into memory is mapped from a disk. Nothing is
downloaded, nothing in a file is run (of a pickle only plain values are read), and a damaged file is an error that names
it. Listing the names loads neither torch nor numpy, so that `--help` stays quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
