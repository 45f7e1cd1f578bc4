"""Reads a pickle of plain values and numpy arrays without running anything that it names.

A pickle is a program: it names functions and calls them. Here every name is looked up in a list of four, and
what it stands for is ours: notes of what a numpy array would have been made from. numpy's own reconstruction is
not among them, nor is anything else that could be imported. A name beyond the list is an error, so is a reference
to anything outside the file.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from isoscale.errors import DataError

# What numpy has called its array module: before 2.0, and since.
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_KINDS = {"u1": np.uint8, "|u1": np.uint8}


class _Array:
    """What an array's pickle says of it; `array` checks it before anything is made of it."""

    state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Kind:
    """What a dtype's pickle says of it."""

    def __init__(self, code: object) -> None:
        self.code = code

    def __setstate__(self, _: object) -> None: ...


class _Makers:
    """What the names stand for. Bound methods and text: a pickle can set attributes of a class or a function."""

    def array(self, *_: object) -> _Array:
        return _Array()

    def kind(self, code: object, *_: object) -> _Kind:
        return _Kind(code)

    def encode(self, text: object, encoding: object) -> bytes:
        """Stands for codecs.encode, by which Python 3 writes bytes into a pickle that Python 2 can read."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes that are no latin1 text")
        return text.encode("latin1")


_MAKERS = _Makers()
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # handed on to _reconstruct, never called
    ("numpy", "dtype"): _MAKERS.kind,
    ("_codecs", "encode"): _MAKERS.encode,
    **{(module, "_reconstruct"): _MAKERS.array for module in _ARRAY_MODULES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is never loaded")
        return _NAMES[module_name, global_name]


def load(content: bytes) -> Any:
    """The value of a pickle: text (as bytes, where Python 2 wrote it), numbers, lists, dicts; arrays by `array`.

    Raises:
        DataError: Damaged, or it names something beyond arrays of unsigned bytes.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"no pickle of plain values: {error}") from error


def array(value: object) -> np.ndarray:
    """The array of unsigned bytes that a value of a pickle stands for.

    Raises:
        DataError: It is none.
    """
    state = value.state if isinstance(value, _Array) else None
    # What ndarray.__reduce__ writes: version, shape, dtype, Fortran order, bytes.
    match state:
        case (_, tuple(shape), _Kind(code=code), bool(fortran), bytes(content)):
            pass
        case _:
            raise DataError("no array where one was expected")
    if isinstance(code, bytes):  # written by Python 2
        code = code.decode("latin1")
    if code not in _KINDS:
        raise DataError(f"an array of {code!r}, expected unsigned bytes")
    order = "F" if fortran else "C"
    try:
        numbers = np.frombuffer(content, _KINDS[code])
        return numbers.reshape(shape, order=order)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"an array that does not fit its shape: {error}") from error
