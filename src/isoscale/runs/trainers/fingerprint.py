"""What the user's code is called, and a hash of its source: trials of other code are other trials."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isoscale.runs.trainers import template
from isoscale.user_code import digest_of_file

_DIGITS = 32

# A script is smaller; of a larger file, a data set most likely, size and time of change stand for the content.
_MOST_BYTES = 2**24


def reference(function: Callable[..., Any]) -> str:
    """Where a function is, as `Sweep(train=...)` reads it back: "/path/file.py:train", or "module:train"."""
    function = _plain(function)
    file = _file(function)
    return f"{file or function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def name(function: Callable[..., Any]) -> str:
    """What a person calls a function: "train.py:train"."""
    path, _, attribute = reference(function).rpartition(":")
    return f"{os.path.basename(path)}:{attribute}"


# --- functions ---
def of_function(function: Callable[..., Any]) -> str:
    """Hash of a function's source.

    Of a module, the whole file counts. A script or a notebook also holds the sweep itself, which grows: of these count
    the function and, as far as it names them, the functions, classes and plain values beside it. What a function was
    bound to (by `functools.partial`, or in a closure) counts always.
    """
    file = _file(_plain(function))
    in_main = getattr(_plain(function), "__module__", None) == "__main__"
    digest = hashlib.sha256()
    if file is not None and not in_main:
        digest.update(digest_of_file(file).encode())
        parts = _bound(function)
        if "<" in getattr(_plain(function), "__qualname__", ""):
            # One of many lambdas, or of many functions made inside of others, that the file may have.
            parts = itertools.chain(parts, [_compiled(_plain(function))])
    else:
        parts = _walk(function, set())
    for part in parts:
        digest.update(b"\0" + part.encode("utf-8", "replace"))
    return digest.hexdigest()[:_DIGITS]


def of_value(value: Any) -> str:
    """Hash of a plain value, of tensors and lists of them; of anything else, of its type alone."""
    return hashlib.sha256(_value(value).encode("utf-8", "replace")).hexdigest()[:_DIGITS]


def _plain(function: Any) -> Any:
    """The function in its wrappings: a partial, a method, a decorator's."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(getattr(function, "__func__", function))


def _file(function: Any) -> str | None:
    """The source file of a function or of a callable object's class; None in a notebook or at the prompt."""
    try:
        file = inspect.getsourcefile(function if _has_source(function) else type(function))
    except TypeError:
        return None
    return os.path.abspath(file) if file and os.path.isfile(file) else None


def _has_source(thing: Any) -> bool:
    return isinstance(thing, type) or hasattr(thing, "__code__")


def _bound(function: Any) -> Iterator[str]:
    """The values that a function carries with it."""
    if isinstance(function, functools.partial):
        yield from map(_value, function.args)
        for key, value in sorted(function.keywords.items()):
            yield f"{key}={_value(value)}"
        yield from _bound(function.func)
        return
    for cell in getattr(function, "__closure__", None) or ():
        yield _value(cell.cell_contents)
    if not hasattr(function, "__code__"):
        for key, value in sorted(getattr(function, "__dict__", {}).items()):
            yield f"{key}={_value(value)}"


def _walk(thing: Any, seen: set[int]) -> Iterator[str]:
    """Source of a function or class of a script or notebook, and of what it names there."""
    yield from _bound(thing)
    plain = _plain(thing)
    if id(plain) in seen:
        return
    seen.add(id(plain))
    yield _source(plain)
    names = vars(sys.modules[plain.__module__]) if getattr(plain, "__module__", None) in sys.modules else {}
    names = getattr(plain, "__globals__", names)
    for used in sorted(_names(plain)):
        value = names.get(used)
        is_beside = getattr(value, "__module__", None) == getattr(plain, "__module__", None)
        if is_beside and isinstance(value, (types.FunctionType, type)):
            yield from _walk(value, seen)
        elif used in names and not isinstance(value, types.ModuleType):
            yield f"{used}={_value(value)}"


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return _compiled(thing)


def _compiled(thing: Any) -> str:
    """What a function or class was compiled to: of what has no source, or shares its name with others."""
    parts = []
    for code in _codes(thing):
        constants = [_value(constant) for constant in code.co_consts if not isinstance(constant, types.CodeType)]
        parts.append(f"{code.co_code.hex()}{code.co_names}{constants}")
    return "".join(parts)


def _codes(thing: Any) -> Iterator[types.CodeType]:
    """Compiled code of a function, or of a class's functions, with all that is defined inside."""
    if isinstance(thing, type):
        for member in vars(thing).values():
            if hasattr(member, "__code__"):
                yield from _codes(member)
        return
    code = thing if isinstance(thing, types.CodeType) else getattr(thing, "__code__", None)
    if code is None:
        return
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names(thing: Any) -> set[str]:
    used: set[str] = set()
    for code in _codes(thing):
        used.update(code.co_names)
    return used


def _value(value: Any) -> str:
    """A value as a text that is the same in every process; of what has none, its type."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        return _text(value) or kind
    except RecursionError:  # it holds itself
        return kind


def _text(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_value, value))})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(map(_value, value)))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_value(key)}: {_value(item)}' for key, item in value.items())}}}"
    if callable(value) and hasattr(value, "__code__"):
        return _source(value)
    if hasattr(value, "__array__"):
        dtype = getattr(value, "dtype", "")
        if hasattr(value, "detach"):
            # NumPy has no bfloat16; a double holds every value of the others.
            value = value.detach().cpu()
            value = value.double() if value.is_floating_point() else value
        array = np.asarray(value)
        # Of Python objects an array holds addresses.
        content = _value(array.tolist()) if array.dtype.hasobject else hashlib.sha256(array.tobytes()).hexdigest()
        return f"{dtype}{array.shape}{content}"
    return ""


# --- commands ---
def command_name(command: str) -> str:
    """What a person calls a command: the script that it runs, else its first word.

    >>> command_name("python -u no_such_file.py --lr {lr}")
    'python'
    """
    files = list(_files(command))
    return files[0].name if files else template.words(command)[0]


def of_command(command: str) -> str:
    """Hash of a command's text and of the files that it names."""
    digest = hashlib.sha256(command.encode())
    for file in _files(command):
        status = file.stat()
        is_large = status.st_size > _MOST_BYTES
        content = f"{status.st_size}:{status.st_mtime_ns}" if is_large else digest_of_file(file)
        digest.update(f"\0{file.name}\0{content}".encode())
    return digest.hexdigest()[:_DIGITS]


def _files(command: str) -> Iterator[Path]:
    """The files that a command names: a script, `-m module`, --config=file."""
    before = ""
    for word in template.words(command):
        path = word.rpartition("=")[2] if word.startswith("-") else word
        candidates = [path]
        if before == "-m":
            candidates = [f"{word.replace('.', '/')}.py", f"{word.replace('.', '/')}/__main__.py"]
        for candidate in candidates:
            if candidate and os.path.isfile(candidate):
                yield Path(candidate)
        before = word
