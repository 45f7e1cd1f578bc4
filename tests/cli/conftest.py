"""The command in this process, and as a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoscale import cli

GRID = "--widths 8 --depths 1 2 --lrs 0.0625 0.125 0.25 --seeds 2 --steps 5 --rule sp depth-mup --search grid"


@pytest.fixture
def grid() -> list[str]:
    """Flags of a grid that trains in a moment."""
    return GRID.split()


@pytest.fixture
def isoscale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in an empty folder: `isoscale("sweep", "--seeds", 1)` gives exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run
