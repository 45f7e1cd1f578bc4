"""The store's contract, for every trial a user ever computed:

what `record` wrote is read back as it was; a shard is there whole or not at all; a finished trial is never
written again; a file that is no store, or cannot be written, is one clear error and stays as it was.
"""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from isoscale.errors import StoreError
from isoscale.runs import Store, TrialRecord
from isoscale.runs.record import checksum
from isoscale.runs.store import database
from isoscale.runs.store.schema import SCHEMA

# --- trials -----------------------------------------------------------------------------------------------------


def test_a_generator_of_trials_that_raises_leaves_nothing(tmp_path: Path, trial: Callable[..., TrialRecord]):
    broken = dataclasses.replace(trial("b"), curve=["no", "numbers"])
    with Store(tmp_path / "s.db") as store:
        with pytest.raises(ValueError, match="could not convert"):
            store.record([trial("a"), broken])
        assert store.finished(["a", "b"]) == set()


@pytest.mark.parametrize("signs", [(-0.0, 0.0), (0.0, -0.0), (-0.0, -0.0)])
def test_a_checksum_over_a_zero_below_zero_fits(
    tmp_path: Path, trial: Callable[..., TrialRecord], signs: tuple[float, float]
):
    """Versions before wrote it so, and SQLite gives back a zero without a sign."""
    written = trial("a", test_loss=0.0, test_accuracy=0.0)
    with Store(tmp_path / "s.db") as store:
        store.record([written])
        *values, _ = written.row(next(store.trials()).created)
        values[6:8] = signs
        store._db.execute("UPDATE trials SET checksum = ?", (checksum(values),))
        assert store.faults() == []
        assert next(store.trials()).same_result(written)
        values[6] = 1.0
        store._db.execute("UPDATE trials SET checksum = ?", (checksum(values),))
        assert len(store.faults()) == 1


def test_many_keys(tmp_path: Path, trial: Callable[..., TrialRecord]):
    """More than SQLite's 32,766 bound variables."""
    keys = [f"{k:032x}" for k in range(50_000)]
    with Store(tmp_path / "s.db") as store:
        store.record([trial(key) for key in keys])
        assert store.finished([*keys, "other"]) == set(keys)
        assert len(store.read(keys)) == len(keys)


def test_any_number_of_writers(tmp_path: Path, trial: Callable[..., TrialRecord]):
    """A script a process, and threads in this one, on a file that nobody made yet."""
    path = tmp_path / "s.db"
    script = """
import sys
import tempfile
import numpy as np
from isoscale.runs import Store, TrialRecord
with Store(sys.argv[1]) as store:
    for k in range(20):
        store.record([TrialRecord(key=f"{name}{k}", shard="s", config="{}", status="done", reason="", versions="{}",
                            curve=np.zeros(3, "f4"), test_loss=0.0, test_accuracy=0.0)
                      for name in ("shared", sys.argv[2])])
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), f"process{n}-"]) for n in range(2)]
    errors: list[Exception] = []

    def write(name: str) -> None:
        try:
            with Store(path) as store:
                for k in range(20):
                    store.record([trial(f"shared{k}"), trial(f"{name}{k}")])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(f"thread{n}-",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert errors == []
    names = ["shared", *(f"process{n}-" for n in range(2)), *(f"thread{n}-" for n in range(4))]
    keys = {f"{name}{k}" for name in names for k in range(20)}
    with Store(path) as store:
        assert store.finished(keys) == keys
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM trials").fetchone() == (len(keys),)
    db.close()


def test_many_that_open_a_new_file_at_the_same_moment(tmp_path: Path):
    """The switch to the write-ahead log is refused while others are there, and SQLite does not wait for it."""
    together = threading.Barrier(16)
    errors: list[Exception] = []

    def open_(path: Path) -> None:
        together.wait()
        try:
            Store(path).close()
        except Exception as error:
            errors.append(error)

    for attempt in range(5):
        threads = [threading.Thread(target=open_, args=(tmp_path / f"{attempt}.db",)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_who_reads_never_waits_for_who_writes(
    tmp_path: Path, trial: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch
):
    with Store(tmp_path / "s.db") as store:
        store.record([trial("a")])
        monkeypatch.setattr(database, "LOCK_SECONDS", 0.0)
        with store._database.transaction(), Store(tmp_path / "s.db") as reader:
            assert reader.finished(["a"]) == {"a"}
            assert [row.done for row in reader.summary()] == [1]
            with pytest.raises(StoreError, match="locked"):
                reader.acquire("shard")


# --- files that are no store ------------------------------------------------------------------------------------
def _sqlite(path: Path, *statements: str) -> Path:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()
    return path


def _refused(path: Path, message: str) -> None:
    before = path.read_bytes() if os.path.isfile(path) else None
    with pytest.raises(StoreError, match=message) as caught:
        Store(path)
    assert f"`{path}`" in str(caught.value)
    assert "--store" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_a_store_from_a_newer_isoscale(tmp_path: Path, trial: Callable[..., TrialRecord]):
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.record([trial("a")])
    _sqlite(path, f"PRAGMA user_version = {SCHEMA + 1}")
    _refused(path, f"newer isoscale .store schema {SCHEMA + 1}, this one reads {SCHEMA}.: upgrade")


def test_a_store_from_an_older_isoscale(tmp_path: Path, trial: Callable[..., TrialRecord]):
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.record([trial("a")])
    _sqlite(path, "PRAGMA user_version = 1")  # schema 2 is upgraded
    _refused(path, f"older isoscale .store schema 1, this one reads {SCHEMA}.: choose another")


@pytest.mark.parametrize("version", [0, SCHEMA, 99])
def test_a_database_of_something_else(tmp_path: Path, version: int):
    """Whatever number that something keeps its own schema under."""
    path = _sqlite(tmp_path / "s.db", "CREATE TABLE photos (name TEXT)", f"PRAGMA user_version = {version}")
    _refused(path, "is a database of something else")


def test_a_text_file(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    _refused(path, "file is not a database")


def test_an_empty_file_becomes_a_store(tmp_path: Path, trial: Callable[..., TrialRecord]):
    (tmp_path / "s.db").touch()
    with Store(tmp_path / "s.db") as store:
        store.record([trial("a")])
        assert store.finished(["a"]) == {"a"}


def test_a_store_cut_short_is_an_error_not_a_guess(tmp_path: Path, trial: Callable[..., TrialRecord]):
    path, keys = tmp_path / "s.db", [str(k) for k in range(500)]
    with Store(path) as store:
        store.record([trial(key) for key in keys])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def use() -> None:
        with Store(path) as store:
            store.read(keys)

    with pytest.raises(StoreError, match="malformed"):
        use()


@pytest.mark.parametrize("place", ["", "missing/s.db", "file/s.db", "x" * 300])
def test_a_place_where_no_file_can_be(tmp_path: Path, place: str):
    (tmp_path / "file").touch()
    _refused(tmp_path / place, "unable to open database file")


def test_a_read_only_store_can_be_read(
    tmp_path: Path, trial: Callable[..., TrialRecord], monkeypatch: pytest.MonkeyPatch
):
    """Root writes where it likes, so it is SQLite that is told not to."""
    with Store(tmp_path / "s.db") as store:
        store.record([trial("a")])
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(f"file:{path}?mode=ro", **options | {"uri": True})
    )
    with Store(tmp_path / "s.db") as store:
        assert store.finished(["a"]) == {"a"}
        for write in (lambda: store.record([trial("b")]), lambda: store.acquire("shard")):
            with pytest.raises(StoreError, match="readonly database"):
                write()


@pytest.mark.parametrize("schema", [SCHEMA - 1, SCHEMA])
def test_what_only_reads_changes_nothing(tmp_path: Path, schema: int):
    """Neither the schema nor the log's mode, and no file is left beside the store."""
    path = tmp_path / "s.db"
    (stored,) = (Path(__file__).parent / "stores").glob(f"schema-{schema}-numerics-2.sqlite")
    path.write_bytes(stored.read_bytes())
    with Store(path, read_only=True) as store:
        found = list(store.trials())
        assert len(found) == len(store.finished(one.key for one in found)) + 2 == store.count() == 4
        assert len(store.summary()) == 1
        assert store.faults() == []
        with pytest.raises(StoreError, match="readonly database"):
            store.record(found)
    with Store(tmp_path / "new.db") as new:
        assert new.merge(path).added == 4
    assert path.read_bytes() == stored.read_bytes()
    assert {one.name for one in tmp_path.iterdir()} == {"s.db", "new.db"}


def test_an_empty_file_has_no_trials(tmp_path: Path):
    (tmp_path / "s.db").touch()
    with Store(tmp_path / "s.db", read_only=True) as store:
        assert store.finished(["a"]) == set()
        assert store.summary() == []
    assert (tmp_path / "s.db").stat().st_size == 0


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A folder that anybody reads and only root writes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        os.chmod(name, 0o755)


def test_a_store_where_nothing_can_be_written(unwritable: Path, trial: Callable[..., TrialRecord]):
    with Store(unwritable / "s.db") as store:
        store.record([trial("a")])
        # What stands in the log of a copy has nobody to share it.
        for ending in ("", "-wal"):
            log = (unwritable / f"s.db{ending}").read_bytes()
            (unwritable / f"copy.db{ending}").write_bytes(log)
    os.chmod(unwritable, 0o555)
    script = """
import contextlib, os, sys
from isoscale.errors import StoreError
from isoscale.runs import Store
os.chdir(sys.argv[1])
with contextlib.suppress(PermissionError):
    os.setuid(65534)  # permissions are nothing to root
with Store("s.db", read_only=True) as store:
    print(store.finished(["a"]), store.count(), store.faults())
try:
    Store("copy.db", read_only=True)
except StoreError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(unwritable)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == "{'a'} 1 []"
    assert "its newest trials stand in `copy.db-wal`" in second


def test_a_full_disk_loses_nothing(tmp_path: Path, trial: Callable[..., TrialRecord]):
    """The disk is this process's largest file; in a process of its own, since the limit cannot be raised again."""
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.record([trial("a")])
    script = """
import resource, signal, sys
import numpy as np
from isoscale.errors import StoreError
from isoscale.runs import Store, TrialRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with Store(sys.argv[1]) as store:
    large = [TrialRecord(key=str(k), shard="s", config="{}", status="done", reason="", versions="{}",
                   curve=np.zeros(1000, "f4"), test_loss=0.0, test_accuracy=0.0) for k in range(100)]
    try:
        store.record(large)
    except StoreError as error:
        print(error)
    print(store.finished(["a", "0"]))
    store.record([TrialRecord(**(vars(large[0]) | {"curve": np.zeros(2, "f4")}))])
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith(f"cannot use the store `{path}`: ")
    assert "Nothing that it holds was changed; free the disk" in first
    assert second == "{'a'}"
    with Store(path) as store:
        assert store.finished(["a", "0", "1"]) == {"a", "0"}


def test_a_store_that_cannot_grow(tmp_path: Path, trial: Callable[..., TrialRecord]):
    with Store(tmp_path / "s.db") as store:
        store.record([trial("a")])
        store._db.execute("PRAGMA max_page_count = 10")
        with pytest.raises(StoreError, match="database or disk is full"):
            store.record([trial(f"b{k}", curve=np.zeros(10_000, "f4")) for k in range(10)])
        assert store.finished(["a", "b0"]) == {"a"}
