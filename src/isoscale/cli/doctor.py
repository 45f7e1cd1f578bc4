"""`isoscale doctor`: is this installation sound?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from isoscale.cli.terminal import console, print_json


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Look at versions, devices, threads, data folder and store, and test the mathematics.

    Exits with 1 if anything is wrong.

    Example: isoscale doctor --store isoscale.db
    """

    store: str = "isoscale.db"
    """Store to look for damage in."""
    data: str | None = None
    """Folder of the data sets; $ISOSCALE_DATA by default."""
    json: bool = False
    """Print one JSON object instead of lines."""

    def run(self) -> int:
        from isoscale import doctor

        out = console(quiet=self.json)
        checks = []
        for check in doctor.examine(self.store, self.data):
            checks.append(check)
            # Printed one by one: the last of them take seconds.
            mark, style = ("ok   ", "green") if check.ok else ("WRONG", "bold red")
            out.print(mark, style=style, end="  ")
            out.print(f"{check.name}: {check.detail}", soft_wrap=True)
        ok = all(check.ok for check in checks)
        if self.json:
            rows = [dataclasses.asdict(check) for check in checks]
            print_json({"ok": ok, "checks": rows})
        verdict = "isoscale is sound" if ok else "isoscale is not sound here: see the lines marked WRONG"
        out.print(verdict, style="bold")
        return 0 if ok else 1
