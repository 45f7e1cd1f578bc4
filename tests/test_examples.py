"""The example script, in every way that a user of it would ask for a verdict: the same answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import isoscale
from isoscale import log2_grid

SCRIPT = Path(__file__).parents[1] / "examples" / "char_gpt.py"
SETTINGS = {
    "rule": "mup", "widths": [32, 64], "lrs": log2_grid(-6, -3), "seeds": 3, "steps": 10, "search": "grid",
}  # fmt: skip


@pytest.mark.nightly
def test_a_function_a_program_and_its_table_give_the_same_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In single precision, but for the model: without units for bf16 that takes twice as long."""
    monkeypatch.setitem(os.environ, "CHAR_GPT_PRECISION", "float32")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    store = tmp_path / "s.db"
    function = isoscale.Sweep(train=f"{SCRIPT}:train", optimizer="adamw", **SETTINGS)
    by_function = isoscale.transfer(function, store=store, workers=2)
    ask = "--n_embd {width} --lr {lr} --seed {seed} --rule {rule} --steps {steps}"
    program = isoscale.Sweep(
        command=f"{sys.executable} {SCRIPT} {ask}",
        loss_pattern=r"val loss ([0-9.]+)",
        **SETTINGS,
    )
    by_program = isoscale.transfer(program, store=store, workers=2)
    by_table = isoscale.judge("runs.csv")
    model = isoscale.Sweep(
        model=f"{SCRIPT}:make",
        batches=f"{SCRIPT}:batches",
        loss_fn=f"{SCRIPT}:loss_fn",
        eval_batches=f"{SCRIPT}:eval_batches",
        metric=f"{SCRIPT}:val_loss",
        better="lower",
        weight_decay=0.1,
        betas=(0.9, 0.95),
        schedule="cosine",
        warmup=0.1,
        clip=1.0,
        accumulate=2,
        autocast="bfloat16",
        **SETTINGS,
    )
    by_model = isoscale.transfer(model, store=store, workers=2)
    np.testing.assert_allclose(by_program.data["best_loss"], by_function.data["best_loss"], rtol=1e-3)
    np.testing.assert_allclose(by_table.data["best_loss"].values[0], by_program.data["best_loss"].values[0], rtol=1e-4)
    assert by_function.verdicts["mup"] == by_program.verdicts["mup"] == by_table.verdicts["-"]
    # The same init, batches, schedule and held-out text, in bf16.
    np.testing.assert_allclose(by_model.data["best_loss"], by_function.data["best_loss"], rtol=0.01)
    assert by_model.verdicts["mup"] == by_function.verdicts["mup"]
    assert by_function.verdicts["mup"] != "cannot tell"
    assert (abs(by_model.data["drift"] - by_function.data["drift"]) < 1).all()


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "library"), [("lightning_mlp", "lightning"), ("hf_trainer", "transformers")])
def test_the_trainers_of_others_train_under_a_plan(tmp_path: Path, name: str, library: str):
    """In workers of its own: a loss for each size, lower at a rate that trains than at one that does not."""
    pytest.importorskip(library)
    spec = isoscale.Sweep(
        train=f"{SCRIPT.parent / name}.py:train",
        rule="mup",
        optimizer="adamw",
        widths=[32, 64],
        lrs=[2.0**-18, 2.0**-7],
        seeds=1,
        steps=40,
    )
    found = isoscale.sweep(spec, store=tmp_path / "s.db", workers=2)
    assert found.reasons == ()
    loss = found.loss.squeeze(["rule", "seed"])
    assert (loss.sel(lr=2.0**-7) < 0.95 * loss.sel(lr=2.0**-18)).all()
