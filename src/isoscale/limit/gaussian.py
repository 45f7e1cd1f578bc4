"""A Gaussian matrix that is revealed only where it is looked at (THEORY section 3).

Training asks an n x n matrix W for its images of a few forward vectors and its transpose for a few backward
vectors, never for its entries. So keep orthonormal bases E of what was asked, and what came back:

    W   E_x = N_x + S_x E_v          N: raw noise,    S: a small matrix, conditional mean + training
    W^T E_v = N_v + S_v E_x

A new block a = alpha E_x + r meets fresh noise G on its residual r, and, if W^T is W's own transpose, the mean that
the backward images already fix (rows are vectors here, and n <u, v> = u . v):

    reused:       a -> alpha (N_x + S_x E_v) + <r, N_v> E_v + sqrt<r, r> (G - <G, E_v> E_v)
    independent:  a -> alpha (N_x + S_x E_v)                + sqrt<r, r>  G

Both are exact in law. SGD subtracts (1/n) sum_b w_b g_b a_b^T from W: it moves only S_x and S_v.
Arrays are (replicas, rows, particles): vectors are rows and the particles are contiguous.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "replicas rows n"]

DENSE_ABOVE = 0.25
"""Share of n beyond which a basis costs more than the explicit matrix (THEORY section 3)."""


ROUNDING = 256
"""A residual below this many units of rounding of its vector has no direction: revealing it would corrupt the basis."""


UNEVEN = 64
"""Ratio of squared lengths of residuals beyond which their Gram matrix loses digits that are worth regaining."""


def inner(a: Rows, b: Rows) -> Float[Tensor, "replicas rows_a rows_b"]:
    """The normalised inner products <a, b> = a . b / n of all rows with all rows."""
    if a.shape[1] < b.shape[1]:  # matrix products are faster this way round
        return torch.bmm(b, a.mT).mul_(1 / a.shape[-1]).mT
    return torch.bmm(a, b.mT).mul_(1 / a.shape[-1])


def eigh(gram: Float[Tensor, "replicas m m"]) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, by way of float64: LAPACK's float32 may fail to converge on a finite matrix.

    Raises:
        OverflowError: The matrix is not finite: training diverged.
    """
    if not math.isfinite(gram.sum()):
        raise OverflowError("a Gram matrix is not finite")
    values, vectors = torch.linalg.eigh(gram.double())
    return values.to(gram.dtype), vectors.to(gram.dtype)


def cholesky(gram: Float[Tensor, "replicas m m"]) -> Tensor:
    """The lower factor. Raises OverflowError as `eigh` does."""
    try:
        return torch.linalg.cholesky(gram)
    except torch.linalg.LinAlgError:
        if not math.isfinite(gram.sum()):
            raise OverflowError("a Gram matrix is not finite") from None
        raise


def symmetric_power(gram: Float[Tensor, "replicas m m"], power: float, tolerance: float = 1e-12) -> Tensor:
    """`gram ** power` of positive semi-definite matrices, zero on directions below `tolerance` of the largest."""
    values, vectors = eigh(gram)
    kept = values > tolerance * values[:, -1:].clamp_min(torch.finfo(gram.dtype).tiny)
    powers = torch.where(kept, values.clamp_min(torch.finfo(gram.dtype).tiny) ** power, 0.0)
    return (vectors * powers[:, None, :]) @ vectors.mT


def match_moments(
    noise: Rows, others: Rows, orthonormal: Rows, turn: Float[Tensor, "replicas rows rows_out"], out: Rows
) -> Tensor:
    """White noise without the sampling error of its first moments (THEORY section 3, `solve`).

    In the limit n -> infinity the rows are orthonormal and uncorrelated with everything given, so make them so.
    Of all that they are uncorrelated with, h, v^0 and E_v going forward and phi' g and E_x going backward carry nearly
    all of the gain (*checked*: the rest, E, N, h_0, phi' h, phi' v^0, would take another 5 to 35 % off the variance,
    for two to three times the products with the bases). What is to be taken off along the orthonormal rows is left to
    be done on small matrices, which is cheaper than on particles.

    Args:
        noise: Independent standard normal rows; overwritten.
        others: Rows of any kind, linearly dependent ones included (hence the ridge).
        orthonormal: Orthonormal rows.
        turn: Orthonormal columns: the combinations of the white noise that are wanted.
        out: Where these go.

    Returns:
        Coefficients of the orthonormal rows that are still to be added.
    """
    known = inner(others, others).double()
    known.diagonal(dim1=-2, dim2=-1).mul_(1 + 1e3 * torch.finfo(noise.dtype).eps).clamp_min_(1e-30)
    along = torch.cholesky_solve(inner(others, noise).double(), cholesky(known))
    noise.baddbmm_(along.mT.to(noise.dtype), others, alpha=-1.0)
    overlap = inner(noise, orthonormal).double()
    left = inner(noise, noise).double().baddbmm_(overlap, overlap.mT, alpha=-1.0)
    white = torch.linalg.solve_triangular(cholesky(left), turn.mT, upper=False, left=False)
    torch.bmm(white.to(noise.dtype), noise, out=out)
    return -white @ overlap


@dataclasses.dataclass
class _Side:
    """One direction of the matrix: W (a = forward vectors) or W^T (a = backward vectors)."""

    basis: Rows  # E, the first `rank` rows are in use
    noise: Rows  # N
    small: Float[Tensor, "replicas rank other_rank"]  # S
    rank: int = 0

    @classmethod
    def empty(cls, storage: Float[Tensor, "2 replicas capacity n"]) -> _Side:
        replicas, capacity = storage.shape[1:3]
        return cls(storage[0], storage[1], storage.new_zeros(replicas, capacity, capacity, dtype=torch.float64))

    @property
    def e(self) -> Rows:
        return self.basis[:, : self.rank]

    @property
    def n(self) -> Rows:
        return self.noise[:, : self.rank]

    def room(self, count: int) -> tuple[Rows, Rows]:
        """Where the next directions go, and their images' noise."""
        new = slice(self.rank, self.rank + count)
        return self.basis[:, new], self.noise[:, new]

    def append(self, small: Tensor) -> None:
        """Take up the directions written to `room`."""
        new = slice(self.rank, self.rank + small.shape[1])
        self.small[:, new, : small.shape[2]] = small
        self.rank = new.stop


class LazyGaussian:
    """W with iid N(0, 1/n) entries and its training, `replicas` of them, revealed as they are asked.

    Args:
        storage: Memory for both directions' bases and images, (4, replicas, capacity, n), of any content: capacity is
            the largest rank that either basis may reach.
        reused: Whether `backward` is W's own transpose or an independent copy's.
        tolerance: Residual directions with less than this share of their vector's squared norm are not revealed;
            only their conditional mean is kept (without it the response to W would vanish at small learning rates).
    """

    def __init__(
        self, storage: Float[Tensor, "4 replicas capacity n"], *, reused: bool, tolerance: float = 1e-12
    ) -> None:
        self.n, self.reused, self.tolerance = storage.shape[-1], reused, tolerance
        self._forward, self._backward = _Side.empty(storage[:2]), _Side.empty(storage[2:])
        self._dense: tuple[Tensor, Tensor] | None = None  # W and the matrix whose transpose `backward` applies

    @property
    def dense(self) -> bool:
        """Whether the matrix has become explicit."""
        return self._dense is not None

    @property
    def rank(self) -> int:
        """The number of directions revealed so far, on the larger side: all n of an explicit matrix."""
        return self.n if self.dense else max(self._forward.rank, self._backward.rank)

    def forward(self, a: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W a, and the coordinates of `a` that `update` wants.

        Args:
            a: Forward vectors.
            noise: As many rows of standard normal noise.
            uncorrelated: If given, match moments: rows that the noise has no correlation with in the limit.
        """
        if self._dense is not None:
            return a @ self._dense[0].mT, a
        return self._reveal(self._forward, self._backward, a, noise, uncorrelated)

    def backward(self, g: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W^T g (or the independent copy's), and the coordinates of `g`."""
        if self._dense is not None:
            return g @ self._dense[1], g
        return self._reveal(self._backward, self._forward, g, noise, uncorrelated)

    def update(self, coordinates: Tensor, coordinates_g: Tensor, weights: Float[Tensor, "replicas rows"]) -> None:
        """W -= (1/n) sum_b weights_b g_b a_b^T."""
        change = coordinates.mT @ (weights[..., None].to(coordinates.dtype) * coordinates_g)
        if self._dense is not None:
            for matrix in {id(m): m for m in self._dense}.values():
                matrix -= change.mT / self.n
            return
        _, p, q = change.shape
        self._forward.small[:, :p, :q] -= change
        self._backward.small[:, :q, :p] -= change.mT

    def densify(self, generator: torch.Generator) -> None:
        """Draw what has not been revealed and go on with the explicit matrix: the same law, and O(n^2) memory."""
        x, v = self._forward, self._backward
        image_x = x.n + x.small[:, : x.rank, : v.rank].to(x.n.dtype) @ v.e  # W E_x
        image_v = v.n + v.small[:, : v.rank, : x.rank].to(x.n.dtype) @ x.e  # W^T E_v
        seen_x, seen_v = image_x.mT @ x.e / self.n, v.e.mT @ image_v / self.n
        draw = functools.partial(_white, x.e, generator)
        if self.reused:  # rows: what W^T of a backward vector says off E_x; the rest, off both bases, is fresh
            matrix = seen_x + v.e.mT @ _off(v.n, x.e) / self.n + _off(_off(draw(), x.e).mT, v.e).mT
            self._dense = (matrix, matrix)
        else:
            self._dense = (seen_x + _off(draw(), x.e), seen_v + _off(draw().mT, v.e).mT)
        self._forward = self._backward = _Side.empty(x.e.new_empty(2, x.e.shape[0], 0, self.n))

    def _reveal(
        self, here: _Side, there: _Side, a: Rows, noise: Rows, off: Rows | None
    ) -> tuple[Rows, Float[Tensor, "replicas rows rank"]]:
        alpha, residual = _split(a, here.e)
        down, up, turn, rough = _directions(alpha, residual, self.tolerance)
        basis, fresh = here.room(up.shape[1])
        torch.bmm(up.to(a.dtype), residual, out=basis)  # residual = down basis + dropped, basis = up residual
        if rough:
            down, up = _polish(basis, down, up)
        if off is not None:
            small = match_moments(noise, off, there.e, turn, out=fresh)
        else:
            torch.bmm(turn.mT.to(a.dtype), noise, out=fresh)
            small = -inner(fresh, there.e).double() if self.reused else up.new_zeros(*up.shape[:2], there.rank)
        dropped = None
        if self.reused:
            mean = inner(residual, there.n).double()
            known = up @ mean
            dropped = mean - down @ known
            small += known
        here.append(small)
        coordinates = torch.cat([alpha, down], dim=-1)
        return _image(here, there, coordinates, dropped), coordinates


def _image(here: _Side, there: _Side, coordinates: Tensor, dropped: Tensor | None) -> Rows:
    """What the coordinates are sent to, and the conditional mean of what they leave out."""
    along = coordinates @ here.small[:, : here.rank, : there.rank]
    if dropped is not None:
        along += dropped
    dtype = here.noise.dtype
    return torch.bmm(coordinates.to(dtype), here.n).baddbmm_(along.to(dtype), there.e)


def _off(rows: Rows, basis: Rows) -> Rows:
    """The rows' parts orthogonal to the basis."""
    return torch.baddbmm(rows, inner(rows, basis), basis, alpha=-1.0)


def _white(like: Rows, generator: torch.Generator) -> Float[Tensor, "replicas n n"]:
    replicas, _, n = like.shape
    draw = torch.randn(replicas, n, n, generator=generator, dtype=like.dtype, device=like.device)
    return draw / n**0.5


def _split(a: Rows, basis: Rows) -> tuple[Float[Tensor, "replicas rows rank"], Rows]:
    """a = alpha basis + residual, orthogonal to rounding.

    One sweep of Gram-Schmidt is too few: what rounding leaves along the basis is amplified by |a| / |residual|, at each
    step anew. Allowing a share of 3e-3 along the basis moves a float32 loss by 1e-3 after 20 steps (*checked*).
    """
    alpha = inner(a, basis)
    if not basis.shape[1]:
        return alpha.double(), a
    residual = torch.baddbmm(a, alpha, basis, alpha=-1.0)
    again = inner(residual, basis)
    return alpha.double().add_(again), residual.baddbmm_(again, basis, alpha=-1.0)


def _polish(e: Rows, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Directions made orthonormal to rounding, in place: squaring in the Gram matrix has cost them half their digits.

    Returns:
        `down` and `up` for the new directions.
    """
    gram = inner(e, e).double()
    gram.diagonal(dim1=-2, dim2=-1).add_(gram.diagonal(dim1=-2, dim2=-1) < 0.5)  # a replica that needs fewer has 0
    lower = cholesky(gram)
    inverse = _inverse(lower)
    e.copy_(torch.bmm(inverse.to(e.dtype), e))
    return down @ lower, inverse @ up


def _inverse(lower: Tensor) -> Tensor:
    """Of small triangular matrices: multiplying the particles by it is faster than solving for them."""
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


def _directions(alpha: Tensor, residual: Rows, tolerance: float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The principal directions e of the residuals that are longer than `tolerance`.

    Returns:
        down, up, turn with residual = down e + (what is dropped), e = up residual, and white noise turned into the
        directions' own: the image's noise, down turn^T G, is then D (residual Gram matrix)^(1/2) D G in every basis,
        which two runs with common noise need. And whether rounding will show in e.
    """
    gram = inner(residual, residual).double()
    square = gram.diagonal(dim1=-2, dim2=-1) + alpha.square().sum(-1)  # of the vectors, as the basis is orthonormal
    norm = square.sqrt()[..., None]  # (R, B, 1)
    per_norm = torch.where(norm > 0, norm, math.inf).reciprocal_()
    values, vectors = eigh(per_norm * gram * per_norm.mT)
    eps = torch.finfo(residual.dtype).eps
    largest = values[:, -1:]
    kept = values > (8 * values.shape[1] * eps * largest).clamp_min_(max(tolerance, (ROUNDING * eps) ** 2))
    first = values.shape[1] - int(kept.sum(1).max())
    rough = bool((kept & (values * UNEVEN < largest)).any())
    kept, values, turn = kept[:, first:], values[:, first:], vectors[:, :, first:]
    inverse = torch.where(kept, values, math.inf).rsqrt_()[:, None, :]
    up = (per_norm * turn * inverse).mT
    return norm * turn * (inverse * values[:, None, :]), up, turn, rough
