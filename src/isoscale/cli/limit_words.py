"""What `isoscale limit` says: losses with their errors, verdicts, and the distance of a finite network."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, SupportsFloat

from rich.console import Console

from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import xarray as xr

Table = tuple[list[str], list[list[str]]]


def sizes(text: str) -> dict[str, int]:
    """ "width=512,depth=8" as numbers.

    >>> sizes("width=512,depth=8")
    {'width': 512, 'depth': 8}
    """
    found = dict(re.findall(r"(width|depth)=(\d+)", text))
    rest = re.sub(r"(width|depth)=\d+,?", "", text)
    # What is left over would be ignored in silence.
    if set(found) != {"width", "depth"} or rest:
        raise InvalidValueError(f"sizes are written width=512,depth=8, got {text!r}")
    return {name: int(value) for name, value in found.items()}


def classes(text: str | None, count: int) -> list[int]:
    """ "3,5" as numbers; all classes if None.

    >>> classes("3,5", 10), classes(None, 2)
    ([3, 5], [0, 1])
    """
    if text is None:
        return list(range(count))
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InvalidValueError(f"classes are written 3,5, got {text!r}")
    chosen = [int(part) for part in parts]
    if len(set(chosen)) != len(chosen) or len(chosen) < 2 or max(chosen) >= count:
        raise InvalidValueError(f"`classes` must hold two or more different classes of 0..{count - 1}, got {text!r}")
    return chosen


def betas(text: str) -> list[float]:
    """ "0.9,0.999" as numbers.

    >>> betas("0.9,0.999")
    [0.9, 0.999]
    """
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidValueError(f"betas are written 0.9,0.999, got {text!r}") from None
    return [first, second]


# --- tables: columns and rows ---
def losses(runs: dict[str, xr.Dataset], steps: int) -> Table:
    """The loss of every run, at about ten steps and the last."""
    # A long training fits a screen too.
    every = max(1, steps // 10)
    columns = ["step"]
    for label in runs:
        columns.append(f"loss ({label})")
    rows = []
    for step in range(steps + 1):
        if step % every and step != steps:
            continue
        row = [str(step)]
        for run in runs.values():
            row.append(plus_minus(run["loss"][step], run["loss_se"][step]))
        rows.append(row)
    return columns, rows


def exponents(data: xr.Dataset) -> Table:
    """The fitted exponents of convergence with their intervals."""
    rows = []
    for law in data["law"].values.tolist():
        fit = data.sel(law=law)
        row = [law]
        for name in ("exponent", "exponent_low", "exponent_high"):
            row.append(f"{float(fit[name]):+.2f}")
        rows.append(row)
    return ["law", "exponent", "95 % from", "to"], rows


def gaps(data: xr.Dataset) -> Table:
    """The gap between the versions at the last step, by horizon and depth."""
    last = data.isel(step=-1)
    depths = last["depth"].values
    columns = ["T"]
    for depth in depths:
        columns.append(f"depth {depth:g}")
    rows = []
    for horizon in last["horizon"].values:
        row = [f"{horizon:g}"]
        for depth in depths:
            cell = last.sel(horizon=horizon, depth=depth)
            row.append(plus_minus(cell["gap"], cell["gap_se"]))
        rows.append(row)
    return columns, rows


def rates(data: xr.Dataset) -> Table:
    """The learning rates that were tried, with the loss at the end of training."""
    rows = []
    for tried in data["tried"].values:
        cell = data.sel(tried=tried)
        mark = "best" if math.isclose(tried, float(data["lr"])) else ""
        rows.append([f"{tried:.4g}", plus_minus(cell["loss_tried"], cell["loss_tried_se"]), mark])
    return ["lr", "loss at the end", ""], rows


def drifts(data: xr.Dataset) -> Table:
    """The best learning rate of each depth and width, and how many octaves it is from infinite size."""
    rows = [["infinite", "infinite", f"{float(data['limit_lr']):.4g}", "0"]]
    for depth in data["depth"].values:
        cell = data.sel(depth=depth)
        rows.append(["infinite", str(depth), f"{float(cell['lr']):.4g}", octaves(cell, "drift")])
    shallowest = str(int(data["depth"][0]))
    for width in data["width"].values:
        cell = data.sel(width=width)
        rows.append([str(width), shallowest, f"{float(cell['lr_of_width']):.4g}", octaves(cell, "drift_of_size")])
    return ["width", "depth", "best lr", "octaves from infinite size"], rows


def returns(data: xr.Dataset) -> Table:
    """The loss at each depth and at infinity, and what doubling the depth saves."""
    rows = []
    for depth in data["depth"].values:
        cell = data.sel(depth=depth)
        gain, low, high = (float(cell[f"gain{end}"]) for end in ("", "_low", "_high"))
        saved = "-" if math.isnan(gain) else f"{gain:.4f} [{low:.4f}, {high:.4f}]"
        how = "measured" if int(cell["is_measured"]) else "from the fit"
        rows.append([str(depth), plus_minus(cell["loss"], cell["loss_se"]), saved, "" if saved == "-" else how])
    limit = float(data["limit"])
    at_infinity = plus_minus(limit, data["limit_se"]) if math.isfinite(limit) else "none"
    rows.append(["infinity", at_infinity, "", ""])
    return ["depth", "loss at the end", "a doubling saves", ""], rows


# --- sentences ---
def octaves(cell: xr.Dataset, name: str) -> str:
    """A drift with its interval."""
    value, low, high = (float(cell[f"{name}{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "an octave or more"
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def laws_of_drift(data: xr.Dataset) -> list[str]:
    """How the drift falls with depth and with width."""
    lines = []
    for law in data["law"].values:
        exponent, low, high = (float(data.sel(law=law)[f"exponent{end}"]) for end in ("", "_low", "_high"))
        if math.isnan(exponent):
            lines.append(f"With {law}: not at every size seen, or at too few; no exponent is fitted.")
        else:
            lines.append(f"With {law} it goes like {law}^{exponent:.2f} [{low:.2f}, {high:.2f}].")
    return lines


def drift_of(data: xr.Dataset) -> str:
    """How far the best rate of the one finite size is from that of infinite size."""
    of_size = data.isel(width=0)
    width, depth = int(of_size["width"]), int(data["depth"][0])
    return (
        f"Width {width}, depth {depth}: best learning rate {float(of_size['lr_of_width']):.4g}, "
        f"{octaves(of_size, 'drift_of_size')} octaves from infinite size; depth makes "
        f"{octaves(data.isel(depth=0), 'drift')} of it, width {octaves(of_size, 'drift_of_width')}."
    )


def is_depth_worth_it(data: xr.Dataset) -> str:
    """What all depth beyond the deepest can bring, and what its next doubling does."""
    deepest = data.isel(depth=-1)
    depth = int(deepest["depth"])
    left, low, high = (float(deepest[f"above_limit{end}"]) for end in ("", "_low", "_high"))
    if math.isnan(left):
        return "Without a limit of infinite depth there is no bound on what more depth brings."
    line = f"All depth beyond {depth} saves {left:.4f} [{low:.4f}, {high:.4f}] of the loss"
    gain = float(deepest["gain"])
    if math.isnan(gain):
        return f"{line}; under this rule errors do not fall like 1/depth, and the next doubling is not fitted."
    if high < 0:
        return f"{line}: more depth makes it worse."
    if low <= 0:
        return f"{line}: more depth is not seen to pay."
    return f"{line}, its next doubling {gain:.4f}."


def claim(training_gap: list[str]) -> str:
    """What was claimed of the gap between the versions and what was found, from its row of the exponents."""
    _, exponent, low, high = training_gap
    return (
        "Claim (Neural Feature Dynamics): the gap between independent and reused backward weights closes with "
        "depth. Measured: at step 0 it falls with width; in training its exponent in depth is "
        f"{exponent} [{low}, {high}]. An exponent of 0 means that it does not close."
    )


def two_terms(data: xr.Dataset) -> list[str]:
    """Whether the error in depth is c1/L + c2/L^2, by version; nothing for too few depths."""
    if "c2_over_c1" not in data:
        return []
    free = data.attrs["degrees_of_freedom"]
    lines = []
    for mode in data["mode"].values:
        fit = data.sel(mode=mode)
        ratio, low, high = (float(fit[f"c2_over_c1{end}"]) for end in ("", "_low", "_high"))
        both, one = float(fit["chi_squared"]), float(fit["chi_squared_of_one_term"])
        lines.append(
            f"{mode}: error in depth c1/L (1 + k/L) with k = {ratio:+.1f} [{low:+.1f}, {high:+.1f}], chi squared "
            f"{both:.1f} on {free}; c1/L alone {one:.1f} on {free + 1}."
        )
    return lines


def verdict(runs: dict[str, xr.Dataset], out: Console) -> None:
    """Where the two versions differ most, and what is to be said of each run."""
    if "independent" in runs:
        reused, independent = runs["reused"], runs["independent"]
        difference = independent["loss"] - reused["loss"]
        step = int(abs(difference).argmax("step"))
        se = _joint(reused["loss_se"][step], independent["loss_se"][step])
        most = plus_minus(difference[step], se)
        out.print(f"The two versions differ most at step {step}, by {most} in the loss.")
    for mode, run in runs.items():
        if run.attrs.get("diverged_step", -1) >= 0:
            out.print(f"{mode}: diverged at step {run.attrs['diverged_step']}")
        elif not run.attrs.get("tolerance_met", 1):
            error, asked = run.attrs["error"], run.attrs["tolerance"]
            out.print(f"{mode}: standard error {error:.2g}, not the {asked:.2g} asked for")


def distance(limit: xr.Dataset, at_depth: xr.Dataset, finite: xr.Dataset, size: dict[str, int], out: Console) -> None:
    """How far a finite network is from the limit, and how much of that is depth, how much width."""
    # finite - limit = (finite - infinitely wide at its depth) + (infinitely wide at its depth - limit)
    total = _apart(finite, limit)
    depth = _apart(at_depth, limit)
    width = _apart(finite, at_depth)
    if not math.isfinite(total + depth + width):
        out.print("A run diverged: there is no distance to the limit at the last step.")
        return
    se = _joint(finite["loss_se"][-1], limit["loss_se"][-1])
    # The error of finite depth is of order 1 / depth: twice the depth, half of it.
    gain = depth / 2
    out.print(
        f"Width {size['width']}, depth {size['depth']} is {plus_minus(total, se)} from the limit at the last step: "
        f"depth makes {depth:.4f} of it, width {width:.4f}. Doubling the depth would gain about {gain:.4f}."
    )


def _apart(a: xr.Dataset, b: xr.Dataset) -> float:
    """The distance of two runs' losses at the last step."""
    return abs(float(a["loss"][-1] - b["loss"][-1]))


def _joint(a: xr.DataArray, b: xr.DataArray) -> float:
    """The standard error of a difference: sqrt(a^2 + b^2)."""
    return float((a**2 + b**2) ** 0.5)


def plus_minus(value: SupportsFloat, se: SupportsFloat) -> str:
    """A loss with its standard error."""
    value, se = float(value), float(se)
    if not math.isfinite(value):
        return "diverged"
    if 0 < abs(value) < 1e-3:
        return f"{value:.3g} ± {se:.1g}"
    return f"{value:.4f} ± {se:.4f}"
