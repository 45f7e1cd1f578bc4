"""Of faults put into the pure rooms, one at a time, how many do the rooms' own tests find?

A mutant is a room with one comparison, operation, number, truth value or condition changed. It is killed when a test
of the room fails. `make mutants` samples as many as `--count` says; the same seed gives the same ones.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parent.parent
# The quick files first: most mutants die there.
TESTS = {
    "scaling": [
        "tests/scaling",
        "tests/parametrization/test_plan_algebra.py",
        "tests/parametrization/test_roles_by_hand.py",
    ],
    "stats": [f"tests/stats/test_{name}.py" for name in ("least_squares", "worth", "laws", "verdict")],
}
# A mutant that never ends is one that the tests notice.
CPU_SECONDS = 300

OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """One change of one file: the number of the changed node among all that `places` finds there."""

    path: Path
    number: int


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that can be changed; annotations are no behaviour, nor is how a class of numbers is made."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                if can_change(node):
                    yield node
                yield from places(node)


def can_change(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return type(node.ops[0]) in OTHER
    if isinstance(node, ast.BinOp | ast.BoolOp):
        return type(node.op) in OTHER
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    return isinstance(node, ast.IfExp)


def change(node: ast.AST) -> None:
    if isinstance(node, ast.Compare):
        node.ops[0] = OTHER[type(node.ops[0])]()  # pyrefly: ignore[unsupported-operation]
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = OTHER[type(node.op)]()  # pyrefly: ignore[bad-assignment]
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body


def mutated(mutant: Mutant) -> tuple[str, str]:
    """The changed module, and what was changed, in words."""
    tree = ast.parse(mutant.path.read_text(encoding="utf-8"))
    node = list(places(tree))[mutant.number]
    before = ast.unparse(copy.deepcopy(node))
    change(node)
    said = f"{mutant.path.relative_to(ROOT)}:{node.lineno}: {before} -> {ast.unparse(node)}"
    return ast.unparse(tree), said


def sample(room: str, count: int, seed: int) -> list[Mutant]:
    """So many of the room, every place as likely as any other."""
    every = []
    for path in sorted((ROOT / "src/isoscale" / room).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        every += [Mutant(path, number) for number, _ in enumerate(places(tree))]
    return random.Random(seed).sample(every, min(count, len(every)))


def is_killed(room: str, source: Path) -> bool:
    """Whether the room's tests fail on the package in that folder, in a process of their own that has torch already."""
    pid = os.fork()
    if pid == 0:
        import pytest

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(source))
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *TESTS[room]])
        os._exit(0 if code == 0 else 1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT:
        raise KeyboardInterrupt
    return status != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", choices=list(TESTS), default=list(TESTS))
    told = parser.parse_args()
    # What every child would import again.
    for name in ("pandas", "scipy.optimize", "torch", "xarray"):
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="isoscale-mutants-") as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
        source = Path(folder, "src")
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for room in told.rooms:
            if is_killed(room, source):
                raise SystemExit(f"the tests of {room} fail as it is")
            killed = total = 0
            for mutant in sample(room, told.count, told.seed):
                place = source / mutant.path.relative_to(ROOT / "src")
                text, said = mutated(mutant)
                place.write_text(text, encoding="utf-8")
                was_killed = is_killed(room, source)
                shutil.copyfile(mutant.path, place)
                total += 1
                killed += was_killed
                print("killed  " if was_killed else "SURVIVED", said, flush=True)
            low, high = binomtest(killed, total).proportion_ci(method="wilson")
            print(f"{room}: {killed} of {total} killed, {killed / total:.0%} [{low:.0%}, {high:.0%}]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
