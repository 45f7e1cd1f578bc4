"""`isoscale store`: what a store holds, and what can be done to it as a whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

import tyro
from rich.console import Console

from isoscale.cli.terminal import console, framed
from isoscale.errors import InvalidValueError
from isoscale.runs.record import Status

if TYPE_CHECKING:
    from isoscale.runs.store.queries import Summary

_Path = Annotated[str, tyro.conf.Positional]
_Paths = Annotated[tuple[str, ...], tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class ListStore:
    """What a store holds: one row for each model, data set, optimizer, length and rule.

    Example: isoscale store list --store isoscale.db
    """

    store: str = "isoscale.db"
    """File that keeps every trial."""
    json: bool = False
    """Print one JSON array instead of a table."""

    def run(self) -> int:
        from isoscale.runs import Store

        with Store(self.store, read_only=True) as store:
            rows = store.summary()
        if self.json:
            console().print_json(json.dumps([dataclasses.asdict(row) for row in rows]))
            return 0
        out = console()
        out.print(framed(_HEADER, map(_cells, rows)))
        total = {status: sum(getattr(row, status) for row in rows) for status in get_args(Status)}
        counts = ", ".join(f"{count:,} {status}" for status, count in total.items())
        out.print(f"{sum(total.values()):,} trials in {self.store}: {counts}")
        return 0


@dataclass(frozen=True, kw_only=True)
class ExportStore:
    """Write every trial to a table: .csv, .nc (NetCDF) or .parquet.

    Example: isoscale store export trials.csv
    """

    out: _Path
    """File to write; its ending says the format."""
    store: str = "isoscale.db"
    """File that keeps every trial."""

    def run(self) -> int:
        from isoscale.runs import Store

        with Store(self.store, read_only=True) as store:
            count = store.export(self.out)
        console().print(f"{count:,} trials written to {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class MergeStores:
    """Take over the trials of other stores; exits with 1 if a trial is finished in two with other numbers.

    Example: isoscale store merge theirs.db --into isoscale.db
    """

    others: _Paths
    """Stores to read; they stay as they are."""
    into: str = "isoscale.db"
    """Store to write; made if it is not there."""

    def run(self) -> int:
        from isoscale.runs import Store

        if not self.others:
            raise InvalidValueError("name at least one store to merge")
        with Store(self.into) as store:
            merged = store.merge(*self.others)
        out = console()
        out.print(f"{merged.added:,} trials added to {self.into}, {merged.same:,} were there already")
        for conflict in merged.conflicts:
            out.print(f"conflict: {conflict}", style="red")
        return 1 if merged.conflicts else 0


@dataclass(frozen=True, kw_only=True)
class PruneStore:
    """Delete trials that match every flag given. Only shows how many unless --yes is given.

    Example: isoscale store prune --status failed --yes
    """

    store: str = "isoscale.db"
    """File that keeps every trial."""
    status: tuple[Status, ...] = ()
    """Trials that ended so."""
    rule: tuple[str, ...] = ()
    """Trials under these rules."""
    model: tuple[str, ...] = ()
    """Trials of these models."""
    dataset: tuple[str, ...] = ()
    """Trials on these data sets."""
    optimizer: tuple[str, ...] = ()
    """Trials with these optimizers."""
    yes: bool = False
    """Delete them."""

    def run(self) -> int:
        from isoscale.runs import Filter, Store

        chosen = Filter(
            status=self.status, rule=self.rule, model=self.model, dataset=self.dataset, optimizer=self.optimizer
        )
        with Store(self.store, must_exist=True, read_only=not self.yes) as store:
            if self.yes:
                console().print(f"{store.prune(chosen):,} trials deleted from {self.store}")
                return 0
            count = store.count(chosen)
        console().print(f"{count:,} trials of {self.store} would be deleted. Nothing was: add --yes to delete them")
        return 0


@dataclass(frozen=True, kw_only=True)
class CheckStore:
    """Look for damage in the file and in every trial; exits with 1 if there is any.

    Example: isoscale store check
    """

    store: str = "isoscale.db"
    """File that keeps every trial."""

    def run(self) -> int:
        from isoscale.runs import Store

        with Store(self.store, read_only=True) as store:
            faults = store.faults()
        out = console()
        for fault in faults:
            out.print(fault, style="red")
        _advise(self.store, faults, out)
        return 1 if faults else 0


@dataclass(frozen=True, kw_only=True)
class SalvageStore:
    """Recover every sound trial of a damaged store into a new one; exits with 1 if a trial was lost.

    Example: isoscale store salvage isoscale.db rescued.db
    """

    store: _Path
    """The damaged store; it is not touched."""
    to: _Path
    """The new store."""

    def run(self) -> int:
        from isoscale.runs import Store

        recovered = Store.salvage(self.store, self.to)
        out = console()
        for key in recovered.lost:
            out.print(f"lost: {key}", style="red")
        lost = "none known to be lost"
        if recovered.lost:
            lost = f"{len(recovered.lost):,} lost, which the same sweep runs again"
        out.print(f"{recovered.saved:,} trials saved to {self.to}, {lost}")
        return 1 if recovered.lost else 0


Verb = (
    Annotated[ListStore, tyro.conf.subcommand("list")]
    | Annotated[ExportStore, tyro.conf.subcommand("export")]
    | Annotated[MergeStores, tyro.conf.subcommand("merge")]
    | Annotated[PruneStore, tyro.conf.subcommand("prune")]
    | Annotated[CheckStore, tyro.conf.subcommand("check")]
    | Annotated[SalvageStore, tyro.conf.subcommand("salvage")]
)
VERBS = ("list", "export", "merge", "prune", "check", "salvage")


@dataclass(frozen=True, kw_only=True)
class StoreCommand:
    """List, export, merge, prune, check or salvage the store that keeps every trial.

    Example: isoscale store list
    """

    verb: Verb

    def run(self) -> int:
        return self.verb.run()


_HEADER = (
    "model", "data set", "optimizer", "rule", "steps", "batch", "widths", "depths", "lrs", "seeds",
    "done", "diverged", "stopped", "failed", "last",
)  # fmt: skip


def _cells(row: Summary) -> Sequence[object]:
    cells = []
    for value in dataclasses.asdict(row).values():
        cells.append(", ".join(map(str, value)) if isinstance(value, tuple) else value)
    return cells


def _advise(path: str, faults: list[str], out: Console) -> None:
    if faults:
        out.print(f"{len(faults)} faults. `isoscale store salvage {path} rescued.db` copies all that can be read")
    else:
        out.print(f"{path} is sound")
