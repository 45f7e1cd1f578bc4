"""Several GPUs on one machine: a worker each, and the next worker takes the GPU of one that died."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isoscale.errors import InvalidValueError
from isoscale.runs.engines import engine as engine_
from isoscale.runs.engines.engine import choose
from isoscale.runs.engines.local import LocalEngine, _claim

CLAIM = """
    import sys, time
    from pathlib import Path
    from isoscale.runs.engines.local import _claim
    claim = _claim("claims", ["cuda:0", "cuda:1"])
    Path(f"{NAME}.claimed").write_text(claim.device)
    time.sleep(60)
"""


def test_workers_share_out_the_gpus_and_inherit_them(
    tmp_path: Path, start: Callable[..., Any], until: Callable[..., bool]
):
    (tmp_path / "claims").mkdir()
    first, second, third = (start(f"    NAME = {name!r}\n{CLAIM}") for name in "abc")
    assert until(lambda: len(list(tmp_path.glob("*.claimed"))) == 2, 30)
    claimed = {path.stem: path.read_text() for path in tmp_path.glob("*.claimed")}
    assert set(claimed.values()) == {"cuda:0", "cuda:1"}
    processes = dict(zip("abc", (first, second, third), strict=True))
    dies = min(claimed)
    processes[dies].signal(signal.SIGKILL)
    (waits,) = set("abc") - set(claimed)
    assert until((tmp_path / f"{waits}.claimed").exists, 30)
    assert until(lambda: (tmp_path / f"{waits}.claimed").read_text() == claimed[dies], 5)


def test_more_workers_than_gpus_share_them_evenly():
    with LocalEngine(8, 6, "cuda", 2) as engine:
        assert engine._devices == ["cuda:0", "cuda:1"] * 3
    with LocalEngine(8, 6, "cuda:1", 1) as engine:
        assert engine._devices == []


def test_a_gpu_is_free_when_its_process_lets_go(tmp_path: Path):
    claim = _claim(str(tmp_path), ["cuda:0"])
    claim.file.close()
    again = _claim(str(tmp_path), ["cuda:0"])
    again.file.close()
    assert again.device == "cuda:0"


@pytest.mark.parametrize(
    ("device", "share", "workers"), [("cuda", 1.0, 4), ("cuda", 0.5, 8), ("cuda:1", 1.0, 1), ("cuda:1", 0.3, 3)]
)
def test_a_worker_for_each_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str, share: float, workers: int):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(engine_, "resolve_device", lambda device: device)
    assert choose("local", None, device, None, share).workers == workers
    assert choose("local", 2, device, None, share).workers == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(InvalidValueError, match="`device` 'cuda' cannot be used"):
        choose("local", None, "cuda")
