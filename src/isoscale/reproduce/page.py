"""The page of a claim, largest preset first, and the index of all claims; written by the command itself."""

from __future__ import annotations

import gzip
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoscale import report
from isoscale.reproduce import registry
from isoscale.reproduce.claim import FAILS, HOLDS, PRESETS, UNDECIDED, Claim
from isoscale.reproduce.measured import Quantity

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

Record = dict[str, Any]

_log = logging.getLogger(__name__)

INDEX = "index.md"

# What a page needs of a record, `Reproduced.record` and its figures.
_NEEDED = {
    *("claim", "preset", "verdict", "parts", "quantities", "settings"),
    *("command", "seconds", "versions", "has_runs", "figures"),
}
# A longer list of settings is written by its ends.
_MOST = 10


def write(
    record: Record,
    measured: xr.Dataset,
    runs: pd.DataFrame | None,
    figure: Figure,
    folder: Path,
) -> Path:
    """Write one preset's files, the claim's page over all presets that lie there, and the index.

    The record says as what the figure is written.
    """
    claim = registry.get(record["claim"])
    stem = f"{claim.id}-{record['preset']}"
    files = report.images(stem, figure, record["figures"])
    files[f"{stem}.csv"] = _csv(_tidy(measured))
    if runs is not None:
        files[f"{stem}-runs.csv.gz"] = gzip.compress(_csv(runs), mtime=0)
    files[f"{stem}.json"] = json.dumps(_finite(record), indent=1).encode()
    known = {entry["preset"]: entry for entry in records(folder, claim.id)}
    known[record["preset"]] = record
    page = render(claim, [known[preset] for preset in reversed(PRESETS) if preset in known])
    files[f"{claim.id}.md"] = page.encode()
    report.write_all(folder, files, flag="--out")
    report.write_all(folder, {INDEX: index(folder).encode()}, flag="--out")
    return folder / f"{claim.id}.md"


def records(folder: Path, claim: str) -> list[Record]:
    """What a folder holds of a claim, largest preset first; what cannot be read is left out, and said."""
    found = []
    for preset in reversed(PRESETS):
        path = folder / f"{claim}-{preset}.json"
        if not path.exists():
            continue
        record = _read(path)
        if record is None:
            _log.warning("%s is damaged, or of another version: left out until that preset is run again", path)
        else:
            found.append(record)
    return found


def _read(path: Path) -> Record | None:
    """A record that was written beside a page; None if that is not what the file holds."""
    try:
        record = _infinite(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.keys() >= _NEEDED else None


def index(folder: Path) -> str:
    """The table of all claims: the verdict of the largest preset that lies in the folder, or that none was run."""
    rows = []
    for name in registry.names():
        claim = registry.get(name)
        found = records(folder, name)
        label = f"[{claim.id}]({claim.id}.md)" if found else claim.id
        preset = found[0]["preset"] if found else ""
        verdict = f"**{found[0]['verdict']}**: {_counts(found[0])}" if found else "not run yet"
        rows.append((label, claim.alias, claim.sentence, preset, verdict))
    table = _table(("claim", "alias", "what is claimed", "preset", "verdict"), rows)
    return (
        "# The claims of the papers, and what was measured\n\n"
        "`isoscale reproduce CLAIM` measures a claim by a protocol and decides it by a rule that its file states "
        "beforehand; this page and all pages that it links are written by that command. A verdict is about the sizes "
        "of its preset: `quick` checks that the command works and decides what small sizes can, `cpu` is for two "
        "cores, `paper` has the papers' sizes and needs a GPU.\n\n"
        "A verdict counts the conditions of its claim: all hold, or some (*within limits*), or none and at least one "
        "fails, or all are open, because their intervals are too wide.\n\n"
        f"{table}\n"
    )


def _counts(record: Record) -> str:
    """How many conditions hold, fail and are open."""
    words = [part["word"] for part in record["parts"]]
    said = []
    for word, verb in ((HOLDS, "hold"), (FAILS, "fail"), (UNDECIDED, "open")):
        if word in words:
            said.append(f"{words.count(word)} {verb}")
    return f"{', '.join(said)} of {len(words)}"


def render(claim: Claim, found: Sequence[Record]) -> str:
    """The page of a claim."""
    lines = [f"# {claim.id.upper()} ({claim.alias})", "", f"> {claim.sentence}", "", f"Source: {claim.source}.", ""]
    if claim.reading:
        lines += [claim.reading, ""]
    lines += [f"Decided by: {claim.rule}", ""]
    for record in found:
        lines += _section(claim, record)
    lines += [f"All claims: [index]({INDEX}).", ""]
    # <h, h> is no tag.
    return "\n".join(lines).replace("<", "&lt;")


def _section(claim: Claim, record: Record) -> list[str]:
    """One preset."""
    stem = f"{claim.id}-{record['preset']}"
    judged = {part["name"] for part in record["parts"]}
    rows = []
    for name, (value, low, high) in record["quantities"].items():
        if name not in judged:
            rows.append((name, report.with_ends(value, low, high, ".3g")))
    beside = [_table(("measured beside it, not judged", "value, 95 % interval"), rows), ""] if rows else []
    conditions = [(part["name"], part["word"], part["why"]) for part in record["parts"]]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    kinds = record["figures"]
    files = [f"[{kind.upper()}]({stem}.{kind})" for kind in kinds]
    files.append(f"[points and quantities]({stem}.csv)")
    if record["has_runs"]:
        files.append(f"[all runs]({stem}-runs.csv.gz)")
    reasons = []
    if claim.reason and any(part["holds"] is not True for part in record["parts"]):
        reasons = [f"Where it does not hold or stays open, the most likely reason: {claim.reason}", ""]
    return [
        f"## Preset {record['preset']}: {record['verdict']}",
        "",
        f"![{claim.sentence}]({stem}.{'svg' if 'svg' in kinds else kinds[0]})",
        "",
        f"{'; '.join(files)}.",
        "",
        *reasons,
        _table(("condition", "verdict", "measured, 95 % interval"), conditions),
        "",
        *beside,
        *_protocol(record["settings"]),
        "",
        f"Again: `{record['command']}`. It took {_duration(record['seconds'])} of processor time; {versions}.",
        "",
    ]


def _protocol(settings: Mapping[str, Any]) -> list[str]:
    """What all networks share in a sentence, and what each has of its own in a list."""
    shared = {name: value for name, value in settings.items() if name != "networks"}
    lines = [f"Protocol: {_pairs(shared, '; ')}."]
    networks = settings.get("networks", {})
    if networks:
        lines += ["", "Networks:", ""]
    for name, own in networks.items():
        lines.append(f"* {name}: {_pairs(own, ', ')}" if own else f"* {name}")
    return lines


def _pairs(settings: Mapping[str, Any], separator: str) -> str:
    said = []
    for name, value in settings.items():
        # All sweeps and loops count their seeds from 0.
        shown = f"0 to {value - 1}" if name == "seeds" else _said(value)
        said.append(f"{name.replace('_', ' ')} {shown}")
    return separator.join(said)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs(value, ', ')})" if value else "none"
    if isinstance(value, (list, tuple)):
        if len(value) > _MOST:
            return f"{_said(value[0])} to {_said(value[-1])} ({len(value)})"
        return ", ".join(_said(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("*", "\\*")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(columns), _row(["---"] * len(columns))]
    lines += [_row(row) for row in rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _tidy(measured: xr.Dataset) -> pd.DataFrame:
    """Points and quantities, a row each."""
    import pandas as pd

    points = measured[["panel", "line", "x", "y", "y_low", "y_high"]].to_dataframe().reset_index(drop=True)
    quantities = measured[list(Quantity._fields)].to_dataframe().reset_index()
    named = quantities.rename(columns={"quantity": "line", "value": "y", "low": "y_low", "high": "y_high"})
    return pd.concat([points, named.assign(panel="quantities")], ignore_index=True)[points.columns]


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, float_format="%.6g").encode()


def _finite(value: Any) -> Any:
    """Numbers that JSON does not have as text."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _infinite(value: Any) -> Any:
    """The numbers of `_finite` again."""
    if isinstance(value, dict):
        return {key: _infinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_infinite(item) for item in value]
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return value
