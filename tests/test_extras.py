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
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn", "tomli-w": "tomli_w"}

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

CORE = """
import pandas as pd
import torch
from torch import nn

import isoscale
from isoscale import Runs

for name in isoscale.__all__:
    getattr(isoscale, name)

def net(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))

batch = torch.ones(2, 4), torch.tensor([0, 1])
plan = isoscale.parametrize(net(16), base=net(8), rule="mup", lr=1e-3, example_inputs=batch[:1])
torch.optim.AdamW(plan.param_groups())
plan.table()
isoscale.measure.audit(net, batch, nn.functional.cross_entropy, widths=[4, 8], rule="mup", seeds=2)
rows = [(w, 2.0**k, s, 1 + 0.1 * (k + 3) ** 2 - w / 999) for w in (8, 16) for k in range(-6, 0) for s in (0, 1)]
table = pd.DataFrame(rows, columns=["width", "lr", "seed", "loss"])
table.to_csv("runs.csv", index=False)
found = isoscale.judge(Runs.read("runs.csv"))
print(found.answer, isoscale.report.table(found.data).shape, found._repr_html_()[:10])
isoscale.limit.simulate([[1.0, 1.0]], [1.0], steps=1, depth=2, width=8)
hints = {
    "report": found.plot,
    "sweep": lambda: isoscale.data.load("digits"),
}
for extra, call in hints.items():
    try:
        call()
    except isoscale.errors.MissingExtraError as error:
        print(extra, error)
"""


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
    absent = set().union(*(modules(extra) for extra in ("sweep", "report", "cli", "ray", "parquet")))
    ran = without(absent, CORE, tmp_path)
    assert ran.returncode == 0, ran.stderr
    first, *hints = ran.stdout.strip().splitlines()
    assert first == "Yes. (1, 7) <p><b>Yes."
    for hint in hints:
        extra, _, words = hint.partition(" ")
        assert words.endswith(f"which is not installed: pip install 'isoscale[{extra}]'")
    assert len(hints) == 2


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
