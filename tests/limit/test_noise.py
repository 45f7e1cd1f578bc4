"""Noise that fills space evenly is still noise: right in law, shared between depths, set by its seed."""

from __future__ import annotations

import torch
from explicit import X, problem

from isoscale.limit.network import Size, run
from isoscale.limit.noise import BACKWARD, EVEN_QUERIES, FORWARD, INPUT_OUTPUT, GaussianNoise, QuasiNoise

GRAM = X @ X.T / X.shape[1]
LAYERS, ROWS = 3, len(X)


def everything(*seed: int, replicas: int, n: int, rows: int = ROWS) -> torch.Tensor:
    """All rows that a run asks for in its first two steps, and some of its later ones: (replicas, rows, n)."""
    noise = QuasiNoise(*seed, layers=LAYERS, gram=GRAM)
    shape = (replicas, rows, n)
    parts = [noise.rows(INPUT_OUTPUT, 0, (replicas, 1 + ROWS, n))]
    for _ in range(2):
        parts += [noise.rows(kind, layer, shape) for kind in (FORWARD, BACKWARD) for layer in range(LAYERS)]
    return torch.cat([*parts, *(noise.rows(FORWARD, 0, shape) for _ in range(EVEN_QUERIES - 1))], dim=1)


def worst(values: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of the mean over replicas, in standard errors."""
    error = values.std(0) / len(values) ** 0.5
    return ((values.mean(0) - expected) / error).abs().max().item()


def test_each_particle_is_standard_normal_and_uncorrelated() -> None:
    # one particle a replica is a fair draw from the law, whatever the others are
    rows = everything(1, replicas=4000, n=1)[..., 0]
    assert worst(rows, torch.zeros(rows.shape[1])) < 4.5
    assert worst(rows[:, :, None] * rows[:, None, :], torch.eye(rows.shape[1])) < 4.5
    assert worst(rows**4, torch.full((rows.shape[1],), 3.0)) < 4.5


def test_replicas_and_particles_are_right_together() -> None:
    rows = everything(2, replicas=200, n=64)
    assert worst(rows @ rows.mT / 64, torch.eye(rows.shape[1])) < 4.5
    products = rows[0] @ rows[1:].mT / 64
    assert worst(products, torch.zeros(rows.shape[1], rows.shape[1])) < 4.5, "replicas are independent"


def test_mini_batches_have_fewer_rows_of_the_same_law() -> None:
    noise = QuasiNoise(3, layers=LAYERS, gram=GRAM)
    noise.rows(INPUT_OUTPUT, 0, (4000, 1 + ROWS, 1))
    rows = torch.cat([noise.rows(BACKWARD, layer, (4000, 2, 1)) for layer in range(LAYERS)], dim=1)[..., 0]
    assert worst(rows[:, :, None] * rows[:, None, :], torch.eye(2 * LAYERS)) < 4.5


def test_the_sum_over_layers_is_even_along_the_principal_axes_of_the_inputs() -> None:
    rows = everything(4, replicas=64, n=256)
    for first in (1 + ROWS, 1 + ROWS + 2 * LAYERS * ROWS):  # forward, of both steps
        total = rows[:, first : first + LAYERS * ROWS].unflatten(1, (LAYERS, ROWS)).sum(1) / LAYERS**0.5
        square = (torch.linalg.eigh(GRAM)[1].mT @ total).square().mean(-1)
        # one point in each of 256 cells leaves x^2, of variance 2, little to vary but in the two outermost cells
        assert (square.var(0) < 0.1 * 2 / 256).all()


def test_coarse_layers_are_normalised_sums_of_fine_ones() -> None:
    shape = (2, ROWS, 8)
    fine, coarse = (QuasiNoise(5, layers=4, gram=GRAM, refinement=m) for m in (1, 2))
    initial = [noise.rows(INPUT_OUTPUT, 0, (2, 1 + ROWS, 8)) for noise in (fine, coarse)]
    torch.testing.assert_close(*initial, rtol=0, atol=0)
    pairs = [(fine.rows(FORWARD, 2 * i, shape) + fine.rows(FORWARD, 2 * i + 1, shape)) / 2**0.5 for i in range(2)]
    for i in range(2):
        torch.testing.assert_close(coarse.rows(FORWARD, i, shape), pairs[i])


def test_the_seed_sets_it_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (everything(s, replicas=2, n=16) for s in (6, 6, 7))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_it_takes_sampling_error_off_matched_particles() -> None:
    # the reduction by two at 1024 particles is seen with room: F(95, 95) exceeds 1.5 with probability 0.02
    size = Size(n=1024, depth=2, replicas=96, matched=True)
    noises = (GaussianNoise(1), QuasiNoise(1, layers=2, gram=problem().gram))
    plain, even = (run(problem(), size, noise).loss[:, 1:].var(0).mean() for noise in noises)
    assert even < plain
