"""Packages that only some commands need: each is an extra of the installation, and a missing one says which."""

from __future__ import annotations

from types import TracebackType

from isoscale.errors import MissingExtraError


class needed:
    """Imports in this block are of an extra; where one is missing, the error says how to get it.

    Args:
        extra: Its name in pyproject.toml: "sweep", "report", "cli", "ray", "parquet", "tensorboard" or "wandb".
        by: What needs it, as a user calls it.

    Raises:
        MissingExtraError: A package of it is not installed.

    >>> try:
    ...     with needed("sweep", by="a sweep"):
    ...         import absent
    ... except MissingExtraError as error:
    ...     print(error)
    a sweep needs absent, which is not installed: pip install 'isoscale[sweep]'
    """

    def __init__(self, extra: str, by: str) -> None:
        self._extra, self._by = extra, by

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, ModuleNotFoundError) or isinstance(error, MissingExtraError):
            return
        package = (error.name or str(error)).partition(".")[0]
        hint = f"pip install 'isoscale[{self._extra}]'"
        raise MissingExtraError(f"{self._by} needs {package}, which is not installed: {hint}") from error
