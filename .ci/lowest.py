"""Print pip constraints that hold isoscale's run-time packages to the lowest versions that pyproject.toml declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

# What is imported when isoscale runs; the tools that test it are pinned in constraints.txt.
EXTRAS = ("sweep", "report", "cli", "parquet", "ray")

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = set(project["dependencies"])
for extra in EXTRAS:
    requirements.update(project["optional-dependencies"][extra])
for requirement in sorted(requirements):
    if requirement.startswith("isoscale["):
        continue
    bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
    if bound is None:
        raise SystemExit(f"no lower bound can be read from {requirement!r}")
    print(f"{bound[1]}=={bound[2]}")
