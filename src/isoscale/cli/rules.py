"""`isoscale rules`: the rules for sizes and for budgets, and what each keeps constant."""

from __future__ import annotations

from dataclasses import dataclass

from isoscale.cli.terminal import console, framed
from isoscale.scaling import budget, rules


@dataclass(frozen=True)
class Rules:
    """List the rules for width and depth, and those for batch and duration: what each keeps, where it comes from.

    Example: isoscale rules
    """

    def run(self) -> int:
        rows = [(rule.name, rule.keeps, rule.source) for rule in map(rules.get, rules.names())]
        rows.append(
            (
                "residual-family(ALPHA,BETA)",
                "branch multiplier r^-ALPHA, branch init r^-BETA",
                "docs/theory.md, section 4",
            )
        )
        budgets = [
            (rule.name, ", ".join(rule.optimizers), rule.keeps, rule.source)
            for rule in map(budget.budget, budget.budget_names())
        ]
        out = console()
        out.print(framed(["rule", "keeps constant", "source"], rows))
        out.print()
        out.print(framed(["budget", "optimizers", "keeps constant", "source"], budgets))
        return 0
