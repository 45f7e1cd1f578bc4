"""Expectations of products over pairs of Gaussians: E[f(u) f(w)] with (u, w) centred normal."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from isoscale.limit.activations import Function, Phi, resolve

NODES = 48


def pair(f: Function, covariance: np.ndarray) -> np.ndarray:
    """E[f(u_a) f(u_b)] for all pairs of centred Gaussians with this covariance, by Gauss-Hermite quadrature.

    Exact for polynomials of degree < 96 and spectrally accurate for smooth functions; not for kinks.
    """
    nodes, weights = hermegauss(NODES)
    # E[f(z)] = sum_z weight_z f(z) for standard normal z
    weights = weights / weights.sum()
    # rho_ab = Cov(u_a, u_b) / (std_a std_b), 0 where a variable is constant
    variance = np.maximum(np.diagonal(covariance), 0.0)
    std = np.sqrt(variance)
    scale = np.outer(std, std)
    rho = np.divide(
        covariance,
        scale,
        out=np.zeros_like(covariance),
        where=scale > 0,
    )
    rho = np.clip(rho, -1.0, 1.0)
    # u_a = std_a z and u_b = std_b (rho z + sqrt(1 - rho^2) z'), with z and z' independent standard normal
    first = std[:, None] * nodes  # (P, z)
    cosine = rho[..., None, None]
    sine = np.sqrt(1 - cosine**2)
    along = cosine * nodes[:, None]  # (P, P, z, 1)
    across = sine * nodes  # (P, P, 1, z')
    second = std[None, :, None, None] * (along + across)  # (P, P, z, z')
    # E[f(u_a) f(u_b)] = sum_z weight_z f(u_a) sum_z' weight_z' f(u_b)
    given_z = _apply(f, second) @ weights  # (P, P, z)
    return np.einsum("az,abz,z->ab", _apply(f, first), given_z, weights)


def features_and_derivatives(phi: Phi, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C = E[phi phi] and Psi = E[phi' phi'] for all pairs: closed forms for linear and ReLU, quadrature otherwise."""
    if phi == "linear":
        return covariance, np.ones_like(covariance)
    if phi == "relu":
        return _arc_cosine(covariance)
    function, derivative = resolve(phi)

    def derivative_alone(h: Tensor) -> Tensor:
        return derivative(h, function(h))

    return pair(function, covariance), pair(derivative_alone, covariance)


def _arc_cosine(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cho and Saul's arc-cosine kernels of degree 1 and 0."""
    # The correlation of two Gaussians is the cosine of the angle between them.
    std = np.sqrt(np.diagonal(covariance))
    scale = np.outer(std, std)
    cosine = covariance / np.where(scale > 0, scale, 1.0)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    # E[relu relu] = std_a std_b (sin angle + (pi - angle) cos angle) / (2 pi),   E[relu' relu'] = (pi - angle) / (2 pi)
    away = np.pi - angle
    bracket = np.sin(angle) + away * np.cos(angle)
    features = scale * bracket / (2 * np.pi)
    derivatives = away / (2 * np.pi)
    return features, derivatives


def _apply(f: Function, values: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return f(tensor).numpy()
