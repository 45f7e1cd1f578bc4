"""A law measured in seconds: all in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from law_networks import NETWORKS

from isoscale.studies.depth_law import DepthLaw, depth_law
from isoscale.testing import InlineEngine, inline


@pytest.fixture(scope="module")
def engine() -> Iterator[type[InlineEngine]]:
    """Sweeps run in this process, as long as this module lasts; `.ran` lists the shards."""
    with inline() as engine:
        yield engine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("law") / "law.db")


@pytest.fixture(scope="module")
def law(engine: type[InlineEngine], store: str) -> DepthLaw:
    return depth_law(NETWORKS, store=store, device="cpu")
