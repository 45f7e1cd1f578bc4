"""The user's own Python: loaded from a file as `python file.py` would, or from a module by its name.

A file's folder comes first on `sys.path`, so that it finds its neighbours; and its module is in `sys.modules` before
it runs, which dataclasses, pickle and cyclic imports count on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from isoscale.errors import InvalidValueError


@dataclass(frozen=True)
class Loaded:
    """A function of the user's.

    Attributes:
        module: Where it is defined, or at least found.
        value: The function.
    """

    module: ModuleType
    value: Callable[..., Any]


def load(reference: str) -> Loaded:
    """The function that "path/file.py:name" or "pkg.module:name" means.

    Raises:
        InvalidValueError: No such file, module or function, or one that fails while it is imported.

    >>> load("math:sqrt").value(4)
    2.0
    >>> load("nowhere:train")
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: cannot import nowhere: ModuleNotFoundError: No module named 'nowhere'
    """
    path, _, name = reference.rpartition(":")
    if not path or not name:
        raise InvalidValueError(f"a function is written file.py:name or pkg.module:name, got {reference!r}")
    module = module_of(path)
    value = getattr(module, name, None)
    if not callable(value):
        offered = ", ".join(_functions(module)) or "none"
        raise InvalidValueError(f"{path} has no function `{name}`; it has: {offered}")
    return Loaded(module, value)


def module_of(path: str) -> ModuleType:
    """The module of a file whose name ends in .py, freshly run; or the module of that name.

    Raises:
        InvalidValueError: It is not there, or fails while it is imported.
    """
    try:
        return _from_file(Path(path)) if path.endswith(".py") else _by_name(path)
    # A script that parses its arguments when it is imported ends with SystemExit.
    except (Exception, SystemExit) as error:
        raise InvalidValueError(f"cannot import {path}: {described(error)}") from error


def digest_of_file(path: str | os.PathLike[str]) -> str:
    """Hash of a file's content.

    Raises:
        OSError: It cannot be read.
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32]


def described(error: BaseException) -> str:
    """An error in one line: its kind, what it says, and where in a file of the user's it was raised."""
    said = " ".join(str(error).split())
    kind = type(error).__name__
    text = f"{kind}: {said}" if said else kind
    place = _place(error)
    return f"{text} ({place})" if place else text


def _place(error: BaseException) -> str:
    """File and line of the innermost frame that is neither isoscale's nor an installed package's."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not _is_installed(file):
            found = f"{os.path.basename(file)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _is_installed(file: str) -> bool:
    folder = os.path.dirname(__file__)
    libraries = os.path.dirname(os.__file__)
    return file.startswith((folder, libraries, "<frozen")) or "site-packages" in file


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    path = path.resolve()
    _put_first(str(path.parent))
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _module_name(path: Path) -> str:
    """The file's own name, as its neighbours import it; another if a loaded module has it, as of a file types.py."""
    known = sys.modules.get(path.stem)
    if known is None:
        return path.stem
    file = getattr(known, "__file__", None)
    if file is not None and Path(file).resolve() == path:
        return path.stem
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _by_name(name: str) -> ModuleType:
    """A module beside the user is found, as by `python -m`; and stays importable for what it imports later."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _put_first(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _functions(module: ModuleType) -> list[str]:
    """What of a module could be meant."""
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
