"""`isoscale rules`: the rules and what each keeps constant."""

from __future__ import annotations

from dataclasses import dataclass

from isoscale.cli.terminal import console, framed
from isoscale.scaling import rules


@dataclass(frozen=True)
class Rules:
    """List the scaling rules: what each keeps constant and where it comes from."""

    def run(self) -> int:
        rows = [(rule.name, rule.keeps, rule.source) for rule in map(rules.get, rules.names())]
        rows.append(
            (
                "residual-family(ALPHA,BETA)",
                "branch multiplier r^-ALPHA, branch init r^-BETA",
                "docs/theory.md, section 4",
            )
        )
        console().print(framed(["rule", "keeps constant", "source"], rows))
        return 0
