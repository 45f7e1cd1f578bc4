"""Is this installation sound? Versions, devices, threads, the data folder, the store, and seconds of mathematics.

The self-test asks each part for something whose answer is known without it: the rules for the identity at the base's
own size; the plan of a small transformer, traced, for the learning rates that CompleteP gives it on paper; the audit
for what a step does to the output, which finite differences tell too; the limit solver for the linear network, which
has a closed form; the ensemble for one replica, which a plain PyTorch loop trains too.
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
from jaxtyping import Float, Int64
from torch import Tensor, nn

from isoscale import limit, rules
from isoscale.data import Dataset
from isoscale.data.registry import FOLDER_VARIABLE
from isoscale.errors import IsoscaleError
from isoscale.measure import audit
from isoscale.models import ResidualMLP
from isoscale.parametrization import parametrize
from isoscale.runs import Store
from isoscale.runs.engines.local import cores
from isoscale.training import Member, Optimizer, Recipe, train
from isoscale.training.config import batch_order

_PACKAGES = ("isoscale", "torch", "numpy", "scipy", "xarray", "pandas", "ray", "pyarrow")

# float32 after twenty stable steps: losses are O(1), each step adds a few ulp (6e-8).
_ROUND_OFF = 2e-5

_STANDARD_ERRORS = 5.0

# Central differences at this step are off by its square, and by round-off over it.
_STEP = 1e-2
_DIFFERENCES = 1e-3


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
        "plan: a traced transformer": _plan,
        "audit: finite differences": _audit,
        "limit: the linear network's closed form": _limit,
        "ensemble: a plain PyTorch loop": _ensemble,
    }
    for name, check in checks.items():
        started = time.perf_counter()
        try:
            ok, detail = check()
        except Exception as error:  # whatever an unsound installation raises
            kind = type(error).__name__
            ok = False
            detail = f"{kind}: {error}"
        seconds = time.perf_counter() - started
        yield Check(name, ok, detail, seconds)


def _versions() -> tuple[bool, str]:
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        found.append(f"{package} {version}")
    found.append(f"sqlite {sqlite3.sqlite_version}")
    # STRICT tables are older; 3.38 is the first that has the JSON functions always built in.
    recent = sqlite3.sqlite_version_info >= (3, 38)
    return recent, ", ".join(found)


def _devices() -> tuple[bool, str]:
    """Each can be computed on, not only named."""
    titles = {"cpu": platform.machine()}
    for k in range(torch.cuda.device_count()):
        titles[f"cuda:{k}"] = torch.cuda.get_device_name(k)
    sound = True
    listed = []
    for name, title in titles.items():
        ones = torch.ones(8, 8, device=name)
        product = ones.mm(ones)
        sound &= float(product.sum()) == 8**3
        listed.append(f"{name} ({title})")
    return sound, ", ".join(listed)


def _threads() -> tuple[bool, str]:
    pinned = os.environ.get("OMP_NUM_THREADS")
    note = f", OMP_NUM_THREADS={pinned}" if pinned else ""
    used = torch.get_num_threads()
    available = cores()
    return True, f"{available} cores for this process, torch uses {used} threads{note}; a worker uses 1"


def _data_folder(folder: str | None) -> tuple[bool, str]:
    given = folder or os.environ.get(FOLDER_VARIABLE)
    if not given:
        return True, f"none given (--data or ${FOLDER_VARIABLE}): digits needs none"
    path = os.path.expanduser(given)
    try:
        entries = sorted(os.listdir(path))
    except OSError as error:
        return False, f"{given}: {error.strerror}"
    listed = ", ".join(entries[:8]) or "empty"
    more = ", ..." if len(entries) > 8 else ""
    return True, f"{given}: {listed}{more}"


def _store(path: str | None) -> tuple[bool, str]:
    if path is None:
        return True, "none yet"
    if not os.path.exists(path):
        return True, f"{path} is not there yet"
    try:
        with Store(path, read_only=True) as store:
            faults = store.faults()
            count = store.count()
    except IsoscaleError as error:
        return False, str(error)
    if not faults:
        return True, f"{path}: {count:,} trials, sound"
    others = len(faults) - 1
    remedy = f" (and {others} more; see isoscale store check)" if others else ""
    return False, f"{faults[0]}{remedy}"


def _rules() -> tuple[bool, str]:
    wrong: set[str] = set()
    cases = 0
    for name in rules.names():
        rule = rules.get(name)
        for role in rules.Role:
            for optimizer in rules.OPTIMIZERS:
                cases += 1
                if not _is_group(rule, role, optimizer):
                    wrong.add(name)
    if wrong:
        listed = ", ".join(sorted(wrong))
        return False, f"wrong: {listed}"
    return True, f"{cases} cases"


def _is_group(rule: rules.Rule, role: rules.Role, optimizer: rules.OptimizerFamily) -> bool:
    """Nothing changes at ratio 1, and ratios multiply."""
    same = rule.factors(role, optimizer, width=1.0, depth=1.0)
    first = rule.factors(role, optimizer, width=2.0, depth=4.0)
    second = rule.factors(role, optimizer, width=3.0, depth=2.0)
    both = rule.factors(role, optimizer, width=6.0, depth=8.0)
    composed = dataclasses.astuple(first * second)
    expected = dataclasses.astuple(both)
    multiply = np.allclose(composed, expected, rtol=1e-12)
    return multiply and same == rules.Factors()


# A weight of fan-in n moves each of n inputs: 1/2. The output projection of a branch also carries the branch's 1/L, and
# the readout its 1/n, folded into their weights; the biases of a branch's output projection, the 1/L alone.
_RATES = {
    "embedding.weight": 1.0,
    "blocks.1.attention_norm.weight": 1.0,
    "blocks.1.queries.weight": 1 / 2,
    "blocks.1.values.bias": 1.0,
    "blocks.1.merge.weight": 1 / 4,
    "blocks.1.merge.bias": 1 / 2,
    "blocks.1.up.weight": 1 / 2,
    "blocks.1.down.weight": 1 / 4,
    "norm.weight": 1.0,
    "readout.weight": 1 / 2,
}


def _plan() -> tuple[bool, str]:
    """Width x2, depth x2, traced; the rates are CompleteP's for Adam, written out."""
    with torch.random.fork_rng(devices=()):
        base = _Transformer(width=16, depth=1)
        model = _Transformer(width=32, depth=2)
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    plan = parametrize(
        model,
        base,
        rule="completep",
        optimizer="adamw",
        lr=1.0,
        example_inputs=(tokens,),
    )
    rates = {}
    for entry in plan.entries:
        rates[entry.name] = entry.lr
    wrong = []
    for name, expected in _RATES.items():
        found = rates[name]
        off = abs(found / expected - 1)
        if off > 1e-12:
            wrong.append(f"{name} has lr {found:g}, expected {expected:g}")
    if wrong:
        return False, "; ".join(wrong)
    return True, f"{len(rates)} tensors have the roles and learning rates that they should"


class _Block(nn.Module):
    """Two residual branches, as a user would write them: nothing says which tensor has which role."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.merge = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        z = self.attention_norm(x)
        queries = _heads(self.queries(z))
        keys = _heads(self.keys(z))
        values = _heads(self.values(z))
        attended = nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            is_causal=True,
        )
        merged = attended.transpose(1, 2).flatten(2)
        x = x + self.merge(merged)
        hidden = self.up(self.norm(x))
        return x + self.down(nn.functional.gelu(hidden))


def _heads(x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch heads time head_size"]:
    # Heads of 8 at every width: more of them, not larger ones.
    return x.unflatten(-1, (-1, 8)).transpose(1, 2)


class _Transformer(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        blocks = [_Block(width) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, 11)

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch time tokens"]:
        x = self.embedding(tokens)
        x = self.blocks(x)
        return self.readout(self.norm(x))


def _audit() -> tuple[bool, str]:
    """What one SGD step of each role does to the output, to first order: forward-mode derivatives and differences."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, generator=generator)
    y = torch.randn(8, 1, generator=generator)

    def make(depth: int, seed: int) -> ResidualMLP:
        return ResidualMLP(4, 1, width=16, depth=depth, phi="tanh", seed=seed)

    found = audit(
        make,
        (x, y),
        _linear_loss,
        depths=[1, 2],
        optimizer="sgd",
        seeds=1,
    )
    # One block is the base, where the plan is the identity: a step at rate 1 is a plain one.
    model = make(depth=1, seed=0)
    plan = parametrize(model, model, "sp", "sgd", lr=1.0)
    measured = found.data["output_update"].isel(depth=0, seed=0)
    worst = 0.0
    for role in ("input", "branch_internal", "branch_last", "output"):
        # Of these tensors alone: an audit moves the tensors of one role at a time.
        names = [entry.name for entry in plan.entries if entry.role == role]
        expected = _output_change(model, names, x, y)
        change = float(measured.sel(role=role))
        worst = max(worst, abs(change / expected - 1))
    return worst < _DIFFERENCES, f"first-order changes agree to {worst:.1g}, differences allow {_DIFFERENCES:g}"


def _linear_loss(output: Tensor, y: Tensor) -> Tensor:
    """Its gradient does not depend on the output, which the audit takes to start at 0."""
    return (output * y).mean()


def _output_change(model: nn.Module, names: list[str], x: Tensor, y: Tensor) -> float:
    """Root mean square of (f(theta - h g) - f(theta + h g)) / 2h for the gradient g of these tensors."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    loss = _linear_loss(model(x), y)
    gradients = torch.autograd.grad(loss, chosen)

    def output(step: float) -> Tensor:
        moved = {}
        for name, gradient in zip(names, gradients, strict=True):
            moved[name] = parameters[name].detach() - step * gradient
        return torch.func.functional_call(model, moved, (x,))

    difference = output(_STEP) - output(-_STEP)
    change = difference.detach() / (2 * _STEP)
    return float(change.square().mean().sqrt())


def _limit() -> tuple[bool, str]:
    x = [[1.0, 1.0], [1.0, -1.0]]
    y = [1.0, -1.0]
    exact = limit.closed_form.linear(
        x,
        y,
        depth=2,
        steps=3,
        lr=0.2,
        kernels=False,
    )
    solved = limit.solve(
        x,
        y,
        steps=3,
        lr=0.2,
        phi="linear",
        depth=2,
        kernels=False,
    )
    noise = solved["loss_se"].values
    allowed = _STANDARD_ERRORS * noise + _ROUND_OFF
    off = solved["loss"].values - exact["loss"].values
    worst = float(np.max(np.abs(off) / allowed))
    return worst < 1, f"losses are off by at most {worst:.0%} of what noise and round-off allow"


def _ensemble() -> tuple[bool, str]:
    recipe = Recipe(
        width=16,
        depth=4,
        base_width=8,
        base_depth=2,
        rule="depth-mup",
        optimizer=Optimizer(),
        steps=20,
        batch_size=16,
    )
    data = _noise()
    # Others beside it, at another rate and from another seed, must not matter.
    replicas = [Member(0.25, 0), Member(0.125, 1), Member(0.125, 2)]
    together = train(recipe, replicas, data).curve[1]
    alone = _plain_loop(recipe, replicas[1], data)
    ratio = together / np.array(alone)
    off = float(np.max(np.abs(ratio - 1)))
    return off < _ROUND_OFF, f"losses agree to {off:.1g}, round-off allows {_ROUND_OFF:g}"


def _noise() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    y = torch.randint(4, (64,), generator=generator)
    # The same samples for both: only the training losses are compared.
    return Dataset(
        name="noise",
        train_x=x,
        train_y=y,
        test_x=x,
        test_y=y,
        classes=4,
    )


def _plain_loop(recipe: Recipe, member: Member, data: Dataset) -> list[float]:
    """What a user would write."""
    plan = recipe.plan(data.in_shape, data.classes, lr=member.lr)
    model, plan = recipe.build(data.in_shape, data.classes, member.seed, plan)
    optimizer = torch.optim.SGD(plan.param_groups())
    losses = []
    batches = batch_order(len(data.train_x), recipe.batch_size, recipe.steps, member.seed)
    for batch in batches:
        logits = model(data.train_x[batch])
        loss = nn.functional.cross_entropy(logits, data.train_y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
