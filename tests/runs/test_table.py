"""Tables of finished runs: every spelling and unit that is read, everything that is refused, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isoscale import Runs
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError

ROWS = {"width": [64, 64, 128], "lr": [0.1, 0.2, 0.1], "seed": [0, 0, 1], "loss": [2.0, 1.5, 1.0]}


def table(**changes: object) -> pd.DataFrame:
    return pd.DataFrame(ROWS | changes)


@pytest.mark.parametrize(
    ("names", "column"),
    [
        ({"n_embd": "width", "learning_rate": "lr", "val_loss": "loss"}, "width"),
        ({"config.d_model": "width", "config.Learning-Rate": "lr", "summary.val/loss": "loss"}, "width"),
        ({"params_hidden_size": "width", "params_lr": "lr", "value": "loss"}, "width"),
        ({"num_hidden_layers": "width", "eta": "lr", "eval loss": "loss"}, "depth"),
    ],
)
def test_columns_are_known_by_their_usual_names_and_the_guess_is_said(names, column):
    frame = table().rename(columns={ours: theirs for theirs, ours in names.items()})
    runs = Runs.read(frame)
    assert runs.table[column].tolist() == [64, 64, 128]
    assert runs.table["lr"].tolist() == [0.1, 0.2, 0.1]
    assert runs.table["rule"].tolist() == ["-"] * 3
    for name in names:
        assert f"`{name}`" in runs.notes[0]


def test_what_the_user_calls_columns_comes_first():
    frame = table(train_loss=[9.0, 9.0, 9.0], n_experts=[2, 4, 8])
    runs = Runs.read(frame, columns={"loss": "train_loss", "experts": "n_experts"})
    assert runs.table["loss"].tolist() == [9.0] * 3
    assert runs.table["experts"].tolist() == [2, 4, 8]
    assert any("could also be `train_loss`" in note for note in Runs.read(frame).notes)


@pytest.mark.parametrize(("name", "base"), [("log2_lr", 2.0), ("log10_lr", 10.0)])
def test_exponents_of_learning_rates(name, base):
    frame = table(**{name: [-3, -4, -5]}).drop(columns="lr")
    np.testing.assert_allclose(Runs.read(frame).table["lr"], base ** np.array([-3.0, -4.0, -5.0]))


def test_outcomes():
    frame = table(loss=["nan", 1.5, 1.0], status=["finished", "crashed", "done"])
    runs = Runs.read(frame)
    assert runs.table["loss"].tolist() == [np.inf, 1.0]
    assert "1 runs that failed or did not end are left out" in runs.notes
    without = Runs.read(table(loss=[None, 1.5, np.inf]))
    assert without.table["loss"].tolist() == [np.inf, 1.5, np.inf]
    assert any("2 runs without a finite loss are taken as diverged" in note for note in without.notes)
    assert any("`status` odd is not known" in note for note in Runs.read(table(status="odd")).notes)


def test_runs_without_seeds_are_numbered():
    frame = table(width=[64, 64, 64], lr=[0.1, 0.1, 0.2]).drop(columns="seed")
    runs = Runs.read(frame)
    assert runs.table["seed"].tolist() == [0, 1, 0]
    assert any("no seed column" in note for note in runs.notes)


def test_every_kind_of_source_gives_the_same(tmp_path: Path):
    frame = table()
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_csv(tmp_path / "r.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "r.jsonl", lines=True, orient="records")
    (tmp_path / "r.json").write_text(json.dumps(frame.to_dict("records")))
    sources = [frame, frame.to_dict("records"), *(tmp_path / f"r.{kind}" for kind in ("csv", "tsv", "jsonl", "json"))]
    wanted = Runs.read(frame).table
    for source in sources:
        pd.testing.assert_frame_equal(Runs.read(source).table, wanted)
    Runs.read(frame).to_csv(tmp_path / "again.csv")
    pd.testing.assert_frame_equal(Runs.read(tmp_path / "again.csv").table, wanted)


def test_a_study_says_itself_what_it_holds():
    class Study:
        def trials_dataframe(self) -> pd.DataFrame:
            return pd.DataFrame(
                {"number": [0, 1], "value": [2.0, 1.0], "params_lr": [0.1, 0.2], "user_attrs_width": [8, 8]}
                | {"state": ["COMPLETE", "TrialState.PRUNED"]}
            )

    runs = Runs.read(Study())
    assert runs.table[["lr", "loss", "width"]].to_numpy().tolist() == [[0.1, 2.0, 8.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": [0.1, 0.0, 0.1]}, "`lr` must be positive and finite"),
        ({"lr": [-3, -4, -5]}, r"columns=\{'log2_lr': ...\}.*row 1, 2, 3"),
        ({"lr": [0.1, "fast", 0.1]}, "`lr` must be a number: it is not in row 2"),
        ({"loss": [1.0, "low", 2.0]}, "`loss` must be a number: it is not in row 2"),
        ({"width": [64, 0, 64]}, "`width` must be a size of 1 or more: it is not in row 2"),
    ],
)
def test_numbers_that_are_none_are_refused_by_row(changes, message):
    with pytest.raises(InvalidValueError, match=message.replace("columns", ".*columns", 1)):
        Runs.read(table(**changes))


def test_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(InvalidValueError, match=r"no column of `runs` looks like `lr`.*it has width, seed, loss"):
        Runs.read(table().drop(columns="lr"))
    with pytest.raises(InvalidValueError, match="no column named 'rate'"):
        Runs.read(table(), columns={"lr": "rate"})
    with pytest.raises(DataError, match="does not exist"):
        Runs.read(tmp_path / "none.csv")
    with pytest.raises(InvalidValueError, match=r"must end in \.csv"):
        Runs.read(tmp_path / "runs.xlsx")
    with pytest.raises(DataError, match="no rows"):
        Runs.read(pd.DataFrame())
    with pytest.raises(DataError, match="all of them failed"):
        Runs.read(table(status="failed"))
    with pytest.raises(InvalidTypeError, match="must be a path"):
        Runs.read(3)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as json"):
        Runs.read(tmp_path / "bad.json")
