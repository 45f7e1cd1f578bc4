"""A function of the user's, as it travels to a worker: where it is, or itself."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from isoscale.errors import DataError, InvalidValueError
from isoscale.extras import needed
from isoscale.runs.trainers import fingerprint
from isoscale.user_code import described, digest_of_file, load

# What this process has loaded: a worker trains many trials of one function.
_loaded: dict[str, Any] = {}


@dataclass(frozen=True)
class Code:
    """A function, or whatever else of the user's travels with it.

    Attributes:
        name: What a person calls it.
        source: Fingerprint of its source.
        where: "/path/file.py:train" or "pkg.module:train"; empty if the function itself travels.
        file_digest: Of that file, when the sweep began.
        pickled: The function, of a script, a notebook or a module, if it was handed over as it is.
    """

    name: str
    source: str
    where: str = ""
    file_digest: str = ""
    pickled: bytes = field(default=b"", repr=False)

    def check(self) -> None:
        """Raise DataError if the file that it is to be loaded from is no longer what it was."""
        if not self.file_digest or self._key in _loaded:
            return
        path = self.where.rpartition(":")[0]
        try:
            found = digest_of_file(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read by a worker: {error.strerror}") from error
        if found != self.file_digest:
            raise DataError(f"{path} changed while the sweep ran. What finished is kept: start the sweep again")

    def value(self) -> Any:
        """The function; loaded once a process."""
        if self._key not in _loaded:
            _loaded[self._key] = load(self.where).value if self.where else _unpickled(self.pickled)
        return _loaded[self._key]

    @property
    def _key(self) -> str:
        return self.where + self.file_digest if self.where else hashlib.sha256(self.pickled).hexdigest()


def code(given: Callable[..., Any] | str) -> Code:
    """How a function travels that was given itself or by its place.

    Raises:
        InvalidValueError: It is not there, or cannot be sent to a worker.
    """
    if not isinstance(given, str):
        return handed(fingerprint.name(given), fingerprint.of_function(given), given)
    path, _, attribute = given.rpartition(":")
    source = fingerprint.of_function(load(given).value)
    name = f"{os.path.basename(path)}:{attribute}"
    if not path.endswith(".py"):
        return Code(name, source, where=given)
    return Code(name, source, where=f"{os.path.abspath(path)}:{attribute}", file_digest=digest_of_file(path))


def handed(name: str, source: str, value: Any) -> Code:
    """Something that travels as it is.

    Raises:
        InvalidValueError: It cannot be sent to a worker.
    """
    with needed("sweep", by="sending a function to a worker"):
        import cloudpickle

    try:
        pickled = cloudpickle.dumps(value)
    except Exception as error:
        raise InvalidValueError(
            f"{name} cannot be sent to a worker: {described(error)}. Make what it needs inside of it, or give it as "
            '"file.py:function"'
        ) from error
    return Code(name, source, pickled=pickled)


def _unpickled(pickled: bytes) -> Any:
    # Not of a file: these bytes came from the driver through the pipe of its own worker.
    import cloudpickle

    value = cloudpickle.loads(pickled)
    names = getattr(value, "__globals__", {})
    if names.get("__name__") == "__main__":
        # What a script defines is looked up there by whoever pickles it: `torch.save` of a model, for one.
        for name, of_script in names.items():
            vars(sys.modules["__main__"]).setdefault(name, of_script)
    return value
