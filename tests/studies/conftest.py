"""A law measured in seconds: all in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from law_networks import NETWORKS

from isoscale.runs.engines import engine as engine_
from isoscale.studies.depth_law import DepthLaw, depth_law
from isoscale.testing import InlineEngine


@pytest.fixture(scope="module")
def engine() -> Iterator[type[InlineEngine]]:
    """Sweeps run in this process, as long as this module lasts; `.ran` lists the shards."""
    engine = type("Engine", (InlineEngine,), {"ran": []})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_, "LocalEngine", engine)
        yield engine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("law") / "law.db")


@pytest.fixture(scope="module")
def law(engine: type[InlineEngine], store: str) -> DepthLaw:
    return depth_law(NETWORKS, store=store, device="cpu")
