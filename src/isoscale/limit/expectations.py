"""Expectations of products over pairs of Gaussians: E[f(u) g(w)] with (u, w) centred normal."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss

from isoscale.limit.activations import Function, Phi, resolve

NODES = 48


def pair(f: Function, covariance: np.ndarray) -> np.ndarray:
    """E[f(u_a) f(u_b)] for all pairs of centred Gaussians with this covariance, by Gauss-Hermite quadrature.

    Exact for polynomials of degree < 96 and spectrally accurate for smooth functions; not for kinks.
    """
    nodes, weights = hermegauss(NODES)
    weights = weights / weights.sum()
    std = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    scale = np.outer(std, std)
    rho = np.clip(np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0), -1.0, 1.0)
    first = std[:, None] * nodes  # (P, z)
    along, across = rho[..., None, None] * nodes[:, None], np.sqrt(1 - rho**2)[..., None, None] * nodes
    second = std[None, :, None, None] * (along + across)  # (P, P, z, z')
    inner = _apply(f, second) @ weights
    return np.einsum("az,abz,z->ab", _apply(f, first), inner, weights)


def features_and_slopes(phi: Phi, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[phi phi] and E[phi' phi'] for all pairs: in closed form for linear and ReLU, by quadrature otherwise."""
    if phi == "linear":
        return covariance, np.ones_like(covariance)
    if phi == "relu":
        return _arc_cosine(covariance)
    function, slope = resolve(phi)
    return pair(function, covariance), pair(lambda h: slope(h, function(h)), covariance)


def _arc_cosine(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cho and Saul's arc-cosine kernels of degree 1 and 0."""
    std = np.sqrt(np.diagonal(covariance))
    scale = np.outer(std, std)
    angle = np.arccos(np.clip(covariance / np.where(scale > 0, scale, 1.0), -1.0, 1.0))
    away = np.pi - angle
    return scale * (np.sin(angle) + away * np.cos(angle)) / (2 * np.pi), away / (2 * np.pi)


def _apply(f: Function, values: np.ndarray) -> np.ndarray:
    return f(torch.from_numpy(np.ascontiguousarray(values))).numpy()
