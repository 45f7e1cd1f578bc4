"""Hostile sweeps and stores: an error of ours or a success, never a crash, a hang or a wrong number.

Five hundred sweeps and five hundred stores here, ten thousand of each kind with HYPOTHESIS_PROFILE=nightly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import cases
from isoscale.errors import InvalidValueError, IsoscaleError, StoreError
from isoscale.runs import Store, Sweep, TrialRecord, driver
from isoscale.runs.record import COLUMNS, checksum

# --- sweeps -----------------------------------------------------------------------------------------------------

_NAMES = [field.name for field in dataclasses.fields(Sweep)]
_WORDS = st.sampled_from([
    "sp", "mup", "completep", "residual-family(0.5,0.5)", "residual-family(1e999,nan)", "residual-family(,)", "sgd",
    "adamw", "digits", "mnist", "cifar10", "residual-mlp", "relu", "layer", "", "\0", "../../etc/passwd",
    "<script>alert(1)</script>", "'; DROP TABLE trials; --", "\N{PILE OF POO}",
])  # fmt: skip
_SCALARS = st.one_of(
    st.booleans(), st.integers(-2, 300), st.integers(), st.floats(), st.dates(), _WORDS, st.text(max_size=20),
    st.sampled_from([10**18, 10**400, -(10**400), 1e308, 5e-324, 2**31, 2**63]),
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_OPTIONS = st.dictionaries(
    st.sampled_from(["block_depth", "phi", "norm", "batches", "width", "x"]), _VALUES, max_size=3
)
_MAPPINGS = st.fixed_dictionaries(
    {}, optional={name: _VALUES | (_OPTIONS if name.endswith("_args") else _WORDS) for name in _NAMES}
) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=8), _VALUES, max_size=4)


def _spec(values: dict[str, Any]) -> None:
    """An error of ours, or a sweep that can be written down, read back and cut into shards, or refused there."""
    try:
        spec = Sweep.from_mapping(values)
    except IsoscaleError:
        return
    assert Sweep.from_mapping(spec.to_mapping()).to_toml() == spec.to_toml()
    if spec.trials < 1000:
        with contextlib.suppress(IsoscaleError):
            assert len({key for shard in driver.prepare(spec) for key in shard.keys}) == spec.trials


@cases(170)
@given(values=_MAPPINGS)
def test_any_mapping(values: dict[str, Any]):
    _spec(values)


def _read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(IsoscaleError):
        _spec(Sweep.from_toml(path).to_mapping())
    assert path.read_bytes() == content


VALID = Sweep(rule=["sp", "mup"], widths=[8], model_args={"phi": "relu"}, momentum=0.9).to_toml().encode()


@cases(170)
@given(
    at=st.integers(0, len(VALID)),
    cut=st.integers(0, 20),
    put=st.binary(max_size=8) | st.text(max_size=8).map(str.encode),
)
def test_toml_with_a_hole(tmp_path: Path, at: int, cut: int, put: bytes):
    _read(tmp_path / "s.toml", VALID[:at] + put + VALID[at + cut :])


@cases(170)
@given(values=_MAPPINGS)
def test_toml_of_any_values(tmp_path: Path, values: dict[str, Any]):
    with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate cannot be written
        _read(tmp_path / "s.toml", tomli_w.dumps(values).encode())


@pytest.mark.parametrize(
    "text",
    [
        "seeds = 1000000000000",
        "lrs = [1" + "0" * 400 + "]",
        "steps = 1" + "0" * 5000,
        "steps = 0x1" + "0" * 5000,
        "depths = " + "[" * 5000 + "]" * 5000,
        "a" + ".a" * 5000 + " = 1",
        "\n".join(f"{name} = {list(range(1, 1001))}" for name in ("widths", "depths", "lrs", "seeds")),
        "rule = '" + "a" * 10**6 + "'",
    ],
    ids=lambda text: text[:16],
)
def test_a_file_that_asks_too_much(tmp_path: Path, text: str):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(IsoscaleError) as caught:
        Sweep.from_toml(tmp_path / "s.toml")
    assert len(str(caught.value)) < 2000


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a thousand stores wait for the disk several times each."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


# --- stores -----------------------------------------------------------------------------------------------------

TRIALS = [
    TrialRecord(
        key=f"{k:032x}", shard="s", config=json.dumps({"rule": "sp", "lr": k / 8}), status="done", reason="",
        curve=np.linspace(2, 1, 50, dtype="f4") + k, test_loss=1.0 + k, test_accuracy=0.5, versions="{}", created="now",
    )
    for k in range(60)
]  # fmt: skip
WHOLE = {trial.key: trial for trial in TRIALS}


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file rather than its bytes: hypothesis writes out what a test is given."""
    path = tmp_path_factory.mktemp("fuzz") / "s.db"
    with Store(path) as store:
        store.record(TRIALS)
        store._db.execute("PRAGMA journal_mode = DELETE")
    return path


def _everything(path: Path) -> list[TrialRecord]:
    """All that can be asked of a store; what it read."""
    read: list[TrialRecord] = []
    with contextlib.suppress(IsoscaleError), Store(path) as store:
        asks = [
            lambda: read.extend(store.read(WHOLE)),
            lambda: read.extend(store.trials()),
            lambda: store.finished(WHOLE),
            store.summary,
            store.faults,
            lambda: store.acquire("s"),
            store.heartbeat,
            store.release_all,
            lambda: store.record(TRIALS[:3]),
        ]
        for ask in asks:
            with contextlib.suppress(IsoscaleError):
                ask()
        for ending in (".csv", ".nc"):
            with contextlib.suppress(IsoscaleError):
                store.export(path.with_suffix(ending))
    assert not list(path.parent.glob("*.part"))
    return read


def _fresh(folder: Path) -> Path:
    for path in folder.iterdir():
        path.unlink()
    return folder / "s.db"


_DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "zero", "cut", "noise"]), st.integers(1, 600)),
    min_size=1, max_size=3,
)  # fmt: skip


def _damaged(content: bytes, damages: list[tuple[float, str, int]]) -> bytes:
    for where, kind, length in damages:
        at = int(where * (len(content) - 1)) if content else 0
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1 :]
        else:
            fill = bytes(length) if kind == "zero" else bytes((k * 37 + length) % 256 for k in range(length))
            content = content[:at] + fill + content[at + length :]
    return content


@example(damages=[(0.09375, "noise", 5)])  # an error whose message quotes damaged text
@cases(250)
@given(damages=_DAMAGES)
def test_a_damaged_store_gives_errors_or_what_was_written(
    folder: Path, whole_store: Path, damages: list[tuple[float, str, int]]
):
    path = _fresh(folder)
    path.write_bytes(_damaged(whole_store.read_bytes(), damages))
    with contextlib.suppress(StoreError):
        Store.salvage(path, folder / "new.db")
        with Store(folder / "new.db") as store:
            assert store.faults() == []
            _as_written(list(store.trials()))
    _as_written(_everything(path))


def _as_written(trials: list[TrialRecord]) -> None:
    for trial in trials:
        assert trial.same_result(WHOLE[trial.key])
        assert trial.config == WHOLE[trial.key].config


_CELLS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=9), st.text(max_size=9))
_CONFIGS = st.one_of(
    _VALUES.map(lambda value: json.dumps(value, default=str)),
    st.dictionaries(
        st.sampled_from("rule model dataset width depth lr seed steps batch_size optimizer".split()),  # noqa: SIM905
        _VALUES,
    ).map(lambda values: json.dumps({"base_width": 1, "base_depth": 1, "data": "d"} | values, default=str)),
    st.sampled_from(["[" * 50_000, '{"a": NaN}', '{"rule": "\\ud800"}', "", "null"]),
)  # fmt: skip


@cases(250)
@given(config=_CONFIGS, cells=st.tuples(*[_CELLS] * (len(COLUMNS) - 3)), sound=st.booleans())
def test_a_store_with_rows_that_no_isoscale_wrote(
    folder: Path, whole_store: Path, config: str, cells: tuple, sound: bool
):
    """Of any type where the table lets them in, checksums right or not."""
    path = _fresh(folder)
    path.write_bytes(whole_store.read_bytes())
    shard, reason, *numbers = cells
    row = ("mine", shard, config, "done", reason, *numbers)
    db = sqlite3.connect(path, isolation_level=None)
    with contextlib.suppress(sqlite3.Error, struct.error, TypeError, AttributeError, UnicodeEncodeError, OverflowError):
        db.execute(f"INSERT INTO trials VALUES ({', '.join('?' * 11)})", (*row, checksum(row) if sound else 1))
    db.close()
    read = [trial for trial in _everything(path) if trial.key != "mine"]
    _as_written(read)
    assert len(read) >= len(WHOLE)


def test_a_name_that_is_sql_is_only_a_name(tmp_path: Path):
    with pytest.raises(InvalidValueError):
        Sweep(model="'; DROP TABLE trials; --")
    with Store(tmp_path / "s.db") as store:
        hostile = "x'); DROP TABLE trials; --"
        store.record([dataclasses.replace(TRIALS[0], key=hostile)])
        assert store.finished([hostile]) == {hostile}
        assert store.acquire(hostile)
        assert store.count() == 1
