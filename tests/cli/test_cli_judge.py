"""`isoscale judge` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Runs whose optimum stays where it is; in `runs.csv` of the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for width in (64, 256):
        for seed in range(3):
            best = -6 + 0.1 * rng.standard_normal()
            for place in np.arange(-9.0, -3.0):
                loss = np.exp(0.1 * (place - best) ** 2) - width / 1e4
                rows.append({"n_embd": width, "learning_rate": 2**place, "seed": seed, "val_loss": loss})
    frame = pd.DataFrame(rows)
    frame.to_csv("runs.csv", index=False)
    return frame


def test_the_answer_the_guesses_and_a_report(isoscale, table):
    code, out, _ = isoscale("judge", "runs.csv")
    assert code == 0
    assert "Does the learning rate of width 64 serve width 256?" in out
    assert "`loss` is read from `val_loss`" in out
    assert "Yes." in out
    files = {path.name for path in Path("isoscale-report").iterdir()}
    assert {"index.html", "loss.svg", "transfer.nc"} <= files


def test_columns_by_flag_and_json(isoscale, table):
    table.rename(columns={"n_embd": "w", "learning_rate": "a", "val_loss": "b"}).to_csv("odd.csv", index=False)
    flags = ("--size", "width", "--size-column", "w", "--lr-column", "a", "--loss-column", "b", "--json")
    code, out, _ = isoscale("judge", "odd.csv", *flags)
    found = json.loads(out)
    assert (code, found["answer"]) == (0, "Yes.")
    assert set(found["rules"]["-"]["optimal_lr"]) == {"64", "256"}
    assert found["limits"]["regret"] == 0.02


def test_a_threshold_can_be_set(isoscale, table):
    _, out, _ = isoscale("judge", "runs.csv", "--json", "--regret-limit", 1e-9, "--level", 0.5)
    assert json.loads(out)["limits"] == {"regret": 1e-9, "worse": 0.02, "lost_seeds": 0.0, "level": 0.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.csv",), "does not exist"),
        (("runs.csv", "--base", 100), "not among the sizes of the runs: 64, 256"),
        (("runs.csv", "--size", "depth"), "no size named 'depth'"),
        (("runs.csv", "--lr-column", "rate"), "no column named 'rate'"),
        (("runs.csv", "--level", 2), "level"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(isoscale, table, arguments, words):
    code, _, errors = isoscale("judge", *arguments)
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors
