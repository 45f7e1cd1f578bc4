"""Sweeps over the user's own training function: what it is given, what may come back, and what is kept."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import isoscale
from isoscale.errors import DataError, InvalidTypeError, InvalidValueError
from isoscale.runs import Store, Sweep, sweep
from isoscale.runs.trainers import fingerprint

GRID: dict[str, Any] = {"widths": [4, 8], "lrs": [0.25, 0.5], "seeds": 2}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def run(inline: Any, store: Path) -> Callable[..., isoscale.SweepResult]:
    """`run(train, widths=[8])`: the sweep in this process."""

    def swept(train: Any, **changes: Any) -> isoscale.SweepResult:
        options = {name: changes.pop(name) for name in ("reuse", "fresh") if name in changes}
        return sweep(Sweep(train=train, **(GRID | changes)), store=store, **options)

    return swept


def bowl(trial: Any) -> float:
    return trial.width * (trial.lr - 0.25) ** 2 + trial.seed


# --- what it is given and what comes of it ---


def test_a_loss_stands_at_its_place_in_the_grid(run: Callable[..., Any]):
    """To the last bit: a loss is kept in double precision, and an axis that was not asked for is not there."""
    found = run(lambda trial: bowl(trial) / 3)
    assert found.loss.dims == ("rule", "width", "lr", "seed")
    assert found.loss["rule"].values.tolist() == ["-"]
    for width in (4, 8):
        for lr in (0.25, 0.5):
            for seed in (0, 1):
                at = found.loss.sel(rule="-", width=width, lr=lr, seed=seed)
                assert float(at) == (width * (lr - 0.25) ** 2 + seed) / 3
    assert found.count("done") == 8


def test_a_trial_has_its_place_on_every_axis(run: Callable[..., Any], store: Path):
    def train(trial: Any) -> dict[str, float]:
        assert trial.sizes == {"width": trial.width, "batch_size": trial.batch_size, "experts": trial.sizes["experts"]}
        assert trial.hyperparameters == {"weight_decay": 0.1}
        assert (trial.rule, trial.steps, trial.device) == ("mup", 7, "cpu")
        return {"loss": trial.sizes["experts"] + trial.batch_size / 64, "tokens": 3.0, "test_loss": 0.5}

    found = run(
        train,
        rule="mup",
        batch_sizes=[32, 64],
        sizes={"experts": [2, 4]},
        hyperparameters={"weight_decay": [0.1]},
        steps=7,
    )
    assert found.reasons == ()
    assert found.loss.dims == ("rule", "width", "batch_size", "experts", "weight_decay", "lr", "seed")
    assert found.loss.isel(width=0, lr=0, seed=0).squeeze().values.tolist() == [[2.5, 4.5], [3.0, 5.0]]
    assert (found.data["tokens"] == 3).all()
    assert (found.data["test_loss"] == 0.5).all()
    with Store(store) as opened:
        settings = next(opened.trials()).settings()
    assert settings["sizes"]["experts"] in (2, 4)
    assert settings["hyperparameters"] == {"weight_decay": 0.1}


def test_a_generator_gives_a_curve_whose_last_tenth_counts(run: Callable[..., Any], inline: Any):
    def train(trial: Any) -> Any:
        for step in range(20):
            yield torch.tensor(20.0 - step, requires_grad=True)

    found = run(train)
    assert found.data["curve"].dims[-1] == "step"
    np.testing.assert_array_equal(found.data["curve"].isel(rule=0, width=0, lr=0, seed=0), np.arange(20.0, 0, -1))
    assert (found.loss == 1.5).all()


def test_a_generator_may_return_what_it_measured_in_the_end(run: Callable[..., Any]):
    def train(trial: Any) -> Any:
        yield 2.0
        yield 1.0
        return {"loss": 0.25, "accuracy": np.float32(0.5)}

    found = run(train)
    assert (found.loss == 0.25).all()
    assert (found.data["accuracy"] == 0.5).all()
    assert found.data.sizes["step"] == 2


def test_divergence_ends_a_generator_at_once(run: Callable[..., Any], tmp_path: Path):
    def train(trial: Any) -> Any:
        try:
            for step in range(10):
                yield math.inf if step == 3 and trial.lr == 0.5 else 1.0
                assert step != 3 or trial.lr != 0.5, "went on"
        finally:
            (tmp_path / "closed").touch()

    found = run(train)
    assert (found.data["status"].sel(lr=0.5) == 1).all()
    assert (found.data["status"].sel(lr=0.25) == 0).all()
    assert np.isnan(found.loss.sel(lr=0.5)).all()
    assert np.isfinite(found.data["curve"].sel(lr=0.5, step=slice(0, 2))).all()
    assert np.isnan(found.data["curve"].sel(lr=0.5, step=slice(3, None))).all()
    assert (tmp_path / "closed").exists()


class Weird:
    def __repr__(self) -> str:
        return "Weird()"


def _yields(*values: Any) -> Callable[[Any], Any]:
    def train(trial: Any) -> Any:
        yield from values

    return train


@pytest.mark.parametrize(
    ("returned", "loss"),
    [
        (3, 3.0),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.array([2.0]), 2.0),
        (torch.tensor(1.5, requires_grad=True), 1.5),
        (torch.tensor([[0.5]], dtype=torch.bfloat16), 0.5),
        ({"loss": torch.tensor(0.75), "checkpoint": "a path"}, 0.75),
    ],
    ids=str,
)
def test_what_is_one_number_is_a_loss(run: Callable[..., Any], returned: Any, loss: float):
    found = run(lambda trial: returned, widths=[4], lrs=[1], seeds=1)
    assert found.reasons == ()
    assert found.loss.item() == loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)], ids=str)
def test_a_loss_that_is_not_finite_is_divergence(run: Callable[..., Any], value: Any):
    found = run(lambda trial: value, widths=[4], lrs=[1], seeds=1)
    assert found.count("diverged") == 1
    assert np.isnan(found.loss.item())


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (lambda trial: None, "returned None: a loss is one number"),
        (lambda trial: "0.5", "returned '0.5': a loss is one number"),
        (lambda trial: True, "returned True: a loss is one number"),
        (lambda trial: Weird(), "returned Weird(): a loss is one number"),
        (lambda trial: torch.ones(3), "returned a tensor of shape (3,): a loss is one number"),
        (lambda trial: {"accuracy": 1.0}, 'returned a mapping without "loss"; it has: accuracy'),
        (lambda trial: {"loss": "low"}, "returned under `loss` 'low': a loss is one number"),
        (lambda trial: {"loss": 1.0, "width": 3}, "returned a number named `width`, which is something else"),
        (lambda trial: 1 / 0, "ZeroDivisionError: division by zero (test_foreign_function.py, line "),
        (lambda trial: trial.depth, "InvalidValueError: the sweep has no depth: give it `depths`"),
        (lambda trial: sys.exit(3), "SystemExit: 3"),
        (_yields(), "yielded no loss and returned None"),
        (_yields(1.0, None), "yielded None: a loss is one number (step 1)"),
    ],
)
def test_one_bad_trial_has_a_reason_and_spoils_no_other(run: Callable[..., Any], train: Any, reason: str):
    """The reason is one line; the log has the rest."""
    found = run(lambda trial: train(trial) if trial.width == 8 else 1.0, seeds=1, lrs=[1])
    assert found.data["status"].squeeze().values.tolist() == [0, 2]
    (said,) = found.reasons
    assert reason in said
    assert "\n" not in said
    log = Path(said.rpartition("log: ")[2].rstrip(")"))
    assert log.is_file()
    assert "failed after" in log.read_text()


def test_a_pilot_that_fails_is_told(run: Callable[..., Any]):
    """It is shorter than the trials of the sweep, where it shows nowhere."""

    def train(trial: Any) -> float:
        if trial.lr > 0.5:
            raise RuntimeError("out of memory")
        return bowl(trial)

    found = run(train, lrs=[2.0**-6, 4.0], search="adaptive")
    assert found.count("failed") == 0
    assert found.searched.failed == sum(lr > 0.5 for lr in (1, 2, 4)) * len(GRID["widths"])
    assert f"{found.searched.failed} of them failed" in str(found.searched)
    (said,) = found.failures
    assert said.startswith("RuntimeError: out of memory")


def test_a_search_of_which_every_pilot_fails_says_why(inline: Any, store: Path):
    spec = Sweep(train=lambda trial: "1.0", **(GRID | {"search": "adaptive"}))
    found = isoscale.transfer(spec, store=store)
    assert found.verdicts == {"-": "cannot tell"}
    assert found.reasons["-"].startswith("trials failed at width 4: ")
    assert "returned '1.0': a loss is one number" in found.reasons["-"]


def test_a_failed_trial_runs_again_and_a_finished_one_does_not(run: Callable[..., Any], inline: Any, tmp_path: Path):
    def train(trial: Any) -> float:
        if trial.width == 8 and not (tmp_path / "repaired").exists():
            raise RuntimeError("no such file")
        return 1.0

    assert run(train).count("failed") == 4
    (tmp_path / "repaired").touch()
    inline.ran.clear()
    assert run(train).count("done") == 8
    assert len(inline.ran) == 4


def test_a_grown_sweep_trains_its_new_cells_only(run: Callable[..., Any], inline: Any):
    run(bowl)
    inline.ran.clear()
    run(bowl, widths=[4, 8, 16], seeds=3)
    assert len(inline.ran) == 3 * 2 * 3 - 8


def test_a_time_limit_ends_a_function_that_never_does(run: Callable[..., Any]):
    def train(trial: Any) -> Any:
        while trial.width == 8:
            try:
                yield 1.0
            except Exception:  # what catches every Exception hears the time limit all the same
                continue
        return

    found = run(train, lrs=[1], seeds=1, time_limit=0.2)
    assert any("the time limit of 0.2 s passed at step " in reason for reason in found.reasons)


def test_output_of_every_kind_is_in_the_log(run: Callable[..., Any], store: Path, capfd: Any):
    def train(trial: Any) -> float:
        import os
        import subprocess

        print("from Python")
        os.write(2, b"from a library\n")
        subprocess.run(["echo", "from a process"], check=True)
        raise ValueError("with a traceback")

    found = run(train, widths=[4], lrs=[1], seeds=1)
    (log,) = Path(f"{store}.logs").iterdir()
    text = log.read_text()
    for part in ("from Python", "from a library", "from a process", "Traceback", "ValueError: with a traceback"):
        assert part in text
    assert str(log) in found.reasons[0]
    assert "from" not in "".join(capfd.readouterr())


def test_a_trials_folder_is_its_own_and_outlives_an_interruption(run: Callable[..., Any], store: Path):
    def train(trial: Any) -> float:
        checkpoint = trial.folder / "step"
        if not checkpoint.exists():
            checkpoint.write_text(f"{trial.lr}")
            raise KeyboardInterrupt
        return float(checkpoint.read_text())

    spec = {"widths": [4], "lrs": [0.5, 1.0], "seeds": 1}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(train, **spec)
    assert run(train, **spec).loss.squeeze().values.tolist() == [0.5, 1.0]


def test_generators_of_random_numbers_begin_with_the_seed(run: Callable[..., Any]):
    """Whatever ran before in the same process; and this process's own generators go on undisturbed."""
    before = torch.get_rng_state()

    def train(trial: Any) -> float:
        import random

        return float(torch.rand(())) + float(np.random.rand()) + random.random()  # noqa: NPY002

    found = run(train)
    assert (found.loss.isel(width=0, lr=0) == found.loss.isel(width=1, lr=1)).all()
    assert (found.loss.isel(seed=0) != found.loss.isel(seed=1)).all()
    assert torch.equal(before, torch.get_rng_state())


# --- a plan ---


def test_parametrize_takes_what_the_trial_says(run: Callable[..., Any]):
    """The optimizer gets to the last bit what `isoscale.parametrize` hands out."""

    def net(width: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def train(trial: Any) -> float:
        x = (torch.zeros(1, 3),)
        plan = trial.parametrize(net(trial.width), net(4), example_inputs=x)
        alone = isoscale.parametrize(
            net(trial.width),
            net(4),
            "mup",
            "adamw",
            lr=trial.lr,
            weight_decay=0.1,
            betas=(0.8, 0.95),
            eps=1e-6,
            example_inputs=x,
        )
        mine, theirs = ([{**g, "params": None} for g in plan.param_groups()] for plan in (plan, alone))
        assert mine == theirs
        return mine[0]["lr"]

    found = run(
        train,
        rule="mup",
        optimizer="adamw",
        betas=(0.9, 0.95),
        eps=1e-6,
        hyperparameters={"weight_decay": [0.1], "beta1": [0.8]},
    )
    assert found.reasons == ()


def test_a_plan_that_cannot_be_is_the_trials_failure(run: Callable[..., Any]):
    def train(trial: Any) -> float:
        trial.parametrize(nn.Linear(3, trial.width), nn.Linear(2, 4), example_inputs=(torch.zeros(1, 3),))
        return 1.0

    found = run(train, rule="mup")
    assert found.count("failed") == 8
    assert "Error" in found.reasons[0]


# --- where it is defined ---

FILE = """
from __future__ import annotations
import dataclasses
import neighbour

@dataclasses.dataclass
class Result:
    loss: float

def train(trial):
    return Result(trial.width * neighbour.FACTOR).loss
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a neighbour, and an interpreter that forgets both."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour.py").write_text("FACTOR = 2.0\n")
    path = tmp_path / "mytraining.py"
    path.write_text(FILE)
    yield path
    for name in ("neighbour", "mytraining"):
        sys.modules.pop(name, None)


def test_a_file_behaves_as_it_does_alone(run: Callable[..., Any], script: Path):
    assert run(f"{script}:train").loss.isel(lr=0, seed=0).squeeze().values.tolist() == [8.0, 16.0]


def test_a_file_and_its_function_are_the_same_trials(run: Callable[..., Any], inline: Any, script: Path):
    run(f"{script}:train")
    inline.ran.clear()
    run(isoscale.user_code.load(f"{script}:train").value)
    assert inline.ran == []


def test_a_changed_source_is_asked_about(run: Callable[..., Any], inline: Any, script: Path):
    """Counted, trained again, or told apart; and a grid that grew beside what is reused trains under the new source."""
    run(f"{script}:train")
    script.write_text(FILE.replace("neighbour.FACTOR", "5"))
    inline.ran.clear()
    with pytest.raises(InvalidValueError, match=r"mytraining.py:train changed: of these 8 trials, .* has 8 .*--reuse"):
        run(f"{script}:train")
    with pytest.raises(InvalidValueError, match="give one of them"):
        run(f"{script}:train", reuse=True, fresh=True)
    reused = run(f"{script}:train", reuse=True, widths=[4, 8, 16])
    assert reused.loss.isel(lr=0, seed=0).squeeze().values.tolist() == [8.0, 16.0, 80.0]
    assert len(inline.ran) == 4
    fresh = run(f"{script}:train", fresh=True)
    assert fresh.loss.isel(lr=0, seed=0).squeeze().values.tolist() == [20.0, 40.0]
    assert run(f"{script}:train").loss.equals(fresh.loss)
    script.write_text(FILE.replace("neighbour.FACTOR", "7"))
    assert run(f"{script}:train", version="seven").loss.max() == 56


def test_a_file_that_changes_while_the_sweep_runs_ends_it(run: Callable[..., Any], script: Path):
    spec = Sweep(train=f"{script}:train", **GRID)
    shard = isoscale.runs.driver.prepare(spec, None, script.parent / "s.db")[0]
    script.write_text(FILE + "\n# another\n")
    with pytest.raises(DataError, match=r"mytraining.py changed while the sweep ran"):
        shard.run("cpu")


def test_a_bound_value_is_another_function(run: Callable[..., Any], inline: Any):
    def scaled(trial: Any, factor: float) -> float:
        return factor * trial.width

    assert run(functools.partial(scaled, factor=2.0)).loss.max() == 16
    prints = {fingerprint.of_function(functools.partial(scaled, factor=value)) for value in (2.0, 3.0)}
    assert len(prints) == 2


def test_a_sweep_can_be_written_down(script: Path):
    spec = Sweep(train=isoscale.user_code.load(f"{script}:train").value, sizes={"experts": [4, 2]}, **GRID)
    again = Sweep.from_mapping(json.loads(json.dumps(spec.to_mapping())))
    assert again.train == f"{script}:train"
    assert again.axes == spec.axes
    assert again.to_toml() == spec.to_toml()


def test_a_trial_can_be_had_alone():
    trial = Sweep(train=bowl, **GRID).trial(width=8, lr=0.5, seed=1)
    assert bowl(trial) == 8 * 0.0625 + 1
    with pytest.raises(InvalidValueError, match=r"no axis of this sweep named 'depth'. .*All: lr, rule, seed, width"):
        Sweep(train=bowl, **GRID).trial(depth=3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"train": bowl, "command": "x {lr}"}, InvalidValueError, "`train` and `command` are two ways to train"),
        ({"train": 5}, InvalidTypeError, "`train` must be a function"),
        ({"train": bowl, "model": "gpt"}, InvalidValueError, "`model` is for models that isoscale trains"),
        ({"train": bowl, "dataset": "digits"}, InvalidValueError, "`dataset` is for models that isoscale trains"),
        ({"train": bowl, "sizes": {"lr": [1]}}, InvalidValueError, "`sizes` cannot have `lr`"),
        ({"train": bowl, "sizes": {"a b": [1]}}, InvalidValueError, "a name that is no word: 'a b'"),
        ({"train": bowl, "sizes": {"a": [1, 1]}}, InvalidValueError, "`a` has a value twice"),
        ({"train": bowl, "sizes": {"a": [1, "b"]}}, InvalidTypeError, "`a` has numbers and texts"),
        ({"train": bowl, "sizes": {"a": [math.nan]}}, InvalidValueError, "`a` must be finite"),
        ({"train": bowl, "sizes": 3}, InvalidTypeError, "`sizes` must be a mapping"),
        ({"train": bowl, "time_limit": 0}, InvalidValueError, "`time_limit` must be > 0"),
        ({"train": bowl, "loss_pattern": "x"}, InvalidValueError, "`loss_pattern` finds the loss in what a program"),
        ({"time_limit": 3}, InvalidValueError, "`time_limit` is for code of your own"),
        ({"sizes": {"experts": [2]}}, InvalidValueError, "residual-mlp has widths and depths"),
        ({"hyperparameters": {"dropout": [0.1]}}, InvalidValueError, "no hyperparameter of isoscale's networks named"),
        ({"train": bowl, "sizes": {"a": [1]}, "hyperparameters": {"a": [1]}}, InvalidValueError, "give it once"),
    ],
)
def test_what_makes_no_sense_is_named(settings: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Sweep(**settings)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("nofile.py:train", "cannot import nofile.py"),
        ("math:sqr", "math has no function `sqr`"),
        ("train", "a function is written file.py:name"),
    ],
)
def test_a_function_that_is_not_there_makes_no_store(store: Path, train: str, message: str):
    with pytest.raises(InvalidValueError, match=message):
        sweep(Sweep(train=train, **GRID), store=store)
    assert not store.exists()


def test_a_function_that_cannot_travel_is_refused(store: Path):
    import threading

    lock = threading.Lock()

    def train(trial: Any) -> float:
        with lock:
            return 1.0

    with pytest.raises(InvalidValueError, match=r"cannot be sent to a worker: TypeError: .*Make what it needs inside"):
        sweep(Sweep(train=train, **GRID), store=store)


# --- isoscale's own networks have the new axes too ---


def test_hyperparameters_and_batch_sizes_of_isoscales_networks(tiny: Callable[..., Sweep], inline: Any, store: Path):
    axes = {"batch_sizes": [32, 64], "hyperparameters": {"weight_decay": [0.0, 0.5]}}
    found = sweep(tiny(**axes), store=store)
    assert found.loss.dims == ("rule", "width", "depth", "batch_size", "weight_decay", "lr", "seed")
    inline.ran.clear()
    alone = sweep(tiny(batch_size=32, weight_decay=0.5), store=store)
    assert inline.ran == [], "the same trials"
    picked = found.loss.sel(batch_size=32, weight_decay=0.5, drop=True)
    assert picked.equals(alone.loss)
    assert not picked.equals(found.loss.sel(batch_size=64, weight_decay=0.0, drop=True))


# --- the store, and workers that hear nothing ---


def test_a_store_of_own_trials_can_be_listed_and_exported(run: Callable[..., Any], store: Path, tmp_path: Path):
    import pandas as pd
    import xarray as xr

    run(lambda trial: {"loss": bowl(trial), "tokens": 5})
    with Store(store) as opened:
        (group,) = opened.summary()
        assert (group.model.rpartition(":")[0], group.widths, group.depths, group.done) == (
            "test_foreign_function.py",
            (4, 8),
            (),
            8,
        )
        for ending in ("csv", "parquet", "nc"):
            assert opened.export(tmp_path / f"out.{ending}") == 8
        assert opened.faults() == []
    table = pd.read_csv(tmp_path / "out.csv")
    assert sorted(table["width"].unique()) == [4, 8]
    assert table["depth"].isna().all()
    assert json.loads(table["numbers"][0])["tokens"] == 5
    assert np.isnan(xr.load_dataset(tmp_path / "out.nc", engine="scipy")["depth"]).all()


def test_a_merge_of_equal_trials_is_no_conflict(run: Callable[..., Any], store: Path, tmp_path: Path):
    """How long each took is no part of the result."""
    run(bowl)
    sweep(Sweep(train=bowl, **GRID), store=tmp_path / "other.db")
    with Store(store) as opened:
        merged = opened.merge(tmp_path / "other.db")
    assert (merged.added, merged.same, merged.conflicts) == (0, 8, ())


DEAF = """
    import itertools
    import isoscale
    from isoscale.runs.trainers import foreign

    foreign._GRACE_SECONDS = 0.5

    def train(trial):
        if trial.width == 8:
            max(itertools.repeat(1))  # Python hears signals between two of its instructions, and this is one
        return 1.0

    spec = isoscale.Sweep(train=train, widths=[4, 8], lrs=[1.0], seeds=1, time_limit=0.5)
    found = isoscale.sweep(spec, store="s.db", workers=1)
    print(found.data["status"].squeeze().values.tolist(), found.reasons)
"""


def test_a_function_that_hears_no_time_limit_loses_its_worker(start: Callable[..., Any]):
    code, out, errors = start(DEAF).wait()
    assert code == 0, errors
    assert out.startswith("[0, 2] ('TimeoutError: the time limit passed, and the function heard nothing")


NOTEBOOK = """
    import isoscale, sys
    from isoscale.runs.trainers import fingerprint

    FACTOR = FACTOR_VALUE

    def helper(width):
        return FACTOR * width

    def train(trial):
        return helper(trial.width)

    lrs = LRS
    print(fingerprint.of_function(train), fingerprint.name(train))
"""


@pytest.mark.parametrize("kind", ["script", "prompt"])
def test_a_script_may_grow_its_grid(start: Callable[..., Any], tmp_path: Path, kind: str):
    """What the function needs of the script counts, the rest of it does not: it holds the sweep itself."""
    import textwrap

    def said(factor: str, lrs: str) -> list[str]:
        text = textwrap.dedent(NOTEBOOK).replace("FACTOR_VALUE", factor).replace("LRS", lrs)
        path = tmp_path / "both.py"
        path.write_text(text)
        code, out, errors = start([sys.executable, str(path)] if kind == "script" else text).wait()
        assert (code, errors) == (0, "")
        return out.split()

    source, name = said("2", "[0.5]")
    assert name == ("both.py:train" if kind == "script" else "__main__:train")
    assert said("2", "[0.5, 0.25]")[0] == source
    assert said("3", "[0.5]")[0] != source


# --- fingerprints ---


def test_two_lambdas_of_a_file_are_two_functions(run: Callable[..., Any]):
    """They share their file and their name."""
    assert (run(lambda trial: 1.0).loss == 1).all()
    with pytest.raises(InvalidValueError, match="<lambda> changed"):
        run(lambda trial: 2.0)
    assert (run(lambda trial: 2.0, fresh=True).loss == 2).all()


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        ({"a": [1, 2.5, None]}, {"a": [1, 2.5, None]}, {"a": [1, 2.5, True]}),
        (torch.arange(3.0), torch.arange(3.0), torch.arange(3.0, dtype=torch.float64)),
        (np.array([1, 2]), np.array([1, 2]), np.array([[1, 2]])),
        (np.array(["a", None], object), np.array(["a", None], object), np.array(["b", None], object)),
        ({3, 1, 2}, {1, 2, 3}, {1, 2}),
        (ITSELF, ITSELF, 1),
        (Weird(), Weird(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_values_have_equal_fingerprints(value: Any, same: Any, other: Any):
    assert fingerprint.of_value(value) == fingerprint.of_value(same)
    assert fingerprint.of_value(value) != fingerprint.of_value(other)
