"""Residual blocks of one layer and of more, with and without a norm, and one branch of a network on particles.

    one layer     h_l = h_{l-1} + a W phi(N(h_{l-1}))
    k layers      h_l = h_{l-1} + a W_k phi(... W_2 phi(W_1 N(h_{l-1})))
    backward      g_{l-1} = g_l + a N'^T t,     t the gradient at N(h_{l-1})

a = sqrt(T) L^-beta, and all learning rates of the branch are multiplied by L^(2 beta - 1), 1/2 <= beta <= 1. A rule
with a multiplier L^-alpha and a last init L^(alpha - beta) trains alike under SGD, whatever alpha (docs/theory.md,
section 9.1).
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from isoscale.checks import number
from isoscale.errors import InvalidValueError, unknown
from isoscale.limit.activations import Derivative, Function
from isoscale.limit.gaussian import Gaussian, Rows
from isoscale.limit.noise import BACKWARD, FORWARD, Noise, within

Norm = Literal["rms", "layer"] | None

NORMS = ("rms", "layer")

EPS = 1e-12
"""Of the norms: a stream of zeros stays one."""

CORRECTED = "depth-mup-corrected"

CORRECTED_INDEPENDENT = (
    "independent backward weights do not make depth-mup-corrected stable: from the second step on the gradients grow "
    "like sqrt(depth)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthRule:
    """How the branches' multiplier and learning rates depend on depth.

    Attributes:
        beta: Its exponent.
        corrected: Whether all matrices of a branch but the last have a learning rate ~ sqrt(L) instead.
    """

    beta: float = 0.5
    corrected: bool = False

    def multiplier(self, horizon: float, depth: int) -> float:
        """a.

        >>> DepthRule(beta=1.0).multiplier(4.0, 8)
        0.25
        """
        if self.beta == 0.5:
            return math.sqrt(horizon / depth)
        return math.sqrt(horizon) * depth**-self.beta

    def rates(self, depth: int, layers: int) -> list[float]:
        """By what the learning rate of each matrix of a branch is multiplied.

        >>> DepthRule(corrected=True).rates(16, 2)
        [4.0, 1.0]
        """
        usual = float(depth) ** (2 * self.beta - 1)
        inner_rate = math.sqrt(depth) if self.corrected else usual
        return [inner_rate] * (layers - 1) + [usual]


def depth_rule(rule: str | None, alpha: float, beta: float) -> DepthRule:
    """The rule of that name, or of these exponents.

    Raises:
        InvalidValueError: An unknown rule, or exponents out of range.

    >>> depth_rule("completep", 0.5, 0.5).beta
    1.0
    """
    if rule is None:
        beta = number("beta", beta)
        alpha = number("alpha", alpha)
        if not 0.5 <= beta <= 1:
            raise InvalidValueError(
                f"`beta` must be in [1/2, 1], got {beta:g}: below, the stream's noise grows with depth"
            )
        if not 0 <= alpha <= 1:
            raise InvalidValueError(f"`alpha` must be in [0, 1], got {alpha:g}")
        return DepthRule(beta=beta)
    if rule == CORRECTED:
        return DepthRule(corrected=True)
    number_pattern = r"\s*([0-9.]+)\s*"
    if match := re.fullmatch(rf"residual-family\({number_pattern},{number_pattern}\)", rule.strip()):
        try:
            exponents = float(match[1]), float(match[2])
        except ValueError:
            raise InvalidValueError(f"`rule` must hold two numbers, as residual-family(0.5,0.75), got {rule}") from None
        return depth_rule(None, *exponents)
    known = {"depth-mup": 0.5, "completep": 1.0}
    if rule not in known:
        raise unknown("depth rule", rule, [*known, CORRECTED, "residual-family(ALPHA,BETA)"])
    return DepthRule(beta=known[rule])


def norm_of(norm: str | None) -> Norm:
    """The norm of that name."""
    if norm is not None and norm not in NORMS:
        raise unknown("`norm`", norm, NORMS)
    return norm  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a residual block is.

    Attributes:
        layers: Of a branch.
        rule: How it depends on depth.
        norm: Before each branch; None: none.
    """

    layers: int = 1
    rule: DepthRule = dataclasses.field(default_factory=DepthRule)
    norm: Norm = None

    def settings(self) -> dict[str, object]:
        """As attributes."""
        found: dict[str, object] = {"block_depth": self.layers, "beta": self.rule.beta, "norm": self.norm or "none"}
        if self.rule.corrected:
            found["rule"] = CORRECTED
        return found


# --- norms ---
def normalised(norm: Norm, h: Rows) -> Rows:
    """N(h): the stream on the scale of its own root mean square, or of its standard deviation."""
    if norm is None:
        return h
    centred = _centred(norm, h)
    return centred * _per_size(centred)


def through_norm(norm: Norm, h: Rows, t: Rows) -> Rows:
    """N'^T t: the gradient at h of <t, N(h)>."""
    if norm is None:
        return t
    centred = _centred(norm, h)
    per_size = _per_size(centred)
    normal = centred * per_size
    # c (t - N(h) <N(h), t>), in LayerNorm without the mean of t
    along = (normal * t).mean(-1, keepdim=True)
    return per_size * (_centred(norm, t) - normal * along)


def _centred(norm: Norm, rows: Rows) -> Rows:
    return rows - rows.mean(-1, keepdim=True) if norm == "layer" else rows


def _per_size(rows: Rows) -> Tensor:
    """c = (<h, h> + eps)^-1/2, as a column."""
    return (rows.square().mean(-1, keepdim=True) + EPS).rsqrt()


# --- a branch ---
class Update(NamedTuple):
    """The gradient of one matrix: scale / n times sum_b chi(b) g_b a_b^T, which is yet to be multiplied by chi."""

    matrix: Gaussian
    coordinates: Tensor
    coordinates_g: Tensor
    # the branch's multiplier, and by what the learning rate of the matrix is multiplied
    multiplier: float
    rate: float

    def square(self, chi: Tensor) -> Tensor:
        """Squared Frobenius norm of sum_b chi(b) (...) for each replica, in the units in which the rate is lr."""
        products = self.matrix.products(self.coordinates) * self.matrix.products(self.coordinates_g)
        total = torch.einsum("ra,rab,rb->r", chi, products, chi)
        return self.rate * self.multiplier**2 * total


class Branch:
    """One branch of all replicas, and what it keeps of its last forward pass."""

    def __init__(
        self,
        matrices: list[Gaussian],
        *,
        phi: Function,
        derivative: Derivative,
        multiplier: float,
        rates: list[float],
        layer: int,
        noise: Noise,
        matched: bool,
    ) -> None:
        self.matrices = matrices
        self._phi, self._derivative = phi, derivative
        self._multiplier, self._rates = multiplier, rates
        self._layer, self._noise, self._matched = layer, noise, matched
        # by matrix: what phi was applied to, if it was; what the matrix was applied to; its coordinates
        self._points: list[Rows | None] = []
        self._signals: list[Rows] = []
        self._coordinates: list[Tensor] = []

    @property
    def features(self) -> Rows:
        """What the last matrix was applied to: phi of something."""
        return self._signals[-1]

    def forward(self, x: Rows, known: Rows | None, left: float) -> Rows:
        """The image of x.

        Args:
            x: What enters the branch.
            known: If moments are matched: rows of the stream that the noise of the image is uncorrelated with.
            left: What decay has left of the initial weights.
        """
        self._points, self._signals, self._coordinates = [], [], []
        signal = x
        last = len(self.matrices) - 1
        for index, matrix in enumerate(self.matrices):
            point = None
            # A block of one layer applies phi to the stream.
            if index > 0 or last == 0:
                point = signal
                signal = self._phi(point)
            uncorrelated = None
            if self._matched:
                # Inside the branch the queries of the matrix itself are enough.
                uncorrelated = known if index == last else signal[:, :0]
            kind = FORWARD if index == last else within(index, FORWARD)
            noise = self._noise.rows(kind, self._layer, _shape(signal))
            image, coordinates = matrix.forward(signal, noise, uncorrelated)
            self._points.append(point)
            self._signals.append(signal)
            self._coordinates.append(coordinates)
            signal = image if left == 1 else left * image
        return signal

    def backward(self, g: Rows, rows: Tensor | slice, known: Rows | None, left: float) -> tuple[Rows, list[Update]]:
        """The gradient at what entered the branch, and those of the matrices.

        Args:
            g: Gradients at the branch's image.
            rows: The samples that they belong to.
            known: If moments are matched: beside g, rows that the noise of the first matrix's image is uncorrelated
                with in the limit.
            left: That of `forward`.
        """
        updates = []
        top = g
        for index in reversed(range(len(self.matrices))):
            matrix, point = self.matrices[index], self._points[index]
            derivative = None
            if point is not None:
                derivative = self._derivative(point[:, rows], self._signals[index][:, rows])
            uncorrelated = None
            if self._matched:
                uncorrelated = self._known_below(index, derivative, rows, known, top)
            kind = BACKWARD if index == 0 else within(index, BACKWARD)
            noise = self._noise.rows(kind, self._layer, _shape(g))
            image, coordinates_g = matrix.backward(g, noise, uncorrelated)
            coordinates = self._coordinates[index][:, rows]
            updates.append(Update(matrix, coordinates, coordinates_g, self._multiplier, self._rates[index]))
            g = image if left == 1 else left * image
            if derivative is not None:
                g = derivative * g
        return g, updates

    def _known_below(
        self, index: int, derivative: Tensor | None, rows: Tensor | slice, known: Rows | None, top: Rows
    ) -> Rows:
        """What the image of a transpose is uncorrelated with in the limit, beside the queries of the matrix itself."""
        point = self._points[index]
        if index == 0 and derivative is not None:
            # Of a single matrix: it goes on with phi'.
            return derivative * top
        if index == 0:
            assert known is not None
            return torch.cat([top, known], dim=1)
        assert point is not None
        assert derivative is not None
        here = point[:, rows]
        return torch.cat([here, derivative * here], dim=1)


def _shape(rows: Rows) -> tuple[int, int, int]:
    return rows.shape[0], rows.shape[1], rows.shape[2]
