"""`isoscale reproduce`: does a claim of the papers hold? Claim, protocol, figure, measured value, verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from isoscale.cli.terminal import console, duration, error_console, framed, print_json
from isoscale.errors import DataError, InvalidValueError

if TYPE_CHECKING:
    from isoscale.reproduce import Claim, Reproduced
    from isoscale.runs import Runner


@dataclass(frozen=True, kw_only=True)
class ReproduceCommand:
    """Measure a claim of the papers by a protocol and decide it by a rule that was stated beforehand.

    Writes a page with figure, table and runs; interrupted, it goes on where it was.

    Example: isoscale reproduce collapse
    """

    claim: Annotated[str, tyro.conf.Positional] = ""
    """Identifier or alias of a claim (nfd-7 or collapse), or all."""
    list: bool = False
    """List the claims, and what each preset costs."""
    preset: Literal["quick", "cpu", "paper"] = "quick"
    """quick: two minutes at most; cpu: decides where two cores can, 45 minutes at most; paper: the papers' sizes, for a
    GPU."""
    time_limit: float | None = None
    """Minutes that a claim may be expected to take; one that takes longer is refused."""
    out: str = "isoscale-reproduce"
    """Folder for pages, figures, tables and the index."""
    style: Literal["page", "column"] = "page"
    """Figures for a page, or for a single column in print."""
    figures: tuple[Literal["svg", "pdf", "png"], ...] = ("svg", "pdf", "png")
    """What each figure is written as; svg alone keeps a folder of results small."""
    data: str | None = None
    """Folder of the data sets; $ISOSCALE_DATA by default."""
    store: str = "isoscale.db"
    """File that keeps every trial; finished parts lie beside it in FILE.parts."""
    workers: int | None = None
    """Workers at once; one for each core, or for each GPU, by default."""
    device: str = "auto"
    """auto, cpu or cuda."""
    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the result as one JSON object instead of text."""

    def run(self) -> int:
        from isoscale import reproduce
        from isoscale.report.files import check_writable

        out = console(quiet=self.quiet or self.json)
        if self.list:
            self._list(out)
            return 0
        if not self.claim:
            raise InvalidValueError("name a claim (`isoscale reproduce --list` has them), or `all`")
        check_writable(Path(self.out), flag="--out")
        if self.claim != "all":
            found = self._measure(reproduce.get(self.claim), out)
            if self.json:
                print_json(found.record())
            return 0
        found = []
        for name in reproduce.names():
            claim = reproduce.get(name)
            # One that cannot run here must not keep the others from running.
            try:
                found.append(self._measure(claim, out))
            except (InvalidValueError, DataError) as error:
                error_console().print(f"{name} left out: {error}")
        if self.json:
            print_json([each.record() for each in found])
        return 0 if len(found) == len(reproduce.names()) else 1

    def _list(self, out: Console) -> None:
        from isoscale import reproduce

        rows = []
        for name in reproduce.names():
            claim = reproduce.get(name)
            costs = [_minutes(preset.minutes) for preset in claim.presets.values()]
            rows.append((name, claim.alias, " / ".join(costs), claim.sentence))
        out.print(framed(["claim", "alias", "quick / cpu / paper", "what is claimed"], rows))

    def _measure(self, claim: Claim, out: Console) -> Reproduced:
        """Say what is claimed and what it costs, measure, say the verdict, write the page."""
        from isoscale import reproduce

        size = claim.presets[self.preset]
        out.print(f'{claim.id.upper()}  "{claim.sentence}"   {claim.source}', style="bold", soft_wrap=True)
        out.print(
            f"Preset {self.preset}: about {_minutes(size.minutes)} and {size.gibibytes:g} GiB.  "
            f"Store: {self.store} (resumes)",
            soft_wrap=True,
        )
        found = reproduce.run(
            claim.id,
            self.preset,
            time_limit=self.time_limit,
            runner=self._runner(),
            say=lambda part: out.print(f"  {part}"),
        )
        page = found.save(self.out, style=self.style, figures=self.figures)
        value, low, high = found.interval
        first = found.measured["quantity"].values[0]
        ends = f"[{low:.3g}, {high:.3g}]" if math.isfinite(low) and math.isfinite(high) else "(no interval)"
        out.print(f"{first}: {value:.3g} {ends}", soft_wrap=True)
        for part in found.ruling.parts:
            out.print(f"  {part.word}: {part.name}: {part.why}", soft_wrap=True)
        out.print(f"Verdict: {found.verdict}", style="bold")
        out.print(f"Page: {page}")
        return found

    def _runner(self) -> Runner:
        from isoscale.runs import Runner

        return Runner(
            store=self.store,
            workers=self.workers,
            device=self.device,
            data=self.data,
        )


def _minutes(minutes: float) -> str:
    return duration(60 * minutes)
