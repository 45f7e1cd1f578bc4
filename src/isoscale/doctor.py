"""Is this installation sound? Versions, devices, threads, the data folder, the store, and five seconds of mathematics.

The self-test asks each part for something whose answer is known without it: the limit solver for the linear
network, which has a closed form; the ensemble for one member, which a plain PyTorch loop trains too; the rules for
the identity at the base's own size.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import torch

from isoscale import limit, rules
from isoscale.data import Dataset
from isoscale.data.registry import FOLDER_VARIABLE
from isoscale.errors import IsoscaleError
from isoscale.runs import Store
from isoscale.runs.engines.local import cores
from isoscale.training import Member, Optimizer, Recipe, train
from isoscale.training.config import batch_order

_PACKAGES = ("isoscale", "torch", "numpy", "scipy", "xarray", "pandas", "ray", "pyarrow")

# float32 after twenty stable steps: losses are O(1), each step adds a few ulp (6e-8).
_ROUND_OFF = 2e-5

_STANDARD_ERRORS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: False if something is wrong.
        detail: What was found, in words.
        seconds: How long it took.
    """

    name: str
    ok: bool
    detail: str
    seconds: float


def examine(store: str | None = None, data: str | None = None) -> Iterator[Check]:
    """Look at everything, one check after the other; a check that raises is one that failed.

    Args:
        store: A store to look for damage in; one that is not there is no fault.
        data: Folder of the data sets; by default `$ISOSCALE_DATA`.

    >>> [check.name for check in examine() if not check.ok]
    []
    """
    checks: dict[str, Callable[[], tuple[bool, str]]] = {
        "versions": _versions,
        "devices": _devices,
        "threads": _threads,
        "data folder": lambda: _data_folder(data),
        "store": lambda: _store(store),
        "rules: the identity at the base": _rules,
        "limit: the linear network's closed form": _limit,
        "ensemble: a plain PyTorch loop": _ensemble,
    }
    for name, check in checks.items():
        started = time.perf_counter()
        try:
            ok, detail = check()
        except Exception as error:  # whatever an unsound installation raises
            ok, detail = False, f"{type(error).__name__}: {error}"
        yield Check(name, ok, detail, time.perf_counter() - started)


def _versions() -> tuple[bool, str]:
    found = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    return sqlite3.sqlite_version_info >= (3, 38), ", ".join([f"python {python}", *found, f"sqlite {sqlite}"])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[bool, str]:
    """Each can be computed on, not only named."""
    names = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    sums = [float(torch.ones(8, 8, device=name).mm(torch.ones(8, 8, device=name)).sum()) for name in names]
    titles = [torch.cuda.get_device_name(name) if name != "cpu" else platform.machine() for name in names]
    listed = ", ".join(f"{name} ({title})" for name, title in zip(names, titles, strict=True))
    return sums == [512.0] * len(names), listed


def _threads() -> tuple[bool, str]:
    pinned = os.environ.get("OMP_NUM_THREADS")
    note = f", OMP_NUM_THREADS={pinned}" if pinned else ""
    return (
        True,
        f"{cores()} cores for this process, torch uses {torch.get_num_threads()} threads{note}; a worker uses 1",
    )


def _data_folder(folder: str | None) -> tuple[bool, str]:
    given = folder or os.environ.get(FOLDER_VARIABLE)
    if not given:
        return True, f"none given (--data or ${FOLDER_VARIABLE}): digits needs none"
    try:
        entries = sorted(os.listdir(os.path.expanduser(given)))
    except OSError as error:
        return False, f"{given}: {error.strerror}"
    return True, f"{given}: {', '.join(entries[:8]) or 'empty'}{', ...' if len(entries) > 8 else ''}"


def _store(path: str | None) -> tuple[bool, str]:
    if path is None or not os.path.exists(path):
        return True, "none yet" if path is None else f"{path} is not there yet"
    try:
        with Store(path) as store:
            faults, count = store.faults(), store.count()
    except IsoscaleError as error:
        return False, str(error)
    remedy = f" (and {len(faults) - 1} more; see isoscale store check)" if len(faults) > 1 else ""
    return not faults, f"{faults[0]}{remedy}" if faults else f"{path}: {count:,} trials, sound"


def _rules() -> tuple[bool, str]:
    wrong: set[str] = set()
    cases = 0
    for rule in map(rules.get, rules.names()):
        for role in rules.Role:
            for optimizer in rules.OPTIMIZERS:
                wrong |= set() if _is_group(rule, role, optimizer) else {rule.name}
                cases += 1
    return not wrong, f"{cases} cases" if not wrong else f"wrong: {', '.join(sorted(wrong))}"


def _is_group(rule: rules.Rule, role: rules.Role, optimizer: rules.OptimizerFamily) -> bool:
    """Nothing changes at ratio 1, and ratios multiply."""
    same, first, second, both = (
        rule.factors(role, optimizer, width=width, depth=depth)
        for width, depth in ((1.0, 1.0), (2.0, 4.0), (3.0, 2.0), (6.0, 8.0))
    )
    composed = np.allclose(dataclasses.astuple(first * second), dataclasses.astuple(both), rtol=1e-12)
    return same == rules.Factors() and bool(composed)


def _limit() -> tuple[bool, str]:
    x, y = [[1.0, 1.0], [1.0, -1.0]], [1.0, -1.0]
    exact = limit.closed_form.linear(x, y, depth=2, steps=3, lr=0.2, kernels=False)["loss"].values
    solved = limit.solve(x, y, steps=3, lr=0.2, phi="linear", depth=2, kernels=False)
    allowed = _STANDARD_ERRORS * solved["loss_se"].values + _ROUND_OFF
    worst = float((np.abs(solved["loss"].values - exact) / allowed).max())
    return worst < 1, f"losses are off by at most {worst:.0%} of what noise and round-off allow"


def _ensemble() -> tuple[bool, str]:
    recipe = Recipe(
        width=16, depth=4, base_width=8, base_depth=2, rule="depth-mup", optimizer=Optimizer(), steps=20, batch_size=16
    )
    data, member = _noise(), Member(0.125, 1)
    together = train(recipe, [Member(0.25, 0), member, Member(0.125, 2)], data).curve[1]
    off = np.abs(together / np.array(_plain_loop(recipe, member, data)) - 1).max()
    return bool(off < _ROUND_OFF), f"losses agree to {off:.1g}, round-off allows {_ROUND_OFF:g}"


def _noise() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=generator), torch.randint(4, (64,), generator=generator)
    return Dataset(name="noise", train_x=x, train_y=y, test_x=x, test_y=y, classes=4)


def _plain_loop(recipe: Recipe, member: Member, data: Dataset) -> list[float]:
    """What a user would write."""
    plan = recipe.plan(data.in_shape, data.classes, lr=member.lr)
    model, plan = recipe.build(data.in_shape, data.classes, member.seed, plan)
    optimizer = torch.optim.SGD(plan.param_groups())
    losses = []
    for batch in batch_order(len(data.train_x), recipe.batch_size, recipe.steps, member.seed):
        loss = torch.nn.functional.cross_entropy(model(data.train_x[batch]), data.train_y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
