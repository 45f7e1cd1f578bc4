"""What a reader of a measurement should know about the model that it was taken on."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd


def notes_on(model: nn.Module) -> list[str]:
    """One sentence for each circumstance that the numbers depend on.

    >>> notes_on(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.0)))
    ['batch statistics in 1 norm (0): their change is part of what is measured, running statistics stay as they were']
    """
    notes = []
    if norms := [name for name, module in model.named_modules() if _uses_batch(module)]:
        notes.append(
            f"batch statistics in {_count(norms, 'norm')}: their change is part of what is measured, "
            "running statistics stay as they were"
        )
    if drops := [name for name, module in model.named_modules() if _drops(module)]:
        notes.append(f"dropout active in {_count(drops, 'module')}: gradient and change share their masks")
    if frozen := [name for name, param in model.named_parameters() if not param.requires_grad]:
        notes.append(f"{_count(frozen, 'frozen tensor')}: not stepped")
    return notes


def _uses_batch(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and (module.training or not module.track_running_stats)


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.training and module.p > 0


def _count(names: list[str], noun: str) -> str:
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {noun}{'s' * (len(names) > 1)} ({listed})"
