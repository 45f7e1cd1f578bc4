"""Whole stores: listed, exported, merged, pruned, checked and recovered; and a store that was written long ago."""

from __future__ import annotations

import csv
import gc
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoscale.errors import InvalidValueError, StoreError
from isoscale.runs import Filter, Store, TrialRecord, driver
from isoscale.runs.keys import NUMERICS
from isoscale.runs.store.schema import SCHEMA

STORES = Path(__file__).parent / "stores"
STORED = STORES / f"schema-{SCHEMA}-numerics-{NUMERICS}.sqlite"
HOSTILE = "<script>alert('x')</script>'; DROP TABLE trials; --"


def settings(**changes: Any) -> str:
    values = {
        "model": "residual-mlp", "dataset": "digits", "data": "d", "rule": "sp", "optimizer": {"family": "sgd"},
        "width": 8, "depth": 2, "base_width": 8, "base_depth": 2, "lr": 0.5, "seed": 0, "steps": 2, "batch_size": 4,
    }  # fmt: skip
    return json.dumps(values | changes, sort_keys=True)


@pytest.fixture
def store(tmp_path: Path, trial: Callable[..., TrialRecord]) -> Path:
    """Three trials of sp, one diverged and one failed, and one of mup."""
    path = tmp_path / "s.db"
    nothing = np.empty(0, "f4")
    with Store(path) as opened:
        opened.record([
            trial("a", config=settings()),
            trial("b", config=settings(lr=1.0, seed=2**40), status="diverged", reason="loss", test_loss=float("nan")),
            trial("c", config=settings(depth=4), status="failed", reason="died", curve=nothing),
            trial("d", config=settings(rule="mup")),
        ])  # fmt: skip
    return path


def keys(path: Path) -> set[str]:
    with Store(path) as opened:
        return {one.key for one in opened.trials()}


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- list -------------------------------------------------------------------------------------------------------


def test_summary_counts_each_group(store: Path):
    with Store(store) as opened:
        mup, sp = sorted(opened.summary(), key=lambda row: row.rule)
    assert (sp.model, sp.dataset, sp.optimizer, sp.steps, sp.batch_size) == ("residual-mlp", "digits", "sgd", 2, 4)
    assert (sp.widths, sp.depths, sp.lrs, sp.seeds) == ((8,), (2, 4), 2, 2)
    assert (sp.done, sp.diverged, sp.failed) == (1, 1, 1)
    assert (mup.rule, mup.done, mup.diverged, mup.failed) == ("mup", 1, 0, 0)


# --- export -----------------------------------------------------------------------------------------------------


def test_csv_has_a_row_a_trial(store: Path, tmp_path: Path):
    with Store(store) as opened:
        assert opened.export(tmp_path / "all.csv") == 4
    rows = {row["key"]: row for row in _csv(tmp_path / "all.csv")}
    assert set(rows) == {"a", "b", "c", "d"}
    assert (rows["a"]["loss"], rows["a"]["test_loss"], rows["a"]["width"]) == ("1.0", "1.5", "8")
    assert (rows["b"]["loss"], rows["b"]["seed"], rows["b"]["reason"]) == ("nan", str(2**40), "loss")
    assert rows["c"]["status"] == "failed"


def test_netcdf_has_the_curves(store: Path, tmp_path: Path):
    import xarray as xr

    with Store(store) as opened:
        opened.export(tmp_path / "all.nc")
    data = xr.load_dataset(tmp_path / "all.nc", engine="scipy")
    assert data["key"].astype(str).values.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_equal(data["curve"].values[2], [np.nan, np.nan])
    np.testing.assert_equal(data["curve"].values[0], [2.0, 1.0])
    assert data["seed"].values.tolist() == [0, 2**40, 0, 0]
    assert data["loss"].attrs["units"] == "nats"


def test_parquet_has_types_and_curves(store: Path, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    with Store(store) as opened:
        assert opened.export(tmp_path / "all.parquet") == 4
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.column("curve").to_pylist()[:3] == [[2.0, 1.0], [2.0, 1.0], []]
    assert table.column("seed").to_pylist() == [0, 2**40, 0, 0]


def test_without_pyarrow_the_error_says_how_to_get_it(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with Store(store) as opened, pytest.raises(InvalidValueError, match=r"pip install 'isoscale\[parquet\]'"):
        opened.export(tmp_path / "all.parquet")
    assert list(tmp_path.glob("all*")) == []


@pytest.mark.parametrize("ending", [".csv", ".nc"])
def test_an_empty_store_is_an_empty_table(tmp_path: Path, ending: str):
    with Store(tmp_path / "s.db") as opened:
        assert opened.export(tmp_path / f"all{ending}") == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("all.xlsx", "one of .csv, .nc, .parquet"), ("missing/all.csv", "No such file"), ("all", "the ending says")],
)
def test_a_table_that_cannot_be_written(store: Path, tmp_path: Path, name: str, message: str):
    with Store(store) as opened, pytest.raises(InvalidValueError, match=message):
        opened.export(tmp_path / name)


def test_names_with_html_and_sql_come_out_as_they_went_in(tmp_path: Path, trial: Callable[..., TrialRecord]):
    with Store(tmp_path / "s.db") as opened:
        hostile = trial("k", config=settings(model=HOSTILE, dataset=HOSTILE), reason=HOSTILE)
        opened.record([hostile, trial("other", config=settings())])
        assert {(row.model, row.dataset) for row in opened.summary()} == {(HOSTILE,) * 2, ("residual-mlp", "digits")}
        opened.export(tmp_path / "all.csv")
        assert opened.count(Filter(model=[HOSTILE])) == 1
        assert opened.prune(Filter(model=[HOSTILE])) == 1
        assert [one.key for one in opened.trials()] == ["other"]
    assert _csv(tmp_path / "all.csv")[0]["model"] == HOSTILE


@pytest.mark.parametrize("config", ["{}", "[]", "no JSON", settings(optimizer="sgd"), settings(width=-1)])
def test_a_trial_whose_settings_make_no_sense_is_named(
    store: Path, tmp_path: Path, trial: Callable[..., TrialRecord], config: str
):
    with Store(store) as opened:
        opened.record([trial("strange", config=config)])
        with pytest.raises(
            StoreError, match=r"s\.db`: trial strange has settings that no isoscale wrote: delete its row"
        ):
            opened.export(tmp_path / "all.csv")
        named = ["trial strange is damaged: its settings are not" in fault for fault in opened.faults()]
    assert named == ([] if config.startswith("{") else [True])
    assert list(tmp_path.glob("*all.csv*")) == []


# --- merge ------------------------------------------------------------------------------------------------------


def test_merge_takes_what_is_new_and_names_conflicts(store: Path, tmp_path: Path, trial: Callable[..., TrialRecord]):
    other, third = tmp_path / "other.db", tmp_path / "third.db"
    with Store(other) as opened:
        opened.record([trial("a", config=settings()), trial("c", config=settings(depth=4)), trial("e")])
    with Store(third) as opened:
        failed = {"status": "failed", "curve": np.empty(0, "f4")}
        opened.record([trial("d", test_loss=1.0), trial("e"), trial("b", **failed), trial("f", **failed)])
    before = other.read_bytes()
    with Store(store) as opened:
        merged = opened.merge(other, third)
        found = {one.key: one for one in opened.trials()}
    assert (merged.added, merged.same) == (3, 3)  # c, e, f; and a, e again, b
    assert merged.conflicts == (f"d in {third}: loss 1, test loss 1.5 here; loss 1, test loss 1 there",)
    assert set(found) == set("abcdef")
    assert (found["b"].status, found["c"].status, found["d"].test_loss) == ("diverged", "done", 1.5)
    assert other.read_bytes() == before


def test_a_merge_that_fails_changes_nothing(store: Path, tmp_path: Path, trial: Callable[..., TrialRecord]):
    other = tmp_path / "other.db"
    with Store(other) as opened:
        opened.record([trial("e"), trial("f")])
        opened._db.execute("UPDATE trials SET test_loss = 0 WHERE key = 'f'")
    with Store(store) as opened, pytest.raises(StoreError, match=r"other.db`: trial f is damaged"):
        opened.merge(other)
    assert keys(store) == set("abcd")
    with Store(store) as opened, pytest.raises(StoreError, match="there is no store"):
        opened.merge(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


# --- prune ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"status": ["failed"]}, "abd"),
        ({"status": ["failed", "diverged"], "rule": ["sp"]}, "ad"),
        ({"rule": ["mup"]}, "abc"),
        ({"model": ["another"]}, "abcd"),
        ({"dataset": ["digits"], "optimizer": ["sgd"]}, ""),
    ],
)
def test_prune_deletes_what_matches_every_field(store: Path, chosen: dict, left: str):
    with Store(store) as opened:
        assert opened.prune(Filter(**chosen)) == 4 - len(left)
    assert keys(store) == set(left)


def test_prune_never_deletes_everything_by_default(store: Path):
    with Store(store) as opened, pytest.raises(InvalidValueError, match="say what to prune"):
        opened.prune(Filter())
    with pytest.raises(InvalidValueError, match="`rule` must be a list of names, got 'sp'"):
        Filter(rule="sp")
    assert keys(store) == set("abcd")


# --- damage -----------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, trial: Callable[..., TrialRecord]) -> Path:
    """Many pages."""
    path = tmp_path / "large.db"
    with Store(path) as opened:
        curve = np.linspace(2, 1, 100, dtype="f4")
        opened.record([trial(f"{k:032x}", config=settings(seed=k), curve=curve + k) for k in range(400)])
        opened._db.execute("PRAGMA journal_mode = DELETE")
    return path


def damaged(large: Path, where: float, length: int) -> Path:
    """Bytes of a copy are overwritten, from a share of the file on."""
    path = large.with_name("damaged.db")
    content = bytearray(large.read_bytes())
    start = int(where * len(content))
    content[start : start + length] = bytes(255 - byte for byte in content[start : start + length])
    path.write_bytes(content)
    return path


def test_a_flipped_bit_in_a_curve_is_found_and_named(large: Path, tmp_path: Path):
    content = large.read_bytes()
    at = content.index(np.float32(2 + 7).tobytes() + np.linspace(2, 1, 100, dtype="f4")[1:3].__add__(7).tobytes())
    path = tmp_path / "flipped.db"
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    key = f"{7:032x}"
    with Store(path) as opened:
        assert opened.faults() == [f"trial {key} is damaged: its checksum does not fit"]
        for use in (opened.read, opened.finished):
            with pytest.raises(StoreError, match=f"trial {key} is damaged.*isoscale store salvage"):
                use([key])
        assert len(opened.read([f"{k:032x}" for k in range(400) if k != 7])) == 399
    salvaged = Store.salvage(path, tmp_path / "new.db")
    assert (salvaged.saved, salvaged.lost) == (399, (key,))


@pytest.mark.parametrize("place", [0, 31])
def test_an_index_that_misses_a_trial_is_named_before_anything_runs_twice(
    tmp_path: Path, trial: Callable[..., TrialRecord], place: int
):
    """A flipped bit of a key in the index: the row itself is sound, and its key would be free again."""
    path, names = tmp_path / "s.db", [f"{k:032x}" for k in range(5)]
    with Store(path) as opened:
        opened.record([trial(name) for name in names])
    content = bytearray(path.read_bytes())
    content[content.rindex(names[2].encode()) + place] ^= 4  # the index stands behind the rows
    path.write_bytes(content)
    with Store(tmp_path / "other.db") as other:
        other.record([trial(name) for name in names])
    for use in (lambda: opened.finished(names), lambda: opened.merge(tmp_path / "other.db")):
        with Store(path) as opened, pytest.raises(StoreError, match="index of its trials is damaged"):
            use()
    assert Store.salvage(path, tmp_path / "rescued.db").saved == 5


def test_an_error_that_outlives_its_store_leaves_no_other_behind(large: Path, tmp_path: Path):
    path = damaged(large, 0.2, 64)
    with Store(path) as opened, pytest.raises(StoreError) as caught:
        opened.read([f"{k:032x}" for k in range(400)])
    del caught
    gc.collect()  # an exception that nobody can catch is an error of the test


@pytest.mark.parametrize("length", [1, 64, 5000])
@pytest.mark.parametrize("where", [0.0, 0.03, 0.2, 0.45, 0.7, 0.97])
def test_salvage_saves_what_the_damage_did_not_hit(large: Path, tmp_path: Path, where: float, length: int):
    with Store(large) as opened:
        whole = {one.key: one for one in opened.trials()}
    path = damaged(large, where, length)
    before = path.read_bytes()
    if where == 0.0 and length > 1:  # the page that says where everything is
        with pytest.raises(StoreError, match="nothing can be read of"):
            Store.salvage(path, tmp_path / "new.db")
        assert not (tmp_path / "new.db").exists()
        return
    salvaged = Store.salvage(path, tmp_path / "new.db")
    assert path.read_bytes() == before
    with Store(tmp_path / "new.db") as opened:
        assert opened.faults() == []
        found = {one.key: one for one in opened.trials()}
    assert salvaged.saved == len(found)
    # A page holds about five rows; 5000 bytes hit three pages at most.
    assert len(found) >= 400 - 20
    assert all(whole[key].same_result(one) and whole[key].config == one.config for key, one in found.items())
    assert len(salvaged.lost) >= 400 - len(found)


def test_salvage_of_a_store_cut_short(large: Path, tmp_path: Path):
    path = tmp_path / "short.db"
    path.write_bytes(large.read_bytes()[: large.stat().st_size // 2])
    with pytest.raises(StoreError, match=r"malformed.*isoscale store salvage"):
        Store(path).read([f"{k:032x}" for k in range(400)])
    salvaged = Store.salvage(path, tmp_path / "new.db")
    assert salvaged.saved >= 150
    with Store(tmp_path / "new.db") as opened:
        assert opened.faults() == []


def test_salvage_overwrites_nothing(store: Path, tmp_path: Path):
    with pytest.raises(StoreError, match="is there already"):
        Store.salvage(store, store)
    with pytest.raises(StoreError, match="there is no store"):
        Store.salvage(tmp_path / "missing.db", tmp_path / "new.db")
    (tmp_path / "notes.txt").write_text("not a database\n" * 500)
    with pytest.raises(StoreError, match="nothing can be read"):
        Store.salvage(tmp_path / "notes.txt", tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_salvage_reads_what_stands_in_the_log_only(tmp_path: Path, trial: Callable[..., TrialRecord]):
    """As after a power cut: the store was never closed."""
    with Store(tmp_path / "s.db") as opened:
        opened.record([trial("a"), trial("b")])
        for end in ("", "-wal"):
            shutil.copyfile(tmp_path / f"s.db{end}", tmp_path / f"cut.db{end}")
    assert Store.salvage(tmp_path / "cut.db", tmp_path / "new.db").saved == 2


# --- schemas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", sorted(STORES.glob("*.sqlite")), ids=lambda path: path.stem)
def test_a_store_that_was_written_long_ago_opens(tmp_path: Path, stored: Path):
    """By `stores/make.py`, when the schema or the numerics were new."""
    copy = tmp_path / "s.db"
    shutil.copyfile(stored, copy)
    with Store(copy) as opened:
        trials = list(opened.trials())
        assert [one.status for one in trials] == ["done", "diverged", "failed", "failed"]
        done, diverged, failed, _ = trials
        assert (len(done.curve), np.isfinite(done.curve).all(), len(failed.curve)) == (20, True, 0)
        assert np.isfinite(diverged.curve).sum() == 2
        assert done.settings()["lr"] == 0.125
        assert failed.reason == "worker process died (exit code -9), 3 times"
        assert opened.faults() == []
        assert opened.finished([one.key for one in trials]) == {done.key, diverged.key}


def test_a_store_of_another_schema_is_not_recovered_in_silence(tmp_path: Path):
    """One without checksums: nobody can say whether its rows are sound."""
    path = tmp_path / "s.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE trials (key TEXT PRIMARY KEY, config TEXT)")
    db.close()
    with pytest.raises(StoreError, match=r"s\.db`: there is no table of trials as this isoscale writes it"):
        Store.salvage(path, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END",
        "CREATE VIEW v AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT * FROM n",
    ],
)
def test_a_store_that_brings_its_own_sql_is_refused(store: Path, statement: str):
    db = sqlite3.connect(store)
    db.execute(statement)
    db.close()
    with pytest.raises(StoreError, match="is a database of something else"):
        Store(store)


def test_a_store_that_was_written_long_ago_is_resumed(tmp_path: Path, inline: Any):
    """Its trials are found by the keys of today."""
    from stores.make import SPEC

    shutil.copyfile(STORED, tmp_path / "s.db")
    found = driver.sweep(SPEC, store=tmp_path / "s.db")
    assert [shard.config.depth for shard in inline.ran] == [2]  # depth 2 had failed
    assert found.count("failed") == 0


def test_a_store_of_the_schema_before_is_upgraded_and_salvaged(tmp_path: Path, inline: Any):
    """Its finished trials stay, and what its checksums guard is what they guarded."""
    from stores.make import SPEC

    stored = STORES / f"schema-2-numerics-{NUMERICS}.sqlite"
    before = stored.read_bytes()
    shutil.copyfile(stored, tmp_path / "s.db")
    found = driver.sweep(SPEC, store=tmp_path / "s.db")
    assert [shard.config.depth for shard in inline.ran] == [2]
    assert found.count("failed") == 0
    with Store(tmp_path / "s.db") as store:
        assert store.faults() == []
    assert Store.salvage(stored, tmp_path / "new.db").saved == 4
    assert stored.read_bytes() == before


def test_trials_of_other_numerics_are_kept_and_trained_again(tmp_path: Path, inline: Any):
    from stores.make import SPEC

    shutil.copyfile(STORES / "schema-2-numerics-1.sqlite", tmp_path / "s.db")
    found = driver.sweep(SPEC, store=tmp_path / "s.db")
    assert sorted(shard.config.depth for shard in inline.ran) == [1, 2]
    assert found.count("failed") == 0
    with Store(tmp_path / "s.db") as store:
        assert len(list(store.trials())) == 8
