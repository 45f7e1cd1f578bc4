"""A Gaussian matrix that is sampled lazily: only on the vectors that it is queried on (docs/theory.md, section 3).

Training queries an n x n matrix W on a few forward vectors and its transpose on a few backward vectors, and never
reads its entries. So keep orthonormal bases E of the queried vectors, and their images:

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
import math

import torch
from jaxtyping import Float
from torch import Tensor

from isoscale.limit.optimizers import Buffer, Momentum

Rows = Float[Tensor, "replicas rows n"]

ROUNDING = 256
"""A residual below this many units of rounding of its vector has no direction: adding it would corrupt the basis."""

UNEVEN = 64
"""Ratio of squared lengths of residuals beyond which their Gram matrix loses digits that are worth regaining."""


def inner(a: Rows, b: Rows) -> Float[Tensor, "replicas rows_a rows_b"]:
    """The normalised inner products <a, b> = a . b / n of all rows with all rows."""
    per_n = 1 / a.shape[-1]
    if a.shape[1] < b.shape[1]:
        # matrix products are faster this way round
        return torch.bmm(b, a.mT).mul_(per_n).mT
    return torch.bmm(a, b.mT).mul_(per_n)


def diagonal(gram: Float[Tensor, "replicas m m"]) -> Float[Tensor, "replicas m"]:
    """Diagonals, as a view: writing to it writes to the matrices."""
    return gram.diagonal(dim1=-2, dim2=-1)


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
    # gram = V diag(values) V^T, so gram^power = V diag(values^power) V^T
    values, vectors = eigh(gram)
    tiny = torch.finfo(gram.dtype).tiny
    largest = values[:, -1:]
    kept = values > tolerance * largest.clamp_min(tiny)
    powers = torch.where(kept, values.clamp_min(tiny) ** power, 0.0)
    return (vectors * powers[:, None, :]) @ vectors.mT


def match_moments(
    noise: Rows,
    others: Rows,
    orthonormal: Rows,
    turn: Float[Tensor, "replicas rows rows_out"],
    out: Rows,
) -> Tensor:
    """White noise without the sampling error of its first moments (docs/theory.md, section 3, `solve`).

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
    # G -= <G, O> <O, O>^-1 O with O the other rows: then <G, O> = 0
    known = inner(others, others).double()
    ridge = 1 + 1e3 * torch.finfo(noise.dtype).eps
    diagonal(known).mul_(ridge).clamp_min_(1e-30)
    products = inner(others, noise).double()
    along = torch.cholesky_solve(products, cholesky(known)).mT
    noise.baddbmm_(along.to(noise.dtype), others, alpha=-1.0)
    # <G', G'> = <G, G> - <G, E> <G, E>^T for G' = G - <G, E> E, its part off the orthonormal rows E
    overlap = inner(noise, orthonormal).double()
    left = inner(noise, noise).double()
    left.baddbmm_(overlap, overlap.mT, alpha=-1.0)
    # turn^T Z^-1 G' with Z Z^T = <G', G'> is orthonormal: of it, turn^T Z^-1 G here and the rest along E by the caller
    lower = cholesky(left)
    white = torch.linalg.solve_triangular(lower, turn.mT, upper=False, left=False)
    torch.bmm(white.to(noise.dtype), noise, out=out)
    return -white @ overlap


@dataclasses.dataclass
class _Side:
    """One direction of the matrix: W (a = forward vectors) or W^T (a = backward vectors)."""

    # E and N, of which the first `rank` rows are in use
    basis: Rows
    noise: Rows
    # S, of which the first `rank` rows are in use, and as many columns as the other direction has rank
    small: Float[Tensor, "replicas rank other_rank"]
    rank: int = 0

    @classmethod
    def empty(cls, storage: Float[Tensor, "2 replicas capacity n"]) -> _Side:
        replicas, capacity = storage.shape[1:3]
        small = storage.new_zeros(replicas, capacity, capacity, dtype=torch.float64)
        return cls(basis=storage[0], noise=storage[1], small=small)

    @property
    def e(self) -> Rows:
        """E: the directions queried so far."""
        return self.basis[:, : self.rank]

    @property
    def n(self) -> Rows:
        """N: the raw noise of their images."""
        return self.noise[:, : self.rank]

    def room(self, count: int) -> tuple[Rows, Rows]:
        """Memory for the next directions, and for their images' noise."""
        new = slice(self.rank, self.rank + count)
        return self.basis[:, new], self.noise[:, new]

    def append(self, small: Tensor) -> None:
        """Take up the directions written to `room`, with their rows of S."""
        new = slice(self.rank, self.rank + small.shape[1])
        self.small[:, new, : small.shape[2]] = small
        self.rank = new.stop


class LazyGaussian:
    """W with iid N(0, 1/n) entries and its training, `replicas` of them, sampled lazily as they are queried.

    Args:
        storage: Memory for both directions' bases and images, (4, replicas, capacity, n), of any content: capacity is
            the largest rank that either basis may reach.
        reused: Whether `backward` is W's own transpose or an independent copy's.
        tolerance: Residual directions with less than this share of their vector's squared norm are not sampled; only
            their conditional mean is kept (without it the response to W would vanish at small learning rates).
        buffer: Of the updates; None: plain SGD's.
    """

    def __init__(
        self,
        storage: Float[Tensor, "4 replicas capacity n"],
        *,
        reused: bool,
        tolerance: float = 1e-12,
        buffer: Buffer | None = None,
    ) -> None:
        self.n = storage.shape[-1]
        self.reused = reused
        self.tolerance = tolerance
        self._forward = _Side.empty(storage[:2])
        self._backward = _Side.empty(storage[2:])
        self._buffer = buffer or Momentum()

    @property
    def rank(self) -> int:
        """The number of directions sampled so far, on the larger side."""
        return max(self._forward.rank, self._backward.rank)

    def forward(self, a: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W a, and the coordinates of `a` that `update` wants.

        Args:
            a: Forward vectors.
            noise: As many rows of standard normal noise.
            uncorrelated: If given, match moments: rows that the noise has no correlation with in the limit.
        """
        return self._query(self._forward, self._backward, a, noise, uncorrelated)

    def backward(self, g: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W^T g (or the independent copy's), and the coordinates of `g`."""
        return self._query(self._backward, self._forward, g, noise, uncorrelated)

    def products(self, coordinates: Tensor) -> Float[Tensor, "replicas rows rows"]:
        """The inner products of vectors with these coordinates: the bases are orthonormal."""
        return coordinates @ coordinates.mT

    def update(
        self,
        coordinates: Tensor,
        coordinates_g: Tensor,
        weights: Float[Tensor, "replicas rows"],
        rate: float = 1.0,
    ) -> None:
        """W -= rate times the gradient (1/n) sum_b weights_b g_b a_b^T, with the momentum of those before."""
        # With a_b = coordinates_b E_x and g_b = coordinates_g_b E_v, W E_x moves by -change E_v and W^T E_v by
        # -change^T E_x, where change = sum_b coordinates_b^T weights_b coordinates_g_b.
        weighted = weights[..., None].to(coordinates.dtype) * coordinates_g
        change = rate * self._buffer.direction(coordinates.mT @ weighted)
        _, p, q = change.shape
        self._forward.small[:, :p, :q] -= change
        self._backward.small[:, :q, :p] -= change.mT

    def _query(
        self,
        here: _Side,
        there: _Side,
        a: Rows,
        noise: Rows,
        uncorrelated: Rows | None,
    ) -> tuple[Rows, Float[Tensor, "replicas rows rank"]]:
        """The image of a block, whose new directions join the basis, and its coordinates in the basis.

        Args:
            here: Side that is queried: E, N and S.
            there: The other side: E' and N'.
            a: Block of vectors.
            noise: White noise, as many rows.
            uncorrelated: Those of `forward`.
        """
        # a = alpha E + r, and r = down e + dropped with new directions e = up r
        alpha, residual = _split(a, here.e)
        down, up, turn, rough = _directions(alpha, residual, self.tolerance)
        basis, fresh = here.room(up.shape[1])
        torch.bmm(up.to(a.dtype), residual, out=basis)
        if rough:
            down, up = _polish(basis, down, up)
        # W e = turn^T G + small E'. First the fresh noise off E', which is -<turn^T G, E'> E' in exact sampling ...
        if uncorrelated is not None:
            small = match_moments(noise, uncorrelated, there.e, turn, out=fresh)
        else:
            torch.bmm(turn.mT.to(a.dtype), noise, out=fresh)
            small = up.new_zeros(*up.shape[:2], there.rank)
            if self.reused:
                small -= inner(fresh, there.e).double()
        # ... then the mean, which W^T E' fixes: <r, N'> E' for r, up <r, N'> E' for e, the rest for what is dropped
        dropped = None
        if self.reused:
            mean = inner(residual, there.n).double()
            known = up @ mean
            dropped = mean - down @ known
            small += known
        here.append(small)
        coordinates = torch.cat([alpha, down], dim=-1)
        return _image(here, there, coordinates, dropped), coordinates


class _ByEntry:
    """What trains entry by entry; the coordinates of a vector are the vector.

    Args:
        n: Width.
        buffer: Of the updates.
    """

    def __init__(self, n: int, buffer: Buffer) -> None:
        self.n = n
        # What an update is taken from.
        self._matrices: list[Float[Tensor, "replicas n n"]] = []
        self._buffer = buffer

    def products(self, coordinates: Tensor) -> Float[Tensor, "replicas rows rows"]:
        """The normalised inner products of these vectors."""
        return inner(coordinates, coordinates)

    def update(
        self,
        coordinates: Tensor,
        coordinates_g: Tensor,
        weights: Float[Tensor, "replicas rows"],
        rate: float = 1.0,
    ) -> None:
        """That of `LazyGaussian`."""
        weighted = weights[..., None] * coordinates_g
        change = self._buffer.direction(weighted.mT @ coordinates)
        for matrix in self._matrices:
            matrix.sub_(change, alpha=rate / self.n)


class ExplicitGaussian(_ByEntry):
    """W with iid N(0, 1/n) entries and its training, `replicas` of them, entry by entry.

    The same law as a `LazyGaussian`, and cheaper once there are many queries; the coordinates of a vector are the
    vector. The noise that queries bring goes unused.

    Args:
        shape: (replicas, n).
        generator: Of the entries.
        like: Whose dtype and device they have.
        reused: Whether `backward` is W's own transpose or an independent copy's.
        buffer: Of the updates; None: plain SGD's.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        generator: torch.Generator,
        like: Tensor,
        *,
        reused: bool,
        buffer: Buffer | None = None,
    ) -> None:
        replicas, n = shape
        super().__init__(n, buffer or Momentum())
        # W, and unless W itself the matrix whose transpose `backward` applies
        for _ in range(1 if reused else 2):
            draw = torch.randn(
                (replicas, self.n, self.n),
                generator=generator,
                dtype=like.dtype,
                device=like.device,
            )
            self._matrices.append(draw.div_(math.sqrt(self.n)))

    @property
    def rank(self) -> int:
        """All n directions."""
        return self.n

    def forward(self, a: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W a, and a."""
        return a @ self._matrices[0].mT, a

    def backward(self, g: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W^T g (or the independent copy's), and g."""
        return g @ self._matrices[-1], g


class TrainedBeside(_ByEntry):
    """A lazily sampled W_0, and what was trained as an explicit matrix D beside it: W = W_0 + D.

    For updates that act on the entries of D, and so are of no low rank; the coordinates of a vector are the vector.

    Args:
        start: W_0, and where backward weights are independent its copy; D is the same for both.
        shape: (replicas, n).
        like: Whose dtype and device D has.
        buffer: Of the updates.
    """

    def __init__(self, start: LazyGaussian, shape: tuple[int, int], like: Tensor, buffer: Buffer) -> None:
        replicas, n = shape
        super().__init__(n, buffer)
        self.start = start
        self._trained = like.new_zeros(replicas, n, n)
        self._matrices.append(self._trained)

    @property
    def rank(self) -> int:
        """The number of directions sampled of W_0."""
        return self.start.rank

    def forward(self, a: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W a, and a; arguments are those of `LazyGaussian`."""
        image, _ = self.start.forward(a, noise, uncorrelated)
        return image.baddbmm(a, self._trained.mT), a

    def backward(self, g: Rows, noise: Rows, uncorrelated: Rows | None = None) -> tuple[Rows, Tensor]:
        """W^T g (or the independent copy's), and g."""
        image, _ = self.start.backward(g, noise, uncorrelated)
        return image.baddbmm(g, self._trained), g


Gaussian = LazyGaussian | ExplicitGaussian | TrainedBeside


def _image(here: _Side, there: _Side, coordinates: Tensor, dropped: Tensor | None) -> Rows:
    """The image of a vector with these coordinates, and the conditional mean of the part that they leave out."""
    # coordinates (N + S E') + dropped E'
    along = coordinates @ here.small[:, : here.rank, : there.rank]
    if dropped is not None:
        along += dropped
    dtype = here.noise.dtype
    image = torch.bmm(coordinates.to(dtype), here.n)
    return image.baddbmm_(along.to(dtype), there.e)


def _split(a: Rows, basis: Rows) -> tuple[Float[Tensor, "replicas rows rank"], Rows]:
    """a = alpha basis + residual, orthogonal to rounding.

    One sweep of Gram-Schmidt is too few: what rounding leaves along the basis is amplified by |a| / |residual|, at each
    step anew. Allowing a share of 3e-3 along the basis moves a float32 loss by 1e-3 after 20 steps (*checked*).
    """
    alpha = inner(a, basis)
    if not basis.shape[1]:
        return alpha.double(), a
    # alpha = <a, E>, r = a - alpha E, and the same of r
    residual = torch.baddbmm(a, alpha, basis, alpha=-1.0)
    again = inner(residual, basis)
    residual.baddbmm_(again, basis, alpha=-1.0)
    return alpha.double().add_(again), residual


def _polish(e: Rows, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Directions made orthonormal to rounding, in place: squaring in the Gram matrix has cost them half their digits.

    Returns:
        `down` and `up` for the new directions.
    """
    gram = inner(e, e).double()
    # A replica that needs fewer directions has rows of 0: a 1 on its diagonal leaves them alone.
    norms = diagonal(gram)
    norms.add_(norms < 0.5)
    # <e, e> = Z Z^T, so Z^-1 e is orthonormal: r = (down Z) (Z^-1 e), and Z^-1 e = (Z^-1 up) r
    lower = cholesky(gram)
    inverse = _inverse(lower)
    polished = torch.bmm(inverse.to(e.dtype), e)
    e.copy_(polished)
    return down @ lower, inverse @ up


def _inverse(lower: Tensor) -> Tensor:
    """Of small triangular matrices: multiplying the particles by it is faster than solving for them."""
    m = lower.shape[-1]
    eye = torch.eye(m, dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


def _directions(alpha: Tensor, residual: Rows, tolerance: float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The principal directions e of the residuals that are longer than `tolerance`.

    Returns:
        down, up, turn with residual = down e + (what is dropped), e = up residual, and white noise turned into the
        directions' own: the image's noise, down turn^T G, is then D (D^-1 <r, r> D^-1)^(1/2) G in every basis, with
        D the lengths of the vectors, which two runs with common noise need. And whether rounding will show in e.
    """
    gram = inner(residual, residual).double()
    # |a|^2 = <r, r> + |alpha|^2, as the basis is orthonormal
    square = diagonal(gram) + alpha.square().sum(-1)
    norm = square.sqrt()[..., None]  # D as a column, (R, B, 1)
    # 1/D, 0 for a vector of length 0
    per_norm = torch.where(norm > 0, norm, math.inf).reciprocal_()
    # D^-1 <r, r> D^-1 = V diag(values) V^T: the shares of the vectors' squared norms that are new
    shares = per_norm * gram * per_norm.mT
    values, vectors = eigh(shares)
    rows = values.shape[1]
    largest = values[:, -1:]
    # Rounding leaves errors of rows eps in the eigenvalues, and residuals of eps in vectors that have none.
    eps = torch.finfo(residual.dtype).eps
    least = max(tolerance, (ROUNDING * eps) ** 2)
    threshold = (8 * rows * eps * largest).clamp_min_(least)
    kept = values > threshold
    uneven = values * UNEVEN < largest
    rough = bool((kept & uneven).any())
    # Eigenvalues ascend. All replicas get as many directions as the one that needs the most; not kept, theirs are 0.
    most = int(kept.sum(1).max())
    first = rows - most
    kept = kept[:, first:]
    values = values[:, first:]
    turn = vectors[:, :, first:]  # V
    # up = values^(-1/2) V^T D^-1, and down = D V values^(1/2): <e, e> = 1 and r = down e + dropped
    inverse_root = torch.where(kept, values, math.inf).rsqrt_()[:, None, :]
    root = inverse_root * values[:, None, :]
    up = (per_norm * turn * inverse_root).mT
    down = norm * turn * root
    return down, up, turn, rough
