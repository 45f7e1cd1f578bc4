"""How often `check` and `audit` are wrong: correct plans that alarm, injected faults that pass.

Every case is one model under one rule and optimizer, along width or depth, with or without one fault. Sizes are small:
small studies are where a check is tempted to be wrong. Finished cases are kept in a file, and a second run goes on
where the first was stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from scipy import stats
from torch import Tensor, nn

from isoscale import models, rules
from isoscale.measure import Thresholds, audit, coordinate_check
from isoscale.measure.tools.slopes import DEPENDS, UNCLEAR, failures
from isoscale.scaling.roles import Role
from isoscale.scaling.rules import Rule

Batch = tuple[Tensor, Tensor]
Make = Callable[..., nn.Module]

STEPS = 5
RATES = {"sgd": 0.05, "adamw": 1e-3, "sign": 3e-4, "muon": 3e-3}


# --- models ---
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model at any size, with its data.

    Attributes:
        make: Called with width, depth and seed.
        data: "features", "images" or "tokens".
        widths, depths: Measured along each axis; the other axis is held at its first entry.
        axes: Along which a rule promises anything.
        maps: Linear layers of a branch; 0 without branches.
        hidden: Pattern of a hidden matrix, for the fault that misreads it.
        samples: In a batch.
        optimizers: Those to try.
        unseen: Whether no threshold was chosen with it.
    """

    make: Make
    data: str
    widths: tuple[int, ...] = (16, 32, 64, 128)
    depths: tuple[int, ...] = (2, 4, 8, 16)
    axes: tuple[str, ...] = ("width", "depth")
    maps: int = 2
    hidden: str = ""
    samples: int = 4
    optimizers: tuple[str, ...] = ("sgd", "adamw", "muon")
    unseen: bool = False

    def sizes(self, axis: str) -> dict[str, tuple[int, ...]]:
        if axis == "width":
            return {"widths": self.widths, "depths": self.depths[:1]}
        return {"widths": self.widths[1:2], "depths": self.depths}


FEATURES, CLASSES, VOCABULARY, CONTEXT = 8, 4, 17, 8


def batches(subject: Subject, seed: int) -> list[Batch]:
    """One for each step."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(STEPS):
        count = subject.samples
        if subject.data == "tokens":
            text = torch.randint(VOCABULARY, (count, CONTEXT + 1), generator=generator)
            found.append((text[:, :-1], text[:, 1:]))
            continue
        shape = (FEATURES,) if subject.data == "features" else (2, 4, 4)
        x = torch.randn(count, *shape, generator=generator)
        y = torch.randint(CLASSES, (count,), generator=generator)
        found.append((x, y))
    return found


def loss_fn(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def built_in(name: str, **options: Any) -> Make:
    """A model of isoscale's."""
    inputs: dict[str, Any] = {"out_features": CLASSES}
    if models.takes(name) == "tokens":
        inputs = {"out_features": VOCABULARY, "in_shape": (CONTEXT,)}
    elif models.takes(name) == "images":
        inputs["in_shape"] = (2, 4, 4)
    else:
        inputs["in_shape"] = (FEATURES,)

    def make(width: int, depth: int, seed: int) -> nn.Module:
        return models.build(name, options, width=width, depth=depth, seed=seed, **inputs)

    return make


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = [part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def perceptron(width: int, ratio: int = 2, phi: type[nn.Module] = nn.GELU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, ratio * width), phi(), nn.Linear(ratio * width, width))


class Residual(nn.Module):
    """first, blocks of branches, last: h = h + branch(h), with a norm before or after each branch.

    Args:
        branches: Makes the branches of a block.
        norm: Makes a norm of that width; None for none.
        norm_last: Whether it stands at the branch's end.
        std: Of every weight at every width; None: torch's defaults.
    """

    def __init__(
        self,
        first: nn.Module,
        last: nn.Module,
        depth: int,
        branches: Callable[[], Sequence[nn.Module]],
        norm: Callable[[], nn.Module] | None,
        *,
        norm_last: bool = False,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.first, self.last = first, last
        blocks = []
        for _ in range(depth):
            of_block = []
            for branch in branches():
                parts = [branch] if norm is None else [norm(), branch]
                of_block.append(nn.Sequential(*(parts[::-1] if norm_last else parts)))
            blocks.append(nn.ModuleList(of_block))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if norm is None else norm()
        if std is not None:
            for module in self.modules():
                if isinstance(module, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(module.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            for branch in block:
                h = h + branch(h)
        return self.last(self.norm(h))


def gpt2(width: int, depth: int) -> nn.Module:
    """Small init at every width, two heads of any size, logits over the root of it."""
    return Residual(
        nn.Embedding(VOCABULARY, width),
        nn.Linear(width, VOCABULARY, bias=False),
        depth,
        lambda: (Attention(width, 2), perceptron(width)),
        lambda: nn.LayerNorm(width),
        std=0.02,
    )


def llama(width: int, depth: int) -> nn.Module:
    return Residual(
        nn.Embedding(VOCABULARY, width),
        nn.Linear(width, VOCABULARY, bias=False),
        depth,
        lambda: (Attention(width, width // 8), Gated(width)),
        lambda: nn.RMSNorm(width),
    )


def sandwich(width: int, depth: int) -> nn.Module:
    """A norm at the end of each branch."""
    return Residual(
        nn.Linear(FEATURES, width),
        nn.Linear(width, CLASSES),
        depth,
        lambda: (perceptron(width),),
        lambda: nn.LayerNorm(width),
        norm_last=True,
    )


def gated(width: int, depth: int) -> nn.Module:
    return Residual(
        nn.Linear(FEATURES, width),
        nn.Linear(width, CLASSES),
        depth,
        lambda: (Gated(width),),
        lambda: nn.LayerNorm(width),
        std=0.02,
    )


def biased(width: int, depth: int) -> nn.Module:
    """Torch's defaults, biases everywhere, no norm."""
    return Residual(
        nn.Linear(FEATURES, width),
        nn.Linear(width, CLASSES),
        depth,
        lambda: (perceptron(width, 1, nn.Tanh),),
        None,
    )


def plain(width: int, depth: int) -> nn.Module:
    """No branches: hidden layers one after the other."""
    layers: list[nn.Module] = [nn.Linear(FEATURES, width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


_CONV: dict[str, Any] = {"data": "images", "widths": (8, 16, 32, 64), "samples": 2, "optimizers": ("sgd", "adamw")}
_TEXT: dict[str, Any] = {"data": "tokens", "widths": (16, 32, 64), "depths": (2, 4, 8), "samples": 1}
_IMAGE_TOKENS: dict[str, Any] = {"data": "images", "widths": (16, 32, 64), "depths": (2, 4, 8), "samples": 2}

SUBJECTS: dict[str, Subject] = {
    "residual-mlp": Subject(make=built_in("residual-mlp"), data="features", hidden="blocks.*.maps.0.weight"),
    "residual-mlp, one layer": Subject(
        make=built_in("residual-mlp", block_depth=1, phi="tanh"),
        data="features",
        maps=1,
        hidden="blocks.0.maps.0.weight",
    ),
    "residual-mlp, layer norm, gelu": Subject(
        make=built_in("residual-mlp", norm="layer", phi="gelu"), data="features", hidden="blocks.*.maps.0.weight"
    ),
    "residual-mlp, 32 samples": Subject(
        make=built_in("residual-mlp"), data="features", samples=32, hidden="blocks.*.maps.0.weight"
    ),
    "conv-net": Subject(make=built_in("conv-net", init="he"), axes=("width",), maps=0, **_CONV),
    "conv-resnet, pre": Subject(make=built_in("conv-resnet", block="pre", block_depth=2), **_CONV),
    "gpt": Subject(make=built_in("gpt", head_size=8), hidden="blocks.*.mlp.up.weight", **_TEXT),
    "gpt2, std 0.02": Subject(make=gpt2, hidden="blocks.*.1.1.0.weight", **_TEXT),
    "gpt2, std 0.02, 4 samples": Subject(make=gpt2, hidden="blocks.*.1.1.0.weight", **(_TEXT | {"samples": 4})),
    "vit": Subject(make=built_in("vit", head_size=8, patch=2), hidden="blocks.*.mlp.up.weight", **_IMAGE_TOKENS),
    "plain": Subject(make=plain, data="features", axes=("width",), maps=0, hidden="2.weight"),
    "norm at the branch's end": Subject(make=sandwich, data="features", hidden="blocks.*.0.0.0.weight"),
    # Never looked at while thresholds were chosen.
    "llama": Subject(make=llama, hidden="blocks.*.1.1.up.weight", unseen=True, **_TEXT),
    "gated, std 0.02": Subject(make=gated, data="features", hidden="blocks.*.0.1.up.weight", unseen=True),
    "biases, tanh": Subject(make=biased, data="features", hidden="blocks.*.0.0.0.weight", unseen=True),
    "conv-net, batch norm, gelu": Subject(
        make=built_in("conv-net", norm="batch", phi="gelu"), axes=("width",), maps=0, unseen=True, **_CONV
    ),
    "conv-resnet, post": Subject(
        make=built_in("conv-resnet", block="post", block_depth=2, phi="relu", norm="batch"), unseen=True, **_CONV
    ),
    "gpt, rms norm, 2 heads": Subject(
        make=built_in("gpt", heads=2, norm="rms", phi="relu"), hidden="blocks.*.mlp.up.weight", unseen=True, **_TEXT
    ),
}


# --- faults ---
class CoupledDecay(torch.optim.AdamW):
    """One decay for all groups, as if lr x decay took care of itself."""

    def __init__(self, groups: Any) -> None:
        groups = [group | {"weight_decay": DECAY if group["weight_decay"] else 0.0} for group in groups]
        super().__init__(groups)


class Flattened(torch.optim.AdamW):
    """A scheduler that sets one learning rate for all groups."""

    def step(self, closure: Any = None) -> Any:
        most = max(group["lr"] for group in self.param_groups)
        for group in self.param_groups:
            group["lr"] = most
        return super().step(closure)


DECAY = 0.1


@dataclass(frozen=True)
class Fault:
    """What is wrong with a plan.

    Attributes:
        rule: What becomes of the rule.
        axes: Along which it must show.
        optimizers: Under which it exists; empty for any.
        optimizer: A class in the family's place.
        models: Which have it; empty for any. Of those without `hidden`, none has a hidden layer to misread.
    """

    rule: Callable[[Rule], Rule] = lambda rule: rule
    axes: tuple[str, ...] = ("width",)
    optimizers: tuple[str, ...] = ()
    optimizer: type | None = None
    models: tuple[str, ...] = ()
    hidden_as_input: bool = False


def _width_row(role: Role, **changes: float) -> Callable[[Rule], Rule]:
    def wrong(rule: Rule) -> Rule:
        row = replace(rule.width[role], **changes)
        return replace(rule, name=f"{rule.name}, broken", width={**rule.width, role: row})

    return wrong


def _without_branch_multiplier(rule: Rule) -> Rule:
    return replace(rule, name=f"{rule.name}, broken", depth=replace(rule.depth, branch=0.0))


def _with_torch_head_scale(rule: Rule) -> Rule:
    return replace(rule, name=f"{rule.name}, broken", head_size=0.0)


_TEXT_MODELS = ("gpt", "gpt2, std 0.02", "llama", "gpt, rms norm, 2 heads")

FAULTS: dict[str, Fault] = {
    "readout multiplier forgotten": Fault(_width_row(Role.OUTPUT, multiplier=0.0, init_std=-0.5, sgd=0.0, eps=0.0)),
    "Muon scaled twice": Fault(_width_row(Role.HIDDEN, muon=0.5), optimizers=("muon",)),
    "embedding untied": Fault(_width_row(Role.OUTPUT, multiplier=0.0), models=_TEXT_MODELS),
    "decay coupled to the rate": Fault(optimizers=("adamw",), optimizer=CoupledDecay),
    "branch multiplier missing": Fault(_without_branch_multiplier, axes=("depth",)),
    "attention over the root of the head": Fault(_with_torch_head_scale, models=("gpt2, std 0.02",)),
    "hidden layer taken for an input": Fault(hidden_as_input=True),
    "groups flattened": Fault(axes=("width", "depth"), optimizers=("adamw",), optimizer=Flattened),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model, rule, optimizer and axis; `fault` is empty for a correct plan, or "rule" where it must fail itself."""

    model: str
    rule: str
    optimizer: str
    axis: str
    fault: str = ""
    seed: int


def promises(rule: str, subject: Subject, axis: str) -> bool:
    """Whether the rule keeps every quantity along that axis."""
    if axis == "width":
        return rule not in ("sp", "ntp")
    if rule == "completep":
        return subject.maps >= 2
    # One layer a branch has no inner projection to collapse.
    return rule == "depth-mup" and subject.maps == 1


def must_fail(rule: str, subject: Subject, axis: str) -> bool:
    """Whether theory names a quantity that grows or dies like a power of 1/2 or more."""
    if axis == "width":
        return rule == "sp"
    if rule in ("depth-mup", "depth-mup-corrected"):
        return subject.maps >= 2
    return rule in ("sp", "mup")


def cases(seed: int, *, unseen: bool | None = None) -> Iterator[Case]:
    """All of them; each gets seeds of its own, from `seed` on."""
    for name, subject in SUBJECTS.items():
        if unseen is not None and subject.unseen is not unseen:
            continue
        for axis in subject.axes:
            for optimizer in subject.optimizers:
                common = {"model": name, "optimizer": optimizer, "axis": axis}
                for rule in _rules(subject, axis, optimizer):
                    fault = "" if promises(rule, subject, axis) else "rule"
                    yield Case(**common, rule=rule, fault=fault, seed=seed)
                    seed += 10
                for fault, row in FAULTS.items():
                    if _applies(row, name, subject, axis, optimizer):
                        rule = "depth-mup" if axis == "depth" and subject.maps == 1 else "completep"
                        yield Case(**common, rule=rule, fault=fault, seed=seed)
                        seed += 10


def _rules(subject: Subject, axis: str, optimizer: str) -> list[str]:
    """Those that promise something or must fail; the width rules differ in depth only, so one or two do."""
    if axis == "width":
        return ["completep", "mup", "sp"] if optimizer != "muon" else ["am-mup", "sp"]
    chosen = ["completep", "depth-mup", "mup"]
    if optimizer == "adamw":
        chosen.append("depth-mup-corrected")
    return [rule for rule in chosen if promises(rule, subject, axis) or must_fail(rule, subject, axis)]


def _applies(fault: Fault, name: str, subject: Subject, axis: str, optimizer: str) -> bool:
    fits = axis in fault.axes
    fits = fits and (not fault.optimizers or optimizer in fault.optimizers)
    fits = fits and (not fault.models or name in fault.models)
    return fits and (bool(subject.hidden) or not fault.hidden_as_input)


# --- one case ---
def settings(case: Case) -> dict[str, Any]:
    """Arguments that `check` and `audit` share."""
    subject = SUBJECTS[case.model]
    fault = FAULTS.get(case.fault, Fault())
    seeds = [case.seed, case.seed + 1, case.seed + 2]
    return {
        "rule": fault.rule(rules.get(case.rule)),
        "optimizer": fault.optimizer or case.optimizer,
        "roles": {subject.hidden: Role.INPUT} if fault.hidden_as_input else None,
        "seeds": seeds,
        **subject.sizes(case.axis),
    }


def measure(case: Case) -> dict[str, Any]:
    """What `check` and `audit` answer to a case."""
    subject = SUBJECTS[case.model]
    given = batches(subject, case.seed)
    shared = settings(case)
    checked = coordinate_check(
        subject.make, given, loss_fn, lr=RATES[case.optimizer], weight_decay=DECAY, steps=STEPS, **shared
    )
    audited = audit(subject.make, given[0], loss_fn, **shared)
    found: dict[str, Any] = {}
    for name, result in (("check", checked), ("audit", audited)):
        off = failures(result.exponents)
        by = "module" if name == "check" else "role"
        found[name] = result.answer
        found[f"{name}_rows"] = [f"{row[by]} {row['quantity']} {row['verdict']}" for _, row in off.iterrows()]
    found["toothless"] = list(checked.toothless)
    return found


# --- the study ---
@dataclass(frozen=True)
class Study:
    """Which cases, and where the results go."""

    seed: int = 50_000
    """First of the seeds: 50,000 and on were used for nothing else."""
    cases: int = 300
    """How many, in an order drawn by `seed`."""
    kept: Path = Path("alarms.jsonl")
    """File that keeps each finished case."""
    page: Path = Path("docs/results/alarms.md")
    """Page to write."""
    seconds: float = math.inf
    """Start no case after so long; another run goes on."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A case and what came of it."""

    case: Case
    check: str
    audit: str
    check_rows: list[str] = field(default_factory=list)
    audit_rows: list[str] = field(default_factory=list)
    toothless: list[str] = field(default_factory=list)

    def alarm(self, tool: str) -> bool:
        """Whether "check", "audit" or "either" says that an effect depends on the size."""
        return DEPENDS in ((self.check, self.audit) if tool == "either" else (getattr(self, tool),))


def drawn(chosen: Study) -> list[Case]:
    """The cases of a study: in turn a correct plan and one that is not, each kind in random order."""
    order = random.Random(chosen.seed)
    every = list(cases(chosen.seed))
    faulty = [case for case in every if case.fault]
    # There are fewer correct plans: they come twice, with other seeds.
    correct = [case for case in (*every, *cases(chosen.seed + 10_000)) if not case.fault]
    for of_kind in (correct, faulty):
        order.shuffle(of_kind)
    pairs = itertools.chain.from_iterable(zip(correct, faulty, strict=False))
    return list(pairs)[: chosen.cases]


def run(chosen: Study, out: Console) -> list[Result]:
    """Measure what is not kept yet."""
    kept = read(chosen.kept)
    until = time.monotonic() + chosen.seconds
    todo = [case for case in drawn(chosen) if case not in kept]
    out.print(f"{len(kept)} cases are done, {len(todo)} are not")
    for case in todo:
        if time.monotonic() > until:
            break
        kept[case] = Result(case=case, **measure(case))
        with chosen.kept.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(kept[case])) + "\n")
        out.print(
            case.model,
            case.rule,
            case.optimizer,
            case.axis,
            case.fault or "correct",
            kept[case].check,
            kept[case].audit,
        )
    return [kept[case] for case in drawn(chosen) if case in kept]


def read(path: Path) -> dict[Case, Result]:
    """The finished cases of a file."""
    found: dict[Case, Result] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            row = json.loads(line)
            case = Case(**row.pop("case"))
            found[case] = Result(case=case, **row)
    return found


# --- the page ---
_TOOLS = ("check", "audit", "either")


def share(count: int, of: int) -> str:
    """A share with Wilson's 95 % interval.

    >>> share(1, 4)
    '1 of 4: 25.0 % [4.6, 69.9]'
    """
    if not of:
        return "-"
    interval = stats.binomtest(count, of).proportion_ci(method="wilson")
    percent = 100 * np.array([count / of, interval.low, interval.high])
    return "{} of {}: {:.1f} % [{:.1f}, {:.1f}]".format(count, of, *percent)


def _row(label: str, results: Sequence[Result]) -> str:
    cells = [share(sum(result.alarm(tool) for result in results), len(results)) for tool in _TOOLS]
    return f"| {label} | " + " | ".join(cells) + " |"


def _table(first: str, rows: Mapping[str, Sequence[Result]]) -> list[str]:
    head = f"| {first} | alarm of check | alarm of audit | of either |"
    return [head, "| --- | --- | --- | --- |", *(_row(label, of_label) for label, of_label in rows.items()), ""]


def _by(results: Sequence[Result], key: Callable[[Case], str]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(key(result.case), []).append(result)
    return dict(sorted(found.items()))


def _wrong(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        case = result.case
        what = f"{case.model}, {case.rule}, {case.optimizer}, {case.axis}, seeds from {case.seed}"
        if case.fault:
            yield f"* missed: {case.fault}; {what}: check {result.check}, audit {result.audit}"
        else:
            rows = [*(f"check: {row}" for row in result.check_rows), *(f"audit: {row}" for row in result.audit_rows)]
            yield f"* false alarm: {what}: {'; '.join(rows)}"


def page(results: Sequence[Result], chosen: Study) -> str:
    """The page: how often each of the two is wrong, by fault and by model, and every case in which both are."""
    correct = [result for result in results if not result.case.fault]
    by_rule = [result for result in results if result.case.fault == "rule"]
    injected = [result for result in results if result.case.fault not in ("", "rule")]
    undecided = Counter()
    for result in correct:
        for tool in ("check", "audit"):
            undecided[tool] += getattr(result, tool).startswith(UNCLEAR)
    toothless = sum(bool(result.toothless) for result in correct)
    unseen = [result for result in correct if SUBJECTS[result.case.model].unseen]
    wrong = [result for result in correct if result.alarm("either")]
    wrong += [result for result in (*injected, *by_rule) if not result.alarm("either")]
    thresholds = Thresholds()
    lines = [
        "# How often `check` and `audit` are wrong",
        "",
        f"{len(results)} cases, the first of {chosen.cases} in an order drawn at random, each with 3 seeds of its own "
        f"from {chosen.seed} on; `benchmarks/alarms.py` runs them and writes this page. Shares have Wilson's 95 % "
        "interval. Thresholds were chosen on other seeds, and on the models without a star; those with a star were "
        "not looked at before.",
        "",
        f"Thresholds: tolerance {thresholds.tolerance:g}, failure {thresholds.failure:g}, level {thresholds.level:g}. "
        f"`check`: {STEPS} steps, base learning rates "
        + ", ".join(f"{name} {rate:g}" for name, rate in RATES.items())
        + f", decay {DECAY:g}; `audit`: one step.",
        "",
        "Which effects of finite size the two do not take for failures is in [theory](../theory.md), section 5.",
        "To run it again: `python benchmarks/alarms.py`.",
        "",
        "| sizes | models |",
        "| --- | --- |",
        *(f"| {text} | {names} |" for text, names in _sizes().items()),
        "",
        "## In short",
        "",
        *_table(
            "",
            {
                "correct plans (an alarm is false)": correct,
                "of these, models never looked at": unseen,
                "injected faults": injected,
                "rules that cannot keep what is asked": by_rule,
            },
        ),
        f'On correct plans `check` answers "not decided at these sizes" in {share(undecided["check"], len(correct))}, '
        f"`audit` in {share(undecided['audit'], len(correct))}; in {share(toothless, len(correct))} `check` says that "
        "it could not have failed, as standard parametrization is not seen to fail either.",
        "",
        "## By fault",
        "",
        *_table("fault", _by(injected, lambda case: case.fault)),
        *_table("rule and axis", _by(by_rule, lambda case: f"{case.rule}, {case.axis}")),
        "## Correct plans, by model and by optimizer",
        "",
        *_table("model", _by(correct, _starred)),
        *_table("optimizer and axis", _by(correct, lambda case: f"{case.optimizer}, {case.axis}")),
        "## Every wrong answer",
        "",
        *_wrong(wrong),
        "",
    ]
    return "\n".join(lines)


def _starred(case: Case) -> str:
    return case.model + (" *" if SUBJECTS[case.model].unseen else "")


def _sizes() -> dict[str, str]:
    """The models, by their sizes in words."""
    found: dict[str, list[str]] = {}
    for name, subject in SUBJECTS.items():
        text = f"widths {', '.join(map(str, subject.widths))}; depths {', '.join(map(str, subject.depths))}"
        found.setdefault(text, []).append(name)
    return {text: "; ".join(names) for text, names in found.items()}


def main() -> int:
    chosen = tyro.cli(Study, description=__doc__)
    out = Console(width=160)
    results = run(chosen, out)
    chosen.page.write_text(page(results, chosen))
    out.print(f"written: {chosen.page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
