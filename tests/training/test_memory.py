"""Stacks as large as the memory holds: halved when it runs out, with the same results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isoscale import data, models
from isoscale.training import Member, Optimizer, Outcome, Recipe, Replica, ensemble, memory, train

DIGITS = data.load("digits").flatten()
RECIPE = Recipe(width=8, depth=2, base_width=8, base_depth=1, rule="sp", optimizer=Optimizer(), steps=12, batch_size=16)
MEMBERS = [Member(2.0**-k, seed) for k in range(1, 6) for seed in (0, 1)]

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError(CPU_MESSAGE)], ids=repr
)
@pytest.mark.parametrize("room", [1, 3, 9])
def test_a_stack_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch, error: Exception, room: int):
    whole, sizes = train(RECIPE, MEMBERS, DIGITS), []
    run = ensemble.train_stack

    def short(members: list[Replica], *rest: object) -> Outcome:
        if len(members) > room:
            raise error
        sizes.append(len(members))
        return run(members, *rest)

    monkeypatch.setattr(ensemble, "train_stack", short)
    parts = train(RECIPE, MEMBERS, DIGITS)
    assert sum(sizes) == len(MEMBERS)
    assert room / 2 <= max(sizes) <= room
    # Another number of members in a batched product may sum in another order: float32 round-off.
    np.testing.assert_allclose(parts.curve, whole.curve, rtol=1e-5)
    np.testing.assert_allclose(parts.test_loss, whole.test_loss, rtol=1e-5)
    np.testing.assert_array_equal(parts.diverged_at, whole.diverged_at)


def test_a_single_member_that_does_not_fit_is_an_error():
    def run(items: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        memory.in_parts(run, range(5))


def test_an_error_of_another_kind_is_not_tried_again():
    runs: list[object] = []

    def run(items: object) -> None:
        runs.append(items)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        memory.in_parts(run, range(5))
    assert len(runs) == 1


def test_torch_says_that_memory_ran_out_in_these_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.is_out_of_memory(caught.value)


@pytest.mark.parametrize("free", [0, 10**6, 10**9])
def test_what_fits_grows_with_the_free_memory(monkeypatch: pytest.MonkeyPatch, free: int):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**10))
    model = models.build("residual-mlp", {}, in_features=64, out_features=10, width=64, depth=8, seed=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = memory.members_that_fit(model, 64, 18, 64, "cuda")
    # Each holds at least its parameters, gradients and two moments.
    assert found <= max(1, free // (4 * 4 * parameters))
    assert found >= free // (4 * (10 * parameters + 10 * 64 * 64 * 18) * 3)


@pytest.mark.parametrize(
    ("size", "free", "fits"), [(100, 400, True), (100, 396, False), (2**32, 2**40, True), (2**32 + 4, 2**40, False)]
)
def test_data_stay_where_they_are_unless_they_fit_beside_the_models(
    monkeypatch: pytest.MonkeyPatch, size: int, free: int, fits: bool
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**13))
    samples = torch.empty(size // 4, device="meta")
    assert memory.data_fit(samples, "cuda") is fits
    assert memory.data_fit(samples, "cpu") is (size <= 2**32)
