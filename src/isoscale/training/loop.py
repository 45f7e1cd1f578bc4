"""How a run goes on beside its plan: the learning rate's schedule, clipped gradients, accumulated batches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from isoscale.checks import number, share, whole
from isoscale.errors import unknown
from isoscale.scaling.schedules import SCHEDULES, lr_factor

# Of a forward pass; float16 would need its gradients scaled.
PRECISIONS = ("bfloat16",)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a training loop does beside a step of its optimizer on each batch.

    Attributes:
        schedule: Of the learning rate after its warmup: "constant"; "cosine" and "linear" fall to zero; "wsd" does in
            the last fifth.
        warmup: Share of the steps in which the learning rate rises linearly.
        clip: Norm to which the gradient is clipped; None: never.
        accumulate: Batches in a step; their losses are averaged.
        autocast: Precision of the forward pass: "bfloat16"; None: that of the weights.

    Raises:
        InvalidValueError, InvalidTypeError: A value that makes no sense, named.

    >>> loop = Loop(schedule="linear", warmup=0.25)
    >>> [loop.lr_factor(step, 4) for step in range(4)]
    [1.0, 1.0, 0.6666666666666667, 0.33333333333333337]
    """

    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    autocast: str | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("`schedule`", self.schedule, SCHEDULES)
        # Python's own numbers, so that equal loops have equal keys however they were typed.
        object.__setattr__(self, "warmup", share("warmup", self.warmup))
        if self.clip is not None:
            object.__setattr__(self, "clip", number("clip", self.clip, above=0))
        object.__setattr__(self, "accumulate", whole("accumulate", self.accumulate))
        if self.autocast is not None and self.autocast not in PRECISIONS:
            raise unknown("`autocast`", self.autocast, PRECISIONS)

    @property
    def has_schedule(self) -> bool:
        """Whether the learning rate changes at all."""
        return self.schedule != "constant" or self.warmup > 0

    def canonical(self) -> dict[str, Any]:
        """Everything about it, as plain values."""
        told = asdict(self)
        if self.autocast is None:
            # Keys from before there was a choice are those of the weights' precision.
            del told["autocast"]
        return told

    def lr_factor(self, step: int, steps: int) -> float:
        """What the learning rates are multiplied by at a step, counted from 0, of so many.

        >>> [Loop(warmup=0.5).lr_factor(step, 4) for step in range(4)]
        [0.5, 1.0, 1.0, 1.0]
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, steps - rising)
        return lr_factor(self.schedule, done)
