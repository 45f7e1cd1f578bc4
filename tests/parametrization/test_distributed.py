"""DDP and FSDP2 on two processes train as one process does on the whole batch."""

from pathlib import Path

import distributed_worker as worker
import pytest
import torch
from small_nets import planned_transformer, train

WAYS = ["ddp", "fsdp", "applied"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker.run, (str(folder),), nprocs=worker.WORLD)
    return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(worker.WORLD)]


@pytest.fixture(scope="module")
def alone():
    model, plan = planned_transformer()
    losses = train(model, torch.optim.AdamW(plan.param_groups()), worker.batches())
    return losses, dict(model.named_parameters())


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_one_process(seen, alone, way):
    """Means over halves and over the whole differ by float32 rounding."""
    halves = zip(*(rank[way]["losses"] for rank in seen), strict=True)
    assert [sum(pair) / worker.WORLD for pair in halves] == pytest.approx(alone[0], rel=1e-6)
    assert alone[0][0] != alone[0][-1]


@pytest.mark.parametrize("way", WAYS)
def test_every_rank_ends_with_the_weights_of_one_process(seen, alone, way):
    """Keys' biases shift all logits of a query alike: their gradient is rounding, whose sign AdamW follows."""
    for name, expected in alone[1].items():
        for rank in seen:
            got = rank[way]["weights"][name]
            assert got.shape == expected.shape
            if not name.endswith("k.bias"):
                torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_fsdp_shards_every_tensor_that_the_plan_names(seen):
    assert [rank["fsdp"]["sharded"] for rank in seen] == [True, True]
    assert [rank["ddp"]["sharded"] for rank in seen] == [False, False]


@pytest.mark.parametrize("way", WAYS)
def test_check_works_on_wrapped_and_sharded_models(seen, way):
    assert [rank[way]["caught"] for rank in seen] == [True, True]
