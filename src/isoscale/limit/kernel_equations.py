"""Two-layer blocks under depth-muP at infinite width and depth: closed kernel equations (docs/theory.md, section 9.3).

The stream h and the backward vectors g of all steps are Gaussian processes over layer time t, so that covariances and
responses say everything. Split the layers at t: below, h = A g + a; above, g = B h + b, with a and b independent, of
covariance Pa and Pb. Rows are (step, sample), and so are columns:

    dA/dt  = T (M + A N A)                                      A(0) = -omega w Kx
    dPa/dt = T (Phi + A W A^T + A N Pa + (A N Pa)^T)            Pa(0) = Kx
   -dB/dt  = T (N + B M B)                                      B(1) = -omega w <u, u>
   -dPb/dt = T (W + B Phi B^T + B M Pb + (B M Pb)^T)            Pb(1) = <u, u>
    S = (1 - A B)^-1,  S' = 1 + B S A,   C = <h, h> = S (Pa + A Pb A^T) S^T,   D = <g, g> likewise

Nothing at a step depends on later steps: A is strictly lower in the step and B lower, so each step appends one block
row to every matrix, first upwards from t = 0, then, its outputs known, downwards from t = 1. No noise, no particles,
no depths to extrapolate. All are smooth in t, so that a row is a polynomial through a few Chebyshev points, at which
the integral equation y(t) = y(0) + int f(y) is iterated to its fixed point: the error falls exponentially in the number
of points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from isoscale.limit.memory import check_words
from isoscale.limit.network import Problem, direction
from isoscale.limit.optimizers import Path
from isoscale.limit.pair_kernels import Kernels, PairKernels
from isoscale.limit.progress import Progress

_MATRICES = (
    *("A", "B", "Pa", "Pb", "M", "N", "S", "S_", "Q", "Q_", "C", "D", "W", "Phi", "A_hat", "B_hat", "AN", "NA", "BM"),
    *("value", "slope", "bend", "value_b", "slope_b"),
)
_SYMMETRIC = ("Pa", "Pb", "Q", "Q_", "C", "D", "W", "Phi")

# Block rows of two matrices at all points, and by name those of everything else, in parts.
Rows = tuple[np.ndarray, np.ndarray]
Kept = dict[str, list[np.ndarray]]

EXACT = 1e-9
"""The last change of the rows at which their equation counts as solved."""

_MOST_ITERATIONS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Equations:
    """What is to be solved.

    Attributes:
        problem: Data, loss and training.
        kernels: Of the branch.
        path: What earlier steps leave in later weights.
        reused: Whether the backward pass uses the forward pass's weights.
        normed: Whether a norm stands before the branch.
    """

    problem: Problem
    kernels: Kernels
    path: Path
    reused: bool
    normed: bool


@dataclasses.dataclass
class Solution:
    """Training on one grid of layer times.

    Attributes:
        time: The points.
        loss (steps), prediction (steps, samples, outputs).
        stream, gradient, features, cross (steps, time, samples, samples), displacement (steps, time, samples).
        diverged: The step at which numbers were no longer finite; None if none.
    """

    time: np.ndarray
    loss: np.ndarray
    prediction: np.ndarray
    stream: np.ndarray
    gradient: np.ndarray
    features: np.ndarray
    cross: np.ndarray
    displacement: np.ndarray
    diverged: int | None = None


def integrate(
    equations: Equations,
    points: int,
    progress: Progress = None,
    *,
    converged: float = EXACT,
    dtype: np.dtype | type = np.float64,
) -> Solution:
    """All steps of training, by polynomials through so many points in layer time.

    Args:
        equations: What is solved.
        points: In layer time.
        progress: Called with the fraction done.
        converged: The last change of the rows at which their equation counts as solved.
        dtype: Of the matrices: float32 halves the time, but has too few digits for kernels with singular terms that
            cancel, those of ReLU.
    """
    return _Integration(equations, points, converged, np.dtype(dtype)).run(progress)


class _Integration:
    """Block rows of the matrices, at every point of the grid: arrays (points, rows, columns)."""

    def __init__(self, equations: Equations, points: int, converged: float, dtype: np.dtype) -> None:
        self._e = equations
        self._converged = converged
        self._dtype = dtype
        problem = equations.problem
        self._samples = problem.samples
        self._gram = problem.gram.double().cpu().numpy().astype(self._dtype)
        self.time, upwards = chebyshev(points)
        self._upward_integral = (problem.horizon * upwards).astype(self._dtype)
        # int_t^1 is int_0^1 less int_0^t.
        self._downward_integral = (problem.horizon * (upwards[-1:] - upwards)).astype(self._dtype)
        rows = (problem.steps + 1) * self._samples
        check_words(len(_MATRICES) * points * rows**2, "Use fewer steps or fewer samples.")
        self._of = {name: np.zeros((points, rows, rows), dtype=self._dtype) for name in _MATRICES}
        # Directions u (rows, outputs) and weights w (rows) of the loss's gradient chi = w u.
        self._u = np.zeros((rows, problem.outputs))
        self._w = np.zeros(rows)
        trained = np.ones(self._samples, dtype=bool)
        trained[problem.trained :] = False
        self._is_trained = trained

    # --- training ---
    def run(self, progress: Progress) -> Solution:
        problem = self._e.problem
        steps, trained = problem.steps + 1, problem.trained
        loss = np.full(steps, np.nan)
        prediction = np.full((steps, self._samples, problem.outputs), np.nan)
        diverged = None
        for k in range(steps):
            try:
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    f = self._forward(k)
                    value, chi = problem.loss(torch.tensor(f[None, :trained]), problem.y.double().cpu())
                    if not bool(value.isfinite().all()):
                        raise OverflowError("the loss is not finite")
                    self._read_off(k, chi)
                    self._backward(k)
            except OverflowError:
                diverged = k
                break
            loss[k], prediction[k] = float(value), f
            if progress is not None:
                progress((k + 1) / steps)
        return self._solution(loss, prediction, diverged)

    def _read_off(self, k: int, chi: torch.Tensor) -> None:
        """The loss's gradient of this step: what its samples' directions and weights are."""
        problem = self._e.problem
        here = self._rows(k)
        u, w = direction(chi)
        whole_u = np.zeros((self._samples, problem.outputs))
        # A sample that is not trained has a backward vector that nothing depends on.
        whole_u[:, 0] = 1.0
        whole_u[self._is_trained] = u[0].numpy()
        self._u[here] = whole_u
        if k < problem.steps:
            weights = problem.batch_weights[k].double().cpu().numpy()
            whole_w = np.zeros(self._samples)
            whole_w[self._is_trained] = w[0].numpy() * weights
            self._w[here] = whole_w

    def _rows(self, k: int) -> slice:
        return slice(k * self._samples, (k + 1) * self._samples)

    def _update_weights(self, k: int) -> np.ndarray:
        """omega w of every earlier (step, sample): what its update still weighs at step k."""
        omega = np.repeat(self._e.path.omega[k, :k], self._samples)
        return (omega * self._w[: k * self._samples]).astype(self._dtype)

    def _shares(self, k: int) -> np.ndarray:
        """rho_k rho_j of all (step, sample) up to k: what decay has left of the initial weights."""
        left = self._e.path.left
        return (left[k] * np.repeat(left[: k + 1], self._samples)).astype(self._dtype)

    def _kernels(self, cov: np.ndarray, var_a: np.ndarray, var_b: np.ndarray, k: int) -> PairKernels:
        """The branch's, at the pairs of step k with all up to it."""
        cov, var_a, var_b = (each.astype(np.float64, copy=False) for each in (cov, var_a, var_b))
        of = self._e.kernels(cov, var_a, var_b, self._e.path.between(k, self._samples))
        by_name = {item.name: getattr(of, item.name) for item in dataclasses.fields(PairKernels)}
        return PairKernels(**{name: value.astype(self._dtype, copy=False) for name, value in by_name.items()})

    # --- upwards ---
    def _forward(self, k: int) -> np.ndarray:
        """Append step k to everything that is integrated from below; its outputs f."""
        p, n = self._samples, k * self._samples
        weights, shares = self._update_weights(k), self._shares(k)
        is_trained = self._e.problem.train_ends
        a = np.zeros((p, n), dtype=self._dtype)
        if is_trained:
            a -= weights * np.tile(self._gram, (1, k))
        pa = (shares if is_trained else np.ones_like(shares)) * np.tile(self._gram, (1, k + 1))

        def change(rows: Rows) -> tuple[Rows, Kept]:
            return self._upwards(k, *rows, weights, shares)

        guess = self._as_before(k, "A", a), self._as_before(k, "Pa", pa)
        self._append(k, self._fixed_point((a, pa), guess, self._upward_integral, change))
        here = self._rows(k)
        left = self._e.path.left if is_trained else np.ones(k + 1)
        # v_k = rho_k v_0 - sum omega w u h: the first part through the response of h to every step's v_0 in g
        start = left[k] * np.repeat(left[:k], p)[:, None] * self._u[:n]
        f = self._of["A_hat"][-1, here, :n].astype(np.float64) @ start
        if is_trained:
            f -= (self._of["C"][-1, here, :n] * weights) @ self._u[:n]
        return f

    def _upwards(
        self, k: int, a: np.ndarray, pa: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> tuple[Rows, Kept]:
        """d/dt of row k of A and of Pa at all points, over T, and all that follows from them."""
        p, n = self._samples, k * self._samples
        of = {name: matrix[:, :n, :n] for name, matrix in self._of.items()}
        an = a @ of["N"]
        # Q = Pa + A Pb A^T and C = S Q S^T
        s = a @ of["B_hat"]
        a_pb = a @ of["Pb"]
        q = pa.copy()
        q[..., :n] += a_pb @ of["A"].mT
        q[..., n:] += a_pb @ a.mT
        s_q = s @ of["Q"] + q[..., :n]
        c = np.empty_like(pa)
        c[..., :n] = s_q @ of["S"].mT
        c[..., n:] = s_q @ s.mT + s @ q[..., :n].mT + q[..., n:]
        own, earlier = _diagonal(c[..., n:]), _diagonal(of["C"])
        columns = np.concatenate([earlier, own], axis=1)[:, None, :]
        of_pair = self._kernels(c, columns, own[..., None], k)
        a_hat = a @ of["S_"]
        phi = shares * of_pair.value
        if self._e.reused:
            theta = of_pair.value[..., :n] + c[..., :n] * of_pair.slope[..., :n]
            m = shares[:n] * a_hat * of_pair.slope[..., :n] - weights * theta
        else:
            m = -weights * of_pair.value[..., :n]
        da = m + a @ of["NA"]
        w_a = a @ of["W"]
        dpa = phi.copy()
        dpa[..., :n] += w_a @ of["A"].mT + an @ of["Pa"] + pa[..., :n] @ of["AN"].mT
        cross = an @ pa[..., :n].mT
        dpa[..., n:] += w_a @ a.mT + cross + cross.mT

        eye, none = np.broadcast_to(np.eye(p), (len(a), p, p)), np.zeros((len(a), p, p))
        kept: Kept = {"A": [a, none], "Pa": [pa], "S": [s, eye], "Q": [q], "C": [c], "Phi": [phi], "M": [m, none]}
        kept |= {"A_hat": [a_hat, none], "AN": [an, none]}
        kept |= {item.name: [getattr(of_pair, item.name)] for item in dataclasses.fields(PairKernels)}
        return (da, dpa), kept

    # --- downwards ---
    def _backward(self, k: int) -> None:
        """Append step k to everything that is integrated from above."""
        p, n = self._samples, k * self._samples
        weights, shares = self._update_weights(k), self._shares(k)
        is_trained = self._e.problem.train_ends
        aligned = (self._u[self._rows(k)] @ self._u[: n + p].T).astype(self._dtype)
        b = np.zeros((p, n + p), dtype=self._dtype)
        if is_trained:
            b[:, :n] -= weights * aligned[:, :n]
        pb = (shares if is_trained else np.ones_like(shares)) * aligned

        def change(rows: Rows) -> tuple[Rows, Kept]:
            return self._downwards(k, *rows, weights, shares)

        guess = self._as_before(k, "B", b), self._as_before(k, "Pb", pb)
        self._append(k, self._fixed_point((b, pb), guess, self._downward_integral, change))

    def _downwards(
        self, k: int, b: np.ndarray, pb: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> tuple[Rows, Kept]:
        """-d/dt of row k of B and of Pb at all points, over T, and all that follows from them."""
        p, n = self._samples, k * self._samples
        here, both = self._rows(k), n + p
        of = {name: matrix[:, :both, :both] for name, matrix in self._of.items()}
        b_hat = b @ of["S"]
        s_ = b_hat @ of["A"][..., :n]
        # Q' = Pb + B Pa B^T and D = S' Q' S'^T
        b_pa = b @ of["Pa"]
        q = pb.copy()
        q[..., :n] += b_pa @ of["B"][:, :n].mT
        q[..., n:] += b_pa @ b.mT
        s_q = s_ @ of["Q_"][:, :n, :n] + q[..., :n]
        d = np.empty_like(pb)
        d[..., :n] = s_q @ of["S_"][:, :n, :n].mT
        d[..., n:] = s_q @ s_.mT + s_ @ q[..., :n].mT + q[..., n:]
        w = shares * of["slope"][:, here] * d
        bm = b @ of["M"][..., :n]
        response = self._response(k, b_hat, d, weights, shares)
        db = response.copy()
        db[..., :n] += bm @ of["B"][:, :n, :n]
        phi_b = b @ of["Phi"]
        dpb = w.copy()
        dpb[..., :n] += phi_b @ of["B"][:, :n].mT + bm @ of["Pb"][:, :n, :n] + pb[..., :n] @ of["BM"][:, :n, :n].mT
        cross = bm @ pb[..., :n].mT
        dpb[..., n:] += phi_b @ b.mT + cross + cross.mT

        eye, none = np.broadcast_to(np.eye(p), (len(b), p, p)), np.zeros((len(b), p, p))
        kept: Kept = {"B": [b], "Pb": [pb], "B_hat": [b_hat], "S_": [s_, eye], "Q_": [q], "D": [d], "W": [w]}
        kept |= {"N": [response], "NA": [response @ of["A"][..., :n], none], "BM": [bm, none]}
        return (db, dpb), kept

    def _response(
        self, k: int, b_hat: np.ndarray, d: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """Row k of N: how g moves with h through a layer."""
        p, n = self._samples, k * self._samples
        here, both = self._rows(k), n + p
        kernel = {name: self._of[name][:, here, :both] for name in ("slope", "bend", "value_b", "slope_b", "C")}
        a_hat = self._of["A_hat"][:, here, :both]
        # omega w, none of the step itself
        updates = np.concatenate([weights, np.zeros(p, dtype=self._dtype)])
        through = d * kernel["slope"]
        if self._e.reused:
            theta_slope = 2 * kernel["slope"] + kernel["C"] * kernel["bend"]
            theta_b = kernel["value_b"] + kernel["C"] * kernel["slope_b"]
            rows = shares * (b_hat * kernel["slope"] + a_hat * d * kernel["bend"]) - updates * d * theta_slope
            along = shares * (b_hat * kernel["value_b"] + a_hat * d * kernel["slope_b"]) - updates * d * theta_b
            own = 2 * along.sum(-1)
        else:
            rows = -updates * through
            own = np.zeros(rows.shape[:2])
            if self._e.normed:
                # The norm's Jacobian sees the backward noise through h's response to it.
                seen = (shares * a_hat - updates * kernel["C"]) * through
                own = -seen.sum(-1) / _diagonal(kernel["C"][..., n:])
        rows[:, np.arange(p), n + np.arange(p)] += own
        return rows

    # --- shared ---
    def _as_before(self, k: int, name: str, start: np.ndarray) -> np.ndarray:
        """A first guess of row k of this matrix: that of the step before, moved on by one step in its last block."""
        p = self._samples
        guess = np.broadcast_to(start, (len(self.time), *start.shape)).copy()
        width = start.shape[1]
        if k > 1:
            before = self._of[name][:, self._rows(k - 1)]
            guess[..., : width - p] = before[..., : width - p]
            guess[..., width - p :] = before[..., width - 2 * p : width - p]
        return guess

    def _fixed_point(
        self, start: Rows, guess: Rows, integral: np.ndarray, change: Callable[[Rows], tuple[Rows, Kept]]
    ) -> Kept:
        """The rows y(t) = y(end) + int f(y), and what follows from them.

        Args:
            start: The rows at the end that they are integrated from.
            guess: The rows at all points, about.
            integral: From that end to each point, of a function given at all points.
            change: f.
        """
        rows = list(guess)
        kept: Kept = {}
        # A Volterra equation: the error falls faster than any exponential.
        for _ in range(_MOST_ITERATIONS):
            changes, kept = change((rows[0], rows[1]))
            moved = 0.0
            for i, (first, along) in enumerate(zip(start, changes, strict=True)):
                after = first + np.tensordot(integral, along, axes=1)
                moved = max(moved, float(np.abs(after - rows[i]).max(initial=0.0)))
                rows[i] = after
            if not moved > self._converged:
                return kept
        raise OverflowError("the integral equation has no fixed point within reach")

    def _append(self, k: int, kept: Kept) -> None:
        """Row k of these matrices; of symmetric ones the column as well."""
        here, both = self._rows(k), (k + 1) * self._samples
        for name, parts in kept.items():
            matrix = self._of[name]
            matrix[:, here, :both] = np.concatenate(parts, axis=-1)
            if name in _SYMMETRIC:
                matrix[:, :both, here] = matrix[:, here, :both].mT

    def _solution(self, loss: np.ndarray, prediction: np.ndarray, diverged: int | None) -> Solution:
        of, p = self._of, self._samples
        steps = len(loss) if diverged is None else diverged
        shape = (len(loss), len(self.time), p, p)
        kernels = {name: np.full(shape, np.nan) for name in ("C", "D", "value", "cross")}
        displacement = np.full(shape[:-1], np.nan)
        for k in range(steps):
            here, both = self._rows(k), (k + 1) * p
            for name in ("C", "D", "value"):
                kernels[name][k] = of[name][:, here, here]
            # h = S a + S A b and g = B S a + S' b
            s, s_ = of["S"][:, here, :both], of["S_"][:, here, :both]
            by_a = s @ of["Pa"][:, :both, :both] @ of["B_hat"][:, here, :both].mT
            by_b = s @ of["A"][:, :both, :both] @ of["Pb"][:, :both, :both] @ s_.mT
            kernels["cross"][k] = by_a + by_b
            own, start = _diagonal(of["C"][:, here, here]), _diagonal(of["C"][:, :p, :p])
            displacement[k] = own - 2 * _diagonal(of["C"][:, here, :p]) + start
        return Solution(
            time=self.time,
            loss=loss,
            prediction=prediction,
            stream=kernels["C"],
            gradient=kernels["D"],
            features=kernels["value"],
            cross=kernels["cross"],
            displacement=displacement,
            diverged=diverged,
        )


def _diagonal(matrices: np.ndarray) -> np.ndarray:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def chebyshev(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev points of [0, 1], ends included, and the integrals from 0 to each of them: (points, points).

    >>> time, integral = chebyshev(4)
    >>> bool(np.allclose(integral @ time**2, time**3 / 3))
    True
    """
    time = (1 - np.cos(np.pi * np.arange(points) / (points - 1))) / 2
    monomials = np.polynomial.chebyshev.chebvander(2 * time - 1, points - 1)
    integrals = []
    for degree in range(points):
        of_one = np.polynomial.chebyshev.chebint(np.eye(degree + 1)[degree], lbnd=-1)
        integrals.append(np.polynomial.chebyshev.chebval(2 * time - 1, of_one) / 2)
    return time, np.linalg.solve(monomials.T, np.array(integrals)).T
