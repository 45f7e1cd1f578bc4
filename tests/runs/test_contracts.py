"""The contracts of engines and stores, kept by each; Ray's is in test_sweep_ray.py, where the cluster is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contracts import EngineContract, StoreContract

from isoscale.runs import Store, TrialRecord
from isoscale.runs.engines.engine import Engine
from isoscale.runs.engines.local import LocalEngine
from isoscale.testing import inline

OLDEST = Path(__file__).parent / "stores" / "schema-2-numerics-1.sqlite"


class TestInlineEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        with inline() as engine, engine(3, 1, "cpu", 0) as opened:
            yield opened


class TestLocalEngine(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        with LocalEngine(3, workers=1) as opened:
            yield opened


class TestNewStore(StoreContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "s.db"


class TestStoreOfTheFirstRelease(StoreContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return Path(shutil.copyfile(OLDEST, tmp_path / "s.db"))


class TestMergedStore(StoreContract):
    @pytest.fixture
    def path(self, tmp_path: Path, trial: Callable[..., TrialRecord]) -> Path:
        with Store(tmp_path / "from.db") as source:
            source.record([trial("x"), trial("y", status="failed", reason="no memory")])
        with Store(tmp_path / "s.db") as store:
            store.record([trial("z")])
            store.merge(tmp_path / "from.db")
        return tmp_path / "s.db"
