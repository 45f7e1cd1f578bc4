"""`--help` answers at once: it imports no torch, nor anything else that takes its time."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {"torch", "scipy", "pandas", "xarray", "matplotlib", "sklearn", "jinja2", "pebble"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["transfer", "--help"],
        ["sweep", "--help"],
        ["store", "list", "--help"],
        ["audit", "--help"],
        ["check", "--help"],
        ["lr", "--help"],
        ["plan", "--help"],
        ["doctor", "--help"],
        ["rules"],
        ["sweep", "--rule", "dept"],
    ],
)
def test_no_slow_import(arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "isoscale", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (2 if "dept" in arguments else 0)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "tyro" in imported
    assert not imported & SLOW
