"""The law of a learning rate along a size in tables: measured, published, predicted; as text and in Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd

from isoscale.report.law_words import markdown
from isoscale.report.numbers import NOTHING, ends, with_ends, written

_BOUND = {"low": "<= ", "high": ">= ", "": ""}

_NOTES = {
    "Law": "lr ~ size^exponent through the optima inside the measured rates; interval of 95 % from their scatter.",
    "Published": "The exponents of published rules along this axis, and whether the measured interval holds them.",
    "Zero-shot": "The largest size's learning rate from the smaller ones, trained. Octaves: predicted above measured, "
    "with the measured optimum's interval. Regret: loss above the best trained rate's, seed by seed. `fitted`: the law "
    "through the smaller sizes; `unchanged`: the smallest size's rate; a published exponent has the constant that fits "
    "them.",
    "Optima": "lr*: least loss, the mean of the last tenth of the steps; interval over seeds.",
}


def size_law_tables(law: Any) -> dict[str, pd.DataFrame]:
    """The tables of `isoscale.size_law`'s result, by title, every cell as text.

    Args:
        law: A `SizeLaw`, or anything with its `data`, `axis`, `published` and `zero_shot`.
    """
    tables = {
        "Law": _laws(law),
        "Published": _published(law.published),
        "Zero-shot": _zero_shot(law.zero_shot),
        "Optima": _optima(law),
    }
    return {title: table for title, table in tables.items() if len(table)}


def size_law_page(law: Any, *, heading: str, command: str, figure: str) -> str:
    """The tables as a page in Markdown, with the command that gives it.

    Args:
        law: As for `size_law_tables`.
        heading: Of the page.
        command: That gives these numbers again.
        figure: Path of the figure, beside the page.
    """
    parts = [f"# {heading}", f"    {command}", *law.notes, f"![Best learning rate against {law.axis}]({figure})"]
    for title, table in size_law_tables(law).items():
        parts += [f"## {title}", _NOTES[title], markdown(table)]
    return "\n\n".join(parts) + "\n"


def _laws(law: Any) -> pd.DataFrame:
    rows = []
    for rule in law.data["rule"].values.tolist():
        of = law.data.sel(rule=rule)
        exponent, curvature = (
            with_ends(float(of[name]), float(of[f"{name}_low"]), float(of[f"{name}_high"]), form)
            for name, form in (("exponent", "+.2f"), ("curvature", "+.2f"))
        )
        rows.append(
            {
                "rule": rule,
                "exponent": exponent,
                "its change with each doubling": curvature,
                "R²": written(float(of["r2"]), ".3f"),
                "optima": f"{float(of['points']):.0f} of {law.data.sizes[law.axis]}",
            }
        )
    return pd.DataFrame(rows)


def _published(table: pd.DataFrame) -> pd.DataFrame:
    cells = table.assign(exponent=table["exponent"].map("{:+.2f}".format))
    return cells[["rule", "published", "exponent", "verdict", "source"]]


def _zero_shot(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in table.to_dict("records"):
        regret = with_ends(row["regret"], row["regret_low"], row["regret_high"], "+.4f")
        if row["diverged"]:
            regret = f"{row['diverged']} diverged"
        # Regret is measured against the tuned learning rate, which so has none.
        rows.append(
            {
                "rule": row["rule"],
                "method": row["method"],
                "lr": f"{row['lr']:.3g}",
                "octaves": with_ends(row["octaves"], row["octaves_low"], row["octaves_high"], "+.2f"),
                "loss": written(row["loss"], ".4f"),
                "regret": NOTHING if row["method"] == "tuned" else regret,
            }
        )
    return pd.DataFrame(rows)


def _optima(law: Any) -> pd.DataFrame:
    rows = []
    for rule in law.data["rule"].values.tolist():
        for size in law.data[law.axis].values.tolist():
            at = law.data.sel({"rule": rule, law.axis: size})
            edge = str(at["at_edge"].item())
            lr = float(at["lr"])
            row = {"rule": rule, law.axis: f"{size}"}
            # The size itself stands there already.
            row |= {name: f"{int(at[name])}" for name in ("batch_size", "steps", "tokens") if name != law.axis}
            row["lr*"] = "none stable" if edge == "none" else f"{_BOUND[edge]}{lr:.3g}"
            row["interval"] = ends(float(at["lr_low"]), float(at["lr_high"]), ".3g")
            row["loss"] = written(float(at["loss"]), ".4f")
            rows.append(row)
    return pd.DataFrame(rows)
