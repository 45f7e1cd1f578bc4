"""The core works without the packages of the extras; each thing that needs one says how to get it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from isoscale.errors import MissingExtraError
from isoscale.extras import needed

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Distributions whose module has another name.
MODULES = {"pillow": "PIL", "tomli-w": "tomli_w"}

# A path finder that finds none of them: what an installation without them has.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
"""

# What there is without extras; `make dist` runs it where there is nothing else.
CORE = (Path(__file__).parent / "core_alone.py").read_text(encoding="utf-8")


def modules(extra: str) -> set[str]:
    """What may be imported of an extra."""
    found = set()
    for requirement in EXTRAS[extra]:
        name = re.split(r"[\\[>=]", requirement)[0]
        if name != "isoscale":
            found.add(MODULES.get(name, name))
    return found


def without(absent: set[str], code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    text = WITHOUT.format(absent=absent) + code
    command = [sys.executable, "-W", "error", "-c", text, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_what_is_installed_without_extras():
    """Numbers, tables, shapes in annotations, and imports on demand; nothing that needs a compiler or a screen."""
    names = {re.split(r"[>=]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "scipy", "pandas", "xarray", "jaxtyping", "lazy-loader"}


def test_the_core_works_without_the_extras(tmp_path: Path):
    absent = set().union(*(modules(extra) for extra in EXTRAS if extra not in ("docs", "survey", "test")))
    ran = without(absent, CORE, tmp_path)
    assert ran.returncode == 0, ran.stderr
    first, *hints = ran.stdout.strip().splitlines()
    assert first == "Yes. (1, 7) <p><b>Yes."
    assert [hint.partition("isoscale[")[2] for hint in hints] == [
        f"{extra}]'" for extra in ("parquet", "ray", "report", "sweep", "tensorboard", "wandb")
    ]


def test_the_command_without_its_packages_is_one_line(tmp_path: Path):
    code = "import sys\nfrom isoscale.__main__ import main\nsys.argv[0] = 'isoscale'\nmain()"
    ran = without({"tyro"}, code, tmp_path, "--help")
    assert ran.returncode == 1
    said = "error: the isoscale command needs tyro, which is not installed: pip install 'isoscale[cli]'\n"
    assert ran.stderr == said


def test_an_import_that_fails_for_another_reason_is_not_called_missing():
    with pytest.raises(ZeroDivisionError), needed("sweep", by="it"):
        _ = 1 / 0
    inner = pytest.raises(MissingExtraError, match="inner needs absent")
    with inner, needed("sweep", by="outer"), needed("report", by="inner"):
        __import__("absent")
