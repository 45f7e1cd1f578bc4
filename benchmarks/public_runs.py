"""Tables of runs that others have published, judged: what isoscale reads off them, beside what their authors concluded.

The figures in docs/results/public-runs were typed in from the sources that stand on the page.

    python benchmarks/public_runs.py

writes docs/results/public-runs.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import isoscale
from isoscale import report
from isoscale.studies.transfer import Transfer

RESULTS = Path(__file__).parent.parent / "docs" / "results"
RUNS = RESULTS / "public-runs"

COURSE = "https://github.com/Suzehva/cs312_assignments/blob/67b3cb7/experiments/a2/results"
CHESS = "https://github.com/maxencefrenette/chess-engine-4/tree/33244da/experiments/2026-05-06-lr-batch-sweep"

# Of each rule and size; "transferred" is the loss at the base's rate.
COLUMNS = ("best lr", "drift", "loss: tuned", "transferred", "regret")


@dataclass(frozen=True)
class Published:
    """One table.

    Attributes:
        file: Its runs: columns rule, size, lr, loss.
        size: The column of sizes.
        title, source, what, authors: What it is, where it stands, what was trained, what its authors concluded.
        ours: What the verdict adds to that.
        rule: Only the runs of this one, where the table holds several that share no sizes.
    """

    file: str
    size: str
    title: str
    source: str
    what: str
    authors: str
    ours: str
    rule: str | None = None


TABLES = (
    Published(
        file="gpt-width.csv",
        size="width",
        title="A language model in width, AdamW",
        source=f"{COURSE}/p4_run_inventory.csv",
        what=(
            "8 layers, 153.6 M tokens of DCLM, warmup and linear decay, decay 0.1; final validation loss. "
            "`baseline` keeps one learning rate for all matrices, `mup` is muP."
        ),
        authors=(
            "The baseline's optimum falls like width^-0.90 (fitted to widths 128 to 512), and the rate that "
            "this law predicts for width 1024 is the best of the six tried there. Under muP the small model's "
            "rate is already the best of those tried; differences of muP's rates are single-seed observations."
        ),
        ours=(
            "The same picture: the optimum moves by about three octaves without muP and by less than half an "
            "octave with it. But one seed gives no interval, so neither is a yes or a no; and the baseline's "
            "best rate of width 128 was never run at width 1024."
        ),
    ),
    Published(
        file="gpt-depth.csv",
        size="depth",
        title="The same model in depth, AdamW",
        source=f"{COURSE}/p4_run_inventory.csv",
        what="Width 512, otherwise as above; branches of muP, depth-muP and CompleteP.",
        authors=(
            "Neither depth correction wins everywhere. At depth 16 depth-muP's best loss is 0.005 below muP's; "
            "repeated with three seeds at fixed rates the difference is -0.009 +- 0.004 (standard deviation), "
            "and CompleteP's is -0.001 +- 0.001."
        ),
        ours=(
            "Over a factor of four in depth all three drift by little more than half an octave, and what the "
            "rate of depth 4 costs at depth 16 is below the 2 % at which a rule is said not to transfer: on "
            "these figures none of the three is better."
        ),
    ),
    Published(
        file="five-steps-width.csv",
        size="width",
        title="Five steps in width, Adam",
        source=f"{COURSE}/p4_run_inventory.csv",
        what=("Two layers, five Adam steps at a constant rate; validation loss after them. `kaiming` keeps one rate."),
        authors=(
            "The optimum falls from 0.001 to 0.00003 under the usual init and stays at 0.001 under muP; the "
            "small model's rate costs 15 in loss at width 5120 without muP."
        ),
        ours=(
            "The same numbers. That one seed decides nothing is a rule of the verdict, not a doubt about a "
            "regret of 15."
        ),
    ),
    Published(
        file="five-steps-depth.csv",
        size="depth",
        title="Five steps in depth, 2 to 1000 layers, Adam",
        source=f"{COURSE}/p4_run_inventory.csv",
        what="Width 64, five Adam steps; the base of two layers is the same network under all three rules.",
        authors=(
            "The best rate tried is 0.02 at every depth and under every rule; the spread of fitted optima (7, 5"
            " and 8 %) is no evidence that CompleteP transfers better."
        ),
        ours=("Agreed: five steps do not separate the rules by their learning rate, only by the loss that they reach."),
    ),
    Published(
        file="chess-batch.csv",
        size="batch_size",
        rule="d64x2",
        title="A chess model in batch size, at one budget of samples",
        source=CHESS,
        what=(
            "Two layers of width 64, 2.3 M samples whatever the batch; moving average of the loss. The table "
            "holds two larger models too."
        ),
        authors=(
            "The loss is flat around batches of 128 to 384 at 0.001: 192 is taken as a baseline, not as a "
            "located optimum."
        ),
        ours=(
            "With the samples held the best rate rises with the batch, by about an octave from 128 to 384: less"
            " than proportionally, more than not at all. From batch 512 on it lies at the end of the rates "
            "tried, so that only a bound is known."
        ),
    ),
)


def judged(table: Published) -> Transfer:
    """The verdict on one table."""
    runs = pd.read_csv(RUNS / table.file)
    if table.rule:
        runs = runs[runs["rule"] == table.rule]
    return isoscale.judge(runs, size=table.size)


def section(table: Published) -> str:
    """A table's part of the page."""
    found = judged(table)
    data = found.data
    lines = [
        f"## {table.title}",
        "",
        f"Source: <{table.source}>. {table.what}",
        "",
        f"**Their conclusion.** {table.authors}",
        "",
        f"**isoscale's.** {found.answer} {table.ours}",
        "",
        f"| rule | {table.size} | {' | '.join(COLUMNS)} |",
        f"| --- | --- |{' --- |' * len(COLUMNS)}",
    ]
    for rule in report.ordered(data):
        for row in report.by_size(data, rule).to_dict("records"):
            cells = [rule, row[table.size], *(row[name] for name in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for rule, reason in found.reasons.items():
        lines.append(f"* `{rule}`: {found.verdicts[rule]}, because {reason}.")
    return "\n".join([*lines, ""])


def main() -> None:
    head = """# Public tables of runs, judged

Runs that others trained and published, read by `isoscale judge` as they stand: [the figures](public-runs), typed in
from the sources named below. No run was chosen or left out. All of them have one seed a setting, and one seed has no
interval: the verdict is "cannot tell", with the runs that would tell. What can be compared with the authors'
conclusions are the estimates. Drift is in octaves, factors of two of the learning rate; a bound where the best rate
lies at the end of those tried.

To write this page again: `python benchmarks/public_runs.py`.
"""
    page = "\n".join([head, *map(section, TABLES)])
    (RESULTS / "public-runs.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
