"""The lazily sampled matrix is a matrix: linear, with its transpose, moved by updates; an explicit one has its law."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from isoscale.limit.gaussian import ExplicitGaussian, Gaussian, LazyGaussian

REPLICAS, N, CAPACITY = 3, 40, 16
EXACT = {"rtol": 0.0, "atol": 1e-11}


class Drawn:
    """Vectors and noise for one matrix, all from one seed."""

    def __init__(self, seed: int = 0, replicas: int = REPLICAS, n: int = N) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = replicas, n

    def __call__(self, rows: int) -> Tensor:
        """(replicas, rows, n), entries N(0, 1)."""
        replicas, n = self._shape
        return torch.randn(replicas, rows, n, generator=self._generator, dtype=torch.float64)


class Queried(NamedTuple):
    """A matrix that was queried in both directions, and what it answered."""

    matrix: LazyGaussian
    a: Tensor
    image: Tensor
    coordinates: Tensor
    g: Tensor
    image_g: Tensor
    coordinates_g: Tensor


def lazy(reused: bool, replicas: int = REPLICAS, n: int = N) -> LazyGaussian:
    storage = torch.full((4, replicas, CAPACITY, n), torch.nan, dtype=torch.float64)
    return LazyGaussian(storage, reused=reused)


def make(reused: bool, explicit: bool, replicas: int = REPLICAS) -> Gaussian:
    """Either kind of matrix."""
    if not explicit:
        return lazy(reused, replicas)
    like = torch.zeros(1, dtype=torch.float64)
    return ExplicitGaussian((replicas, N), torch.Generator().manual_seed(3), like, reused=reused)


@pytest.fixture
def draw() -> Drawn:
    return Drawn()


@pytest.fixture(params=[True, False], ids=["reused", "independent"])
def queried(request: pytest.FixtureRequest, draw: Drawn) -> Queried:
    matrix = lazy(request.param)
    a, g = draw(2), draw(3)
    image, coordinates = matrix.forward(a, draw(2))
    image_g, coordinates_g = matrix.backward(g, draw(3))
    return Queried(matrix, a, image, coordinates, g, image_g, coordinates_g)


def products(u: Tensor, v: Tensor) -> Tensor:
    """u . v of all rows with all rows, (replicas, rows of u, rows of v)."""
    return u @ v.mT


def test_backward_is_the_transpose(draw: Drawn):
    """g . W a = W^T g . a of everything that was queried, in whatever order, also of vectors that are combinations."""
    matrix = lazy(reused=True)
    asked, answered = [], []
    asked_g, answered_g = [], []
    for rows in (1, 2, 3):
        a, g = draw(rows), draw(rows)
        if asked:  # a part of it along what is known already
            a, g = a + asked[-1][:, :1], g - 2 * asked_g[-1][:, :1]
        asked.append(a)
        answered.append(matrix.forward(a, draw(rows))[0])
        asked_g.append(g)
        answered_g.append(matrix.backward(g, draw(rows))[0])
    every_a, every_image = torch.cat(asked, 1), torch.cat(answered, 1)
    every_g, every_image_g = torch.cat(asked_g, 1), torch.cat(answered_g, 1)
    torch.testing.assert_close(products(every_g, every_image), products(every_image_g, every_a), **EXACT)


def test_an_independent_copy_is_no_transpose():
    """Its products with what went forward are noise of their own: uncorrelated, of the same size."""
    replicas = 400
    draw = Drawn(seed=1, replicas=replicas)
    matrix = lazy(reused=False, replicas=replicas)
    a, g = draw(1), draw(1)
    forward = products(g, matrix.forward(a, draw(1))[0]).flatten() / N
    backward = products(a, matrix.backward(g, draw(1))[0]).flatten() / N
    together = forward * backward
    assert abs(together.mean()) < 4 * together.std() / replicas**0.5
    # g . W a / n has variance <a, a> <g, g> / n, so times n about 1.
    square = N * backward.square()
    assert abs(square.mean() - 1) < 4 * square.std() / replicas**0.5


def test_images_are_linear(queried: Queried, draw: Drawn):
    """Whatever noise is offered with a vector that holds nothing new."""
    mixing = torch.tensor([[2.0, -3.0], [0.5, 0.0]], dtype=torch.float64)
    again, _ = queried.matrix.forward(mixing @ queried.a, draw(2))
    torch.testing.assert_close(again, mixing @ queried.image, **EXACT)
    assert queried.matrix.rank == 3
    mixing_g = torch.tensor([[1.0, 1.0, -2.0]], dtype=torch.float64)
    again_g, _ = queried.matrix.backward(mixing_g @ queried.g, draw(1))
    torch.testing.assert_close(again_g, mixing_g @ queried.image_g, **EXACT)


def test_a_vector_of_zeros_has_an_image_of_zeros(queried: Queried, draw: Drawn):
    image, _ = queried.matrix.forward(0 * queried.a, draw(2))
    assert (image == 0).all()


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("reused", [True, False])
def test_an_update_moves_the_images_by_its_outer_products(draw: Drawn, reused: bool, explicit: bool):
    """W -= (1/n) sum_b w_b g_b a_b^T, seen in both directions; of an independent copy too."""
    matrix = make(reused, explicit)
    a, g = draw(2), draw(3)
    image, coordinates = matrix.forward(a, draw(2))
    image_g, coordinates_g = matrix.backward(g, draw(3))
    weights = torch.tensor([[1.0, -0.5]], dtype=torch.float64).expand(REPLICAS, -1)
    matrix.update(coordinates, coordinates_g[:, :2], weights)
    moved, _ = matrix.forward(a, draw(2))
    expected = image - products(a, a) @ (weights[..., None] * g[:, :2]) / N
    torch.testing.assert_close(moved, expected, **EXACT)
    moved_g, _ = matrix.backward(g, draw(3))
    expected_g = image_g - products(g, g[:, :2]) @ (weights[..., None] * a) / N
    torch.testing.assert_close(moved_g, expected_g, **EXACT)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("reused", [True, False])
def test_entries_have_variance_1_over_n(reused: bool, explicit: bool):
    """What a new vector meets, beside one that was queried in each direction: the law of an iid matrix."""
    replicas = 300
    draw = Drawn(seed=2, replicas=replicas)
    matrix = make(reused, explicit, replicas=replicas)
    matrix.forward(draw(1), draw(1))
    matrix.backward(draw(1), draw(1))
    a = draw(1)
    image = matrix.forward(a, draw(1))[0]
    # |W a|^2 / |a|^2 has mean 1.
    ratio = (image.square().sum(-1) / a.square().sum(-1)).flatten()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / replicas**0.5
    across = image.mean(-1).flatten()
    assert abs(across.mean()) < 4 * across.std() / replicas**0.5
