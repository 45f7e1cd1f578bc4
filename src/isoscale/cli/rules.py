"""`isoscale rules`: the rules and what each keeps constant."""

from __future__ import annotations

from dataclasses import dataclass

from isoscale import rules
from isoscale.cli.terminal import console


@dataclass(frozen=True)
class Rules:
    """List the scaling rules: what each keeps constant and where it comes from."""

    def run(self) -> int:
        from rich.table import Table

        table = Table("rule", "keeps constant", "source", box=None, pad_edge=False)
        for name in rules.names():
            rule = rules.get(name)
            table.add_row(name, rule.keeps, rule.source)
        table.add_row("residual-family(ALPHA,BETA)", "branch multiplier r^-ALPHA, branch init r^-BETA", "THEORY.md 4")
        console().print(table)
        return 0
