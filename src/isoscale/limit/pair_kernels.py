"""Functions of two Gaussians that a two-layer residual branch enters its limit through (docs/theory.md, section 9.3).

For centred (z_a, z_b) with covariance C_ab and variances C_aa, C_bb:

    value = E[phi(z_a) phi(z_b)],   slope = E[phi' phi'] = d value / d C_ab,   bend = E[phi'' phi''] = d slope / d C_ab
    value_b, slope_b: derivatives of value and slope in the variance C_bb

Closed forms for linear, ReLU and erf; otherwise series in Hermite polynomials, exact for smooth phi:
E[f(z_a) g(z_b)] = sum_m rho^m f_m g_m with the coefficients f_m of f(std_a x) and g_m of g(std_b x). With a norm before
the branch they are functions of the correlation alone. Under weight decay z is what is left of it, rho_a z_a and
rho_b z_b, and derivatives are still in the covariances of the stream.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float

from isoscale.errors import InvalidValueError
from isoscale.limit.activations import ERF_SCALE, Function, Phi, name, resolve
from isoscale.limit.blocks import Norm

Pairs = Float[np.ndarray, "... rows columns"]

# A relative error of a kernel that shows nowhere: series are summed until they are this close.
_SERIES_ERROR = 1e-8
_FEWEST_TERMS = 64
_MOST_TERMS = 1024
_NODES = 521
_END = 13.0

# Below it, that of a constant in effect: derivatives of phi are coefficients divided by it.
_LEAST_STD = 1e-3

# sin of the angle between two variables, below which they are taken for one: terms that are singular there cancel.
_LEAST_SINE = 1e-7


@dataclass(frozen=True)
class PairKernels:
    """The five functions at a block of pairs: rows b, columns a."""

    value: Pairs
    slope: Pairs
    bend: Pairs
    value_b: Pairs
    slope_b: Pairs


# (C_ab, C_aa, C_bb): the variances broadcast against the covariances (..., rows, columns): C_aa of shape
# (..., 1, columns), C_bb of (..., rows, 1).
_Plain = Callable[[Pairs, Pairs, Pairs], PairKernels]

# What decay has left of the first matrix: rho_a by column and rho_b by row, which broadcast likewise.
Left = tuple[np.ndarray, np.ndarray]


class Kernels(Protocol):
    """The functions, from the stream's covariances; `left` is None without decay."""

    def __call__(self, cov: Pairs, var_a: Pairs, var_b: Pairs, left: Left | None = None) -> PairKernels: ...


def kernels_of(phi: Phi, norm: Norm = None) -> Kernels:
    """The functions of an activation, of z itself or of z behind a norm of the stream."""
    plain = _CLOSED.get(phi) if isinstance(phi, str) else None
    found = _decayed(plain or _series(phi))
    return found if norm is None else _normed(found)


def all_pairs(phi: Phi, covariance: Float[np.ndarray, "samples samples"]) -> PairKernels:
    """The functions at all pairs of samples with this covariance.

    >>> all_pairs("relu", np.eye(2)).value.round(6).tolist()
    [[0.5, 0.159155], [0.159155, 0.5]]
    """
    variance = np.diagonal(covariance)
    return kernels_of(phi)(covariance, variance[None, :], variance[:, None])


def _decayed(plain: _Plain) -> Kernels:
    """Of rho_a z_a and rho_b z_b, with derivatives in the covariances of z_a and z_b."""

    def kernels(cov: Pairs, var_a: Pairs, var_b: Pairs, left: Left | None = None) -> PairKernels:
        if left is None:
            return plain(cov, var_a, var_b)
        left_a, left_b = left
        both = left_a * left_b
        of = plain(both * cov, left_a**2 * var_a, left_b**2 * var_b)
        return PairKernels(
            value=of.value,
            slope=both * of.slope,
            bend=both**2 * of.bend,
            value_b=left_b**2 * of.value_b,
            slope_b=left_b**2 * both * of.slope_b,
        )

    return kernels


def _normed(found: Kernels) -> Kernels:
    """Behind RMSNorm the variances are 1 and the covariance is the correlation; LayerNorm adds nothing to that."""

    def kernels(cov: Pairs, var_a: Pairs, var_b: Pairs, left: Left | None = None) -> PairKernels:
        _check_varies("behind a norm", var_a, var_b)
        scale = np.sqrt(var_a * var_b)
        rho = np.clip(cov / scale, -1.0, 1.0)
        one = np.ones((1,) * rho.ndim)
        of = found(rho, one, one, left)
        # rho moves with C_ab as 1/scale, and with C_bb as -rho/(2 C_bb).
        return PairKernels(
            value=of.value,
            slope=of.slope / scale,
            bend=of.bend / scale**2,
            value_b=-of.slope * rho / (2 * var_b),
            slope_b=-of.slope / (2 * scale * var_b) - of.bend * rho / (2 * scale * var_b),
        )

    return kernels


def _check_varies(where: str, *variances: Pairs) -> None:
    if any((variance == 0).any() for variance in variances):
        raise InvalidValueError(
            f"`x` holds a sample of zeros, at which a kernel {where} has no derivative: leave it out"
        )


# --- closed forms ---
def _linear(cov: Pairs, var_a: Pairs, var_b: Pairs) -> PairKernels:
    zero = np.zeros_like(cov)
    return PairKernels(value=cov, slope=np.ones_like(cov), bend=zero, value_b=zero, slope_b=zero)


def _relu(cov: Pairs, var_a: Pairs, var_b: Pairs) -> PairKernels:
    _check_varies("of ReLU", var_a, var_b)
    std_a, std_b = np.sqrt(var_a), np.sqrt(var_b)
    scale = std_a * std_b
    cosine = np.clip(cov / scale, -1.0, 1.0)
    angle = np.arccos(cosine)
    sine = np.maximum(np.sin(angle), _LEAST_SINE)
    away = np.pi - angle
    return PairKernels(
        value=scale * (np.sin(angle) + away * cosine) / (2 * np.pi),
        slope=away / (2 * np.pi),
        bend=1 / (2 * np.pi * scale * sine),
        value_b=std_a * np.sin(angle) / (4 * np.pi * std_b),
        slope_b=-cosine / (4 * np.pi * var_b * sine),
    )


def _erf(cov: Pairs, var_a: Pairs, var_b: Pairs) -> PairKernels:
    """Of phi(x) = erf(sqrt(pi) x / 2), whose slope at 0 is 1."""
    slope_squared = 2 * ERF_SCALE**2
    u = slope_squared * cov
    p, r = 1 + slope_squared * var_a, 1 + slope_squared * var_b
    # p r - u^2, at least 1 where |u| < p, r
    rest = p * r - u**2
    two_over_pi = 2 / math.pi
    return PairKernels(
        value=two_over_pi * np.arcsin(u / np.sqrt(p * r)),
        slope=two_over_pi * slope_squared / np.sqrt(rest),
        bend=two_over_pi * slope_squared**2 * u / rest**1.5,
        value_b=-two_over_pi * slope_squared * u / (2 * r * np.sqrt(rest)),
        slope_b=-two_over_pi / 2 * slope_squared**2 * p / rest**1.5,
    )


_CLOSED: dict[str, _Plain] = {"linear": _linear, "relu": _relu, "erf": _erf}


# --- series ---
def _series(phi: Phi) -> _Plain:
    function, _ = resolve(phi)
    label = name(phi)

    def kernels(cov: Pairs, var_a: Pairs, var_b: Pairs) -> PairKernels:
        std_a, std_b = (np.maximum(np.sqrt(variance), _LEAST_STD) for variance in (var_a, var_b))
        rho = np.clip(cov / (std_a * std_b), -1.0, 1.0)
        of_a, of_b = _coefficients(function, (std_a, std_b), label)
        return PairKernels(
            value=_sum(rho, of_a[0], of_b[0]),
            slope=_sum(rho, of_a[1], of_b[1]),
            bend=_sum(rho, of_a[2], of_b[2]),
            # d/dC_bb E[f(z_b)] = E[f''(z_b)] / 2
            value_b=_sum(rho, of_a[0], of_b[2]) / 2,
            slope_b=_sum(rho, of_a[1], of_b[3]) / 2,
        )

    return kernels


def _coefficients(function: Function, stds: Sequence[np.ndarray], label: str) -> list[list[np.ndarray]]:
    """For each array of stds the Hermite coefficients (terms, ...) of phi(std x) and of its first three derivatives."""
    different, place = np.unique(np.concatenate([std.reshape(-1) for std in stds]), return_inverse=True)
    nodes, polynomials = _polynomials()
    values = function(torch.from_numpy(different[:, None] * nodes)).numpy()
    terms = _FEWEST_TERMS
    while True:
        found = [values @ polynomials[:, :terms]]
        # E[f' He_m] = E[f He_(m+1)]: derivatives follow from the coefficients themselves.
        for _ in range(3):
            root = np.sqrt(np.arange(1, found[-1].shape[1]))
            found.append(found[-1][:, 1:] * root / different[:, None])
        # Kernels hold squares of coefficients.
        last = np.abs(found[1][:, -terms // 4 :]).max()
        if last < math.sqrt(_SERIES_ERROR):
            break
        terms *= 2
        if terms > _MOST_TERMS:
            raise InvalidValueError(
                f"`phi` ({label}) has a kink, or bends too much for inputs of this size: its kernel has no series that "
                "converges. Use 'relu', a smooth activation, smaller inputs or `horizon`, or a finite `depth`"
            )
    length = found[-1].shape[1]
    out = []
    for std in stds:
        here, place = place[: std.size], place[std.size :]
        out.append([each[here, :length].T.reshape(length, *std.shape) for each in found])
    return out


def _sum(rho: Pairs, of_a: np.ndarray, of_b: np.ndarray) -> Pairs:
    """sum_m rho^m a_m b_m, as far as it matters."""
    axes = tuple(range(1, of_a.ndim))
    size = np.abs(of_a).max(axes, initial=0.0) * np.abs(of_b).max(axes, initial=0.0)
    left = np.cumsum(size[::-1])[::-1]
    terms = max(1, int((left > _SERIES_ERROR * left[0]).sum()))
    total = np.zeros_like(rho)
    for m in range(terms - 1, -1, -1):
        # Of an odd or even function every other coefficient is zero.
        total *= rho
        if size[m]:
            total += of_a[m] * of_b[m]
    return total


@functools.cache
def _polynomials() -> tuple[np.ndarray, np.ndarray]:
    """Nodes x, and at each the weight times density times orthonormal Hermite polynomial: (nodes, terms).

    The trapezoidal rule, whose error is far below rounding: the density's tail is below 1e-30 at the ends, and the
    polynomials times its root, which are of order one everywhere, wave no faster than sqrt(terms).
    """
    nodes = np.linspace(-_END, _END, _NODES)
    root = np.exp(-(nodes**2) / 4) / (2 * math.pi) ** 0.25
    rows = [root, nodes * root]
    for m in range(1, _MOST_TERMS - 1):
        rows.append((nodes * rows[m] - math.sqrt(m) * rows[m - 1]) / math.sqrt(m + 1))
    step = nodes[1] - nodes[0]
    return nodes, step * root[:, None] * np.stack(rows, axis=1)
