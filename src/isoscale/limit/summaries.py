"""Summaries of the kernels: have the features aligned with the labels, how far have they moved, do they collapse?

Functions of the Dataset that `simulate` and `solve` return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isoscale.errors import InvalidValueError

if TYPE_CHECKING:
    import xarray as xr

ROUNDING = 1e-6
"""Share of a kernel's norm below which its centred part is rounding."""


def label_alignment(result: xr.Dataset) -> xr.DataArray:
    """Centred alignment of the feature kernel with the labels' kernel, in [-1, 1], at each step and layer time.

    <K, Y>_F / (|K|_F |Y|_F) with K the feature kernel and Y = target target^T, rows and columns centred (Cortes,
    Mohri and Rostamizadeh 2012). NaN if the labels or the features do not differ between samples.

    >>> from isoscale.limit import simulate
    >>> run = simulate([[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0], width=64, depth=4, steps=1)
    >>> label_alignment(run).sel(step=1, time=1.0).round(3).item()
    1.0
    """
    kernel = _recorded(result, "feature_kernel")
    target = result["target"].values.reshape(result.sizes["sample"], -1)
    labels, labels_differ = _centred(target @ target.T)
    features, features_differ = _centred(kernel.values)
    # <K, Y>_F = sum_ab K_ab Y_ab
    products = (features * labels).sum((-2, -1))
    norms = _norm(features) * _norm(labels)
    defined = labels_differ & features_differ
    value = products / np.where(defined, norms, np.nan)
    return _labelled(result, value, "label_alignment", "centred alignment of features and labels")


def feature_distance(result: xr.Dataset) -> xr.DataArray:
    """Distance that the residual stream has travelled since initialisation, relative to its size there.

    sqrt(mean_a <h^k - h^0, h^k - h^0> / mean_a <h^0, h^0>) over training samples a, at each step and layer time.
    """
    moved = _recorded(result, "displacement").mean("sample").values
    # mean_a <h^0_a, h^0_a>: the trace of the initial kernel over the number of samples
    initial = result["stream_kernel"].values[0]
    size = np.einsum("taa->t", initial) / result.sizes["sample"]
    # Extrapolation to infinite depth can leave a mean square that is a little below 0.
    value = np.sqrt(np.maximum(moved, 0.0) / size)
    return _labelled(result, value, "feature_distance", "relative distance travelled by the residual stream")


def smallest_eigenvalue(result: xr.Dataset) -> xr.DataArray:
    """Smallest eigenvalue of the covariance of (h, g) over all samples: > 0 is the papers' nondegeneracy.

    The matrix is [[<h, h>, <h, g>], [<g, h>, <g, g>]], 2 samples x 2 samples, at each step and layer time. With
    duplicated samples it is 0; a large negative value means that the standard errors of the kernels are larger than it.
    """
    stream = _recorded(result, "stream_kernel").values
    gradient = result["gradient_kernel"].values
    cross = result["cross_kernel"].values
    transposed = np.swapaxes(cross, -1, -2)
    covariance = np.block([[stream, cross], [transposed, gradient]])
    # NaN where the run had diverged
    value = np.full(covariance.shape[:2], np.nan)
    finite = np.isfinite(covariance).all((-2, -1))
    eigenvalues = np.linalg.eigvalsh(covariance[finite])  # ascending
    value[finite] = eigenvalues[:, 0]
    return _labelled(result, value, "smallest_eigenvalue", "smallest eigenvalue of the covariance of h and g")


def _centred(kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernels with rows and columns centred, and whether more than rounding is left of each."""
    # H K H with H = 1 - 11^T / P
    samples = kernels.shape[-1]
    centre = np.eye(samples) - 1 / samples
    centred = centre @ kernels @ centre
    constant = _norm(centred) <= ROUNDING * _norm(kernels)
    return centred, ~constant


def _norm(kernels: np.ndarray) -> np.ndarray:
    """Frobenius norm of each kernel."""
    return np.linalg.norm(kernels, axis=(-2, -1))


def _recorded(result: xr.Dataset, name: str) -> xr.DataArray:
    if name not in result:
        raise InvalidValueError(f"the result has no `{name}`: run `simulate` or `solve` with kernels=True")
    return result[name]


def _labelled(result: xr.Dataset, value: np.ndarray, name: str, text: str) -> xr.DataArray:
    import xarray as xr

    return xr.DataArray(
        value,
        coords={"step": result["step"], "time": result["time"]},
        dims=("step", "time"),
        name=name,
        attrs={"units": "1", "long_name": text},
    )
