"""What each of two processes does in the tests of DDP and FSDP2; imported by the spawned processes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from small_nets import Batch, planned_transformer, text_batches, train, transformer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from isoscale import Plan
from isoscale.errors import PlanError
from isoscale.graph.unwrapping import named_parameters

WORLD, STEPS, SIZE = 2, 4, 4


def batches() -> list[Batch]:
    return text_batches(STEPS, WORLD * SIZE)


def run(rank: int, folder: str) -> None:
    """Train under DDP and under FSDP2 on this rank's half of each batch; write what was seen."""
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    mine = [(x[rank * SIZE :][:SIZE], y[rank * SIZE :][:SIZE]) for x, y in batches()]
    found = {"ddp": _ddp(mine), "fsdp": _fsdp(mine), "applied": _applied_to_shards(mine)}
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def _ddp(mine: list[Batch]) -> dict[str, Any]:
    model, plan = planned_transformer()
    wrapped = nn.parallel.DistributedDataParallel(model)
    return _trained(wrapped, plan, mine)


def _fsdp(mine: list[Batch]) -> dict[str, Any]:
    """Planned on the whole model, then sharded: fully_shard replaces every parameter."""
    model, plan = planned_transformer()
    return _trained(_sharded(model), plan, mine)


def _applied_to_shards(mine: list[Batch]) -> dict[str, Any]:
    """A plan applied to a model that is sharded already: each shard is rescaled by what the whole tensor asks."""
    _, plan = planned_transformer()
    model = _sharded(transformer(16, 4, heads=4))
    return _trained(model, Plan.from_dict(plan.to_dict()).apply(model), mine)


def _trained(model: nn.Module, plan: Plan, mine: list[Batch]) -> dict[str, Any]:
    """Losses of this half, the trained weights, and what check says before and after a group loses its ratio."""
    optimizer = torch.optim.AdamW(plan.param_groups(model))
    losses = train(model, optimizer, mine)
    plan.check(optimizer, model=model)
    optimizer.param_groups[1]["lr"] *= 3
    try:
        plan.check(optimizer, model=model)
        caught = False
    except PlanError:
        caught = True
    weights = {name: parameter.detach() for name, parameter in named_parameters(model).items()}
    return {
        "losses": losses,
        "caught": caught,
        "sharded": all(isinstance(value, DTensor) for value in weights.values()),
        "weights": {
            name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights.items()
        },
    }


def _sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model.get_submodule("layers").children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)
