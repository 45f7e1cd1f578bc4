"""Does the optimum of the small model serve the large one? A sweep at several sizes, its law and a verdict."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from isoscale import stats as laws
from isoscale.errors import InvalidValueError
from isoscale.runs import Runner, RunOptions, Sweep, SweepResult
from isoscale.runs.result import STATUS

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Transfer:
    """The verdict on hyperparameter transfer along one size axis.

    Attributes:
        data: Dataset over (rule, <axis>[, lr, seed]): `loss`, `status`; `optimal_lr`, `optimal_lr_low`,
            `optimal_lr_high`, `at_edge`; `best_loss`, `best_loss_se`; `drift`, `drift_low`, `drift_high` in
            octaves; `rate_used`, `loss_transferred`, `lost_seeds`; `regret`, `regret_low`, `regret_high`; and by rule
            `exponent`, `exponent_low`,
            `exponent_high`, `coefficient` (optimum against size), `verdict`, `good`.
        result: The sweep behind it.
        axis, base: The size dimension and the size that was tuned.
    """

    data: xr.Dataset
    result: SweepResult
    axis: str
    base: int

    @property
    def target(self) -> int:
        """The largest size."""
        return int(self.data[self.axis].values[-1])

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict of each rule, in words."""
        return dict(zip(self.data["rule"].values.tolist(), self.data["verdict"].values.tolist(), strict=True))

    def is_good(self, rule: str) -> bool:
        """Whether the base's learning rate serves the largest size under that rule."""
        return bool(self.data["good"].sel(rule=rule))

    @property
    def answer(self) -> str:
        """The verdict in one sentence."""
        return self.data.attrs["answer"]

    def drifts_beyond(self, octaves: float) -> list[str]:
        """Rules whose optimum at the largest size is further than that from the base's, or unknown."""
        drift = self.data["drift"].sel({self.axis: self.target})
        edges = self.data["at_edge"].sel({self.axis: [self.base, self.target]})
        far = ~(np.abs(drift.values) <= octaves) | (edges != "").any(self.axis).values
        return self.data["rule"].values[far].tolist()

    def _repr_html_(self) -> str:
        return self.data._repr_html_()


def transfer(
    spec: Sweep,
    base: Mapping[str, int] | None = None,
    *,
    runner: Runner | None = None,
    **where: Unpack[RunOptions],
) -> Transfer:
    """Sweep at several depths (or widths) and judge whether the base's learning rate serves the largest.

    Args:
        spec: The grid, with several depths or several widths, not both.
        base: The tuned size, `dict(depth=4)` or `dict(width=64)`; the spec's own base by default.
        runner: Where and how to run; instead of the following.
        **where: As for `isoscale.sweep`: store, engine, workers, device, data, progress, engine_address, gpu_share.

    Raises:
        InvalidValueError: Sizes on both axes or on none, or a base that is not among the sizes.

    >>> from isoscale.runs import log2_grid
    >>> transfer(Sweep(widths=[16, 32], depths=[2, 4], lrs=log2_grid(-4, 0)))
    Traceback (most recent call last):
    isoscale.errors.InvalidValueError: transfer goes along one axis: give several depths or several widths, not both
    """
    axis, base_size, _ = question(spec, base)
    runner = runner or Runner(**where)
    started = time.monotonic()
    (result,) = runner.run([based(spec, base)])
    return judge(result, axis, base_size, seconds=time.monotonic() - started)


def based(spec: Sweep, base: Mapping[str, int] | None = None) -> Sweep:
    """The sweep with the tuned size as the rules' base."""
    axis, size, _ = question(spec, base)
    changes: dict[str, Any] = {f"base_{axis}": size}
    return dataclasses.replace(spec, **changes)


def judge(
    result: SweepResult,
    axis: str,
    base: int,
    *,
    limits: laws.Limits | None = None,
    seconds: float = 0.0,
) -> Transfer:
    """The verdict on a finished sweep; `limits` are those of `isoscale.stats.Limits`."""
    other = "width" if axis == "depth" else "depth"
    loss = result.loss.isel({other: 0}, drop=True)
    optima = laws.Optima(loss)
    data = optima.best().rename(
        lr="optimal_lr",
        lr_low="optimal_lr_low",
        lr_high="optimal_lr_high",
        loss="best_loss",
        loss_se="best_loss_se",
        lr_se="optimal_lr_se",
    )
    for found in (optima.drift(axis, base), optima.regret(axis, base), optima.transferred(axis, base)):
        data = data.merge(found)
    data = data.assign(loss=loss, status=result.data["status"].isel({other: 0}, drop=True))
    data = data.merge(_exponents(data, axis))
    verdicts = [_verdict(data.sel(rule=rule), axis, base, limits) for rule in data["rule"].values]
    data["verdict"] = ("rule", [words for words, _ in verdicts])
    data["good"] = ("rule", np.array([serves is True for _, serves in verdicts], np.int8))
    answers = {rule: serves for rule, (_, serves) in zip(data["rule"].values.tolist(), verdicts, strict=True)}
    data.attrs = _attributes(result, data, axis, base, seconds) | {"answer": _answer(answers, axis, base, data)}
    return Transfer(data, result, axis, base)


def question(spec: Sweep, base: Mapping[str, int] | None = None) -> tuple[str, int, int]:
    """What `transfer` will ask: the axis, the tuned size and the largest size.

    Raises:
        InvalidValueError: Sizes on both axes or on none, or a base that is not among the sizes.
    """
    axis = _axis(spec)
    sizes = spec.depths if axis == "depth" else spec.widths
    size = _base(spec, base, axis)
    if size not in sizes:
        raise InvalidValueError(f"`base` {axis} {size} is not among the {axis}s {', '.join(map(str, sizes))}")
    return axis, size, max(sizes)


def ask(axis: str, base: int, target: int) -> str:
    """The question in words."""
    return f"Does the learning rate of {axis} {base} serve {axis} {target}?"


def _axis(spec: Sweep) -> str:
    many = [axis for axis, sizes in (("depth", spec.depths), ("width", spec.widths)) if len(sizes) > 1]
    if len(many) != 1:
        count = "not both" if many else "at least two"
        raise InvalidValueError(f"transfer goes along one axis: give several depths or several widths, {count}")
    return many[0]


def _base(spec: Sweep, base: Mapping[str, int] | None, axis: str) -> int:
    if base is None:
        size = spec.base_depth if axis == "depth" else spec.base_width
        assert size is not None
        return size
    if set(base) != {axis}:
        raise InvalidValueError(f"`base` must name the {axis} that was tuned, got {dict(base)!r}")
    return base[axis]


def _exponents(data: xr.Dataset, axis: str) -> xr.Dataset:
    """Law of the optimum against size, for rules with at least three optima that are not bounds."""
    import xarray as xr

    names = ("exponent", "exponent_low", "exponent_high", "coefficient")
    rows = []
    for rule in data["rule"].values:
        of_rule = data.sel(rule=rule)
        inside = of_rule["at_edge"].values == ""
        if inside.sum() < 3:
            rows.append([math.nan] * len(names))
            continue
        law = laws.fit_power_law(of_rule[axis].values[inside], of_rule["optimal_lr"].values[inside])
        rows.append([getattr(law, name) for name in names])
    columns = zip(names, np.array(rows).T, strict=True)
    return xr.Dataset({name: ("rule", column) for name, column in columns}, {"rule": data["rule"]})


def _verdict(
    of_rule: xr.Dataset,
    axis: str,
    base: int,
    limits: laws.Limits | None,
) -> tuple[str, bool | None]:
    """Words, and whether the base's learning rate serves the largest size; None if this sweep cannot say."""
    sizes = of_rule[axis].values
    target = int(sizes[-1])
    curves = {}
    for size in (base, target):
        at = of_rule.sel({axis: size})
        if (at["status"] > STATUS["diverged"]).any():
            return f"no verdict: trials failed at {axis} {size}", None
        curves[size] = _curve(at["loss"])
    found = laws.judge(curves[base], curves[target], limits, names=(f"{axis} {base}", f"{axis} {target}"))
    if found.answer == "transfers":
        return "transfers", True
    return f"{found.answer}: {found.reason}", False if found.answer == "does not transfer" else None


def _curve(loss: xr.DataArray) -> laws.Curve:
    loss = loss.transpose("lr", "seed")
    return laws.Curve.of_grid(np.log2(loss["lr"].values), loss["seed"].values, loss.values)


def _attributes(result: SweepResult, data: xr.Dataset, axis: str, base: int, seconds: float) -> dict[str, Any]:
    spec = result.spec
    target = int(data[axis].values[-1])
    return {
        "axis": axis,
        "base": base,
        "question": ask(axis, base, target),
        "model": describe_model(spec),
        "dataset": spec.dataset,
        "optimizer": spec.optimizer,
        "dataset_note": result.note,
        "versions": json.dumps(result.versions[-1] if result.versions else {}),
        "spec": spec.to_toml(),
        "trials": spec.trials,
        "diverged": result.count("diverged"),
        "failed": result.count("failed"),
        "seconds": seconds,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe_model(spec: Sweep) -> str:
    """The model and its options, as a person says it: "residual-mlp (block_depth=2, phi=relu)"."""
    options = ", ".join(f"{key}={value}" for key, value in spec.model_args.items())
    return f"{spec.model} ({options})" if options else spec.model


def _answer(found: Mapping[str, bool | None], axis: str, base: int, data: xr.Dataset) -> str:
    good, bad, unknown = ([rule for rule, serves in found.items() if serves is it] for it in (True, False, None))
    parts = [f"Yes, with {_list(good)}"] if good else []
    if bad:
        does = f"does the learning rate of {axis} {base} serve {axis} {data[axis].values[-1]}"
        parts.append(f"not with {_list(bad)}" if good else f"No: with none of {_list(bad)} {does}")
    if unknown:
        parts.append(f"{'no' if parts else 'No'} verdict on {_list(unknown)}")
    return "; ".join(parts) + "."


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
