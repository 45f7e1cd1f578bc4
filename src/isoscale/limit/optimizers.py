"""What SGD's earlier steps leave in later weights, with momentum, decay and a schedule (docs/theory.md, section 9.7).

A weight at step k is W_k = rho_k W_0 - sum_{j<k} omega_kj G_j, with G_j the gradient of step j.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Path:
    """Both for all steps.

    Attributes:
        omega: (steps + 1, steps + 1), 0 for j >= k.
        left: rho, (steps + 1).
    """

    omega: np.ndarray
    left: np.ndarray


def path_of(rates: np.ndarray, momentum: float = 0.0, weight_decay: float = 0.0) -> Path:
    """Of SGD with these learning rates, heavy-ball momentum and decoupled weight decay.

    >>> path_of(np.array([0.5, 0.5]), momentum=0.5).omega[2].tolist()
    [0.75, 0.5, 0.0]
    """
    steps = len(rates)
    omega = np.zeros((steps + 1, steps + 1))
    left = np.ones(steps + 1)
    for k in range(steps):
        keep = 1 - rates[k] * weight_decay
        left[k + 1] = keep * left[k]
        # W_(k+1) = keep W_k - rate_k (G_k + mu G_(k-1) + ...)
        omega[k + 1] = keep * omega[k]
        omega[k + 1, : k + 1] += rates[k] * momentum ** np.arange(k, -1, -1)
    return Path(omega=omega, left=left)
