"""Adaptive sweeps: a search at every rule and size of a spec, each started from the optimum of the size before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from isoscale.runs.driver import Session
from isoscale.runs.result import Cell, Searched, SweepResult, cell_of, distinct
from isoscale.runs.rounds import run_round
from isoscale.runs.search import Search
from isoscale.runs.spec import Sweep

# Full trials that a search takes for each seed, about: for the announcement before it.
TRIALS_PER_SEED = 8


class _Chain:
    """The searches of one rule, size after size."""

    def __init__(self, spec: Sweep, cells: Sequence[Cell], known: dict[Cell, Search]) -> None:
        self._spec = spec
        self._cells = list(cells)
        self._known = known

    def current(self) -> Cell | None:
        """The first cell whose search has not ended; None at the end."""
        for place, cell in enumerate(self._cells):
            if cell not in self._known:
                self._known[cell] = self._started(cell, self._cells[:place])
            if self._known[cell].wanted():
                return cell
        return None

    def _started(self, cell: Cell, before: Sequence[Cell]) -> Search:
        """A search that starts where the last size's ended, and trains the first size's rate beside its own."""
        optima = [self._known[cell].optimum for cell in before]
        inside = [optimum for optimum in optima if not optimum.edge]
        return Search(
            low=min(self._spec.lrs),
            high=max(self._spec.lrs),
            seeds=_seeds(self._spec),
            steps=self._spec.spending(dict(cell)).steps,
            start=2.0 ** inside[-1].log2_lr if inside else None,
            also=(2.0 ** optima[0].rate,) if optima and not optima[0].edge else (),
            shortens=self._spec.shortens,
            hopeless=self._spec.hopeless if self._spec.early_stop else 0.0,
            pilots_compare=not self._spec.is_foreign and self._spec.schedule == "constant" and not self._spec.warmup,
        )


def search_cells(session: Session, spec: Sweep, chains: Iterable[Sequence[Cell]]) -> dict[Cell, Search]:
    """Search every cell; chains go side by side, the cells of one chain after each other.

    Args:
        session: Where.
        spec: Its learning rates are the range to begin with, its seeds those of every search.
        chains: The first cell of each is the base: its rate is trained at all the others.
    """
    searches: dict[Cell, Search] = {}
    links = [_Chain(spec, cells, searches) for cells in chains]
    while True:
        current = [cell for link in links if (cell := link.current()) is not None]
        specs = {cell: spec.only(dict(cell)) for cell in current}
        if not run_round(session, specs, {cell: searches[cell] for cell in current}):
            return searches


def gathered(session: Session, spec: Sweep, searches: Mapping[Cell, Search]) -> SweepResult:
    """What the searches trained in full, as one sweep: what they did not ask for is missing there."""
    lrs: set[float] = set()
    seeds: set[int] = set()
    for search in searches.values():
        lrs.update(search.full_lrs)
        seeds.update(search.seeds)
    # Where nothing trained, what was tried is all there is to show.
    lrs = lrs or {lr for search in searches.values() for lr in search.tried}
    found = dataclasses.replace(spec, lrs=sorted(lrs), seeds=sorted(seeds))
    # A pilot is shorter than the trials of the sweep, so that its failure shows nowhere else.
    failures = [
        dataclasses.replace(spec.only(dict(cell)), lrs=request.lrs, seeds=request.seeds, steps=request.steps)
        for cell, search in searches.items()
        for request in search.failures
    ]
    result, *failed = session.read([found, *failures])
    # What else the store holds, of other sweeps, is no part of what was found.
    result = result.only({cell: search.asked_in_full for cell, search in searches.items()})
    all_of_them = searches.values()
    searched = Searched(
        optima=len(searches),
        trials=sum(search.trials for search in all_of_them),
        full_trials=sum(search.full_trials for search in all_of_them),
        stopped=sum(search.stopped for search in all_of_them),
        failed=sum(one.count("failed") for one in failed),
        reasons=distinct(reason for one in failed for reason in one.reasons),
    )
    return dataclasses.replace(result, searched=searched)


def chains_of(spec: Sweep, cells: Iterable[Mapping[str, Any]]) -> list[list[Cell]]:
    """The sizes of every rule and hyperparameter, in the order of the spec's `cells` that are given."""
    chains: dict[Cell, list[Cell]] = {}
    for values in cells:
        rest = {name: value for name, value in values.items() if name not in spec.size_axes}
        chains.setdefault(cell_of(rest), []).append(cell_of(values))
    return list(chains.values())


def adaptive_sweep(session: Session, spec: Sweep) -> SweepResult:
    """Search every rule and size of a spec, and gather the trials."""
    searches = search_cells(session, spec, chains_of(spec, spec.cells))
    return gathered(session, spec, searches)


def announced(spec: Sweep) -> Sweep:
    """A grid that costs about what the searches of a spec will."""
    low, high = min(spec.lrs), max(spec.lrs)
    if low == high:
        return spec
    count = TRIALS_PER_SEED
    lrs = [low * (high / low) ** (k / (count - 1)) for k in range(count)]
    return dataclasses.replace(spec, lrs=lrs)


def _seeds(spec: Sweep) -> tuple[int, ...]:
    assert isinstance(spec.seeds, tuple)  # Sweep normalises its grids
    return spec.seeds
