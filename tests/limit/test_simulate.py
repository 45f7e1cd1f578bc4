"""`simulate` as a user meets it: the Dataset, determinism, degenerate input, and errors."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from explicit import X, Y, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from isoscale.errors import InvalidTypeError, InvalidValueError
from isoscale.limit import simulate
from isoscale.limit.network import Size, run
from isoscale.limit.noise import GaussianNoise

SMALL = {"width": 48, "depth": 3, "steps": 2}
RECORDED = ["loss", "prediction", "feature_kernel", "stream_kernel", "gradient_kernel", "cross_kernel", "displacement"]


def test_the_dataset_has_the_promised_layout() -> None:
    result = simulate(X, Y, **SMALL)
    assert dict(result.sizes) == {"step": 3, "sample": 3, "sample2": 3, "time": 4}
    assert result.loss.dims == ("step",)
    assert result.prediction.dims == ("step", "sample")
    for name in ("feature_kernel", "gradient_kernel"):
        assert result[name].dims == ("step", "time", "sample", "sample2")
    assert {"depths", "particles", "rank", "seconds"} <= set(result.attrs)
    assert result.attrs["diverged_step"] == -1
    np.testing.assert_allclose(result.loss, ((result.prediction - result.target) ** 2).mean("sample") / 2)


def test_outputs_and_test_samples_have_their_own_dimensions() -> None:
    result = simulate(X, np.eye(3), x_test=X[:2], kernels=[0, 1], **SMALL)
    assert result.prediction.dims == ("step", "sample", "output")
    assert result.test_prediction.dims == ("step", "test_sample", "output")
    # a copy of a training sample is predicted as the training sample is, though never trained on
    np.testing.assert_allclose(result.test_prediction, result.prediction[:, :2], atol=1e-9)
    assert list(result.time) == [0, 1]


def test_kernels_can_be_left_out() -> None:
    assert set(simulate(X, Y, kernels=False, **SMALL).data_vars) == {"loss", "prediction", "target"}


def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    runs = [simulate(X, Y, seed=s, **SMALL) for s in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    assert runs[0].drop_attrs().identical(runs[1].drop_attrs())
    assert not np.allclose(runs[0].loss, runs[2].loss)


def test_it_writes_to_a_file_and_back(tmp_path) -> None:
    xr = pytest.importorskip("xarray")
    result = simulate(X, Y, **SMALL)
    result.to_netcdf(tmp_path / "run.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "run.nc", engine="scipy") as again:
        np.testing.assert_array_equal(again.loss, result.loss)


@pytest.mark.parametrize("mode", ["reused", "independent"])
def test_duplicated_samples_are_predicted_alike(mode: str) -> None:
    x = torch.cat([X, X[:1], X[:1]])
    y = torch.cat([Y, Y[:1], Y[:1]])
    result = simulate(x, y, width=128, depth=3, steps=4, backward_weights=mode)
    np.testing.assert_allclose(result.prediction[:, 3], result.prediction[:, 0], atol=1e-9)
    assert result.attrs["rank"] <= 15  # three different samples, five forward passes


def test_duplicates_are_a_weight_on_one_sample() -> None:
    twice = simulate(torch.cat([X[:1], X[:1]]), [1.0, 1.0], **SMALL)
    once = simulate(X[:1], [1.0], **SMALL)
    assert twice.loss[0].item() > 0
    assert twice.loss.shape == once.loss.shape


def test_samples_of_zeros_are_legal() -> None:
    result = simulate(np.zeros((2, 3)), [1.0, -1.0], **SMALL)
    np.testing.assert_array_equal(result.prediction, 0)


def test_no_steps_means_initialisation_only() -> None:
    result = simulate(X, Y, steps=0, width=48, depth=2)
    assert result.sizes["step"] == 1
    assert np.isfinite(result.gradient_kernel).all()


def test_a_learning_rate_of_zero_changes_nothing() -> None:
    result = simulate(X, Y, lr=0.0, **SMALL)
    np.testing.assert_allclose(result.prediction[1:], np.broadcast_to(result.prediction[0], (2, 3)), atol=1e-10)


@pytest.mark.parametrize("phi", ["relu", "tanh", "linear"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_divergence_is_recorded_with_its_step(phi: str, dtype: str) -> None:
    result = simulate(X, Y, lr=1e12, phi=phi, dtype=dtype, **SMALL | {"steps": 30})
    k = result.attrs["diverged_step"]
    assert 0 < k <= 30
    assert np.isfinite(result.loss[:k]).all()
    for name in RECORDED:
        assert np.isnan(result[name][k:]).all()


def test_float32_follows_float64() -> None:
    tasks = [problem(dtype=d) for d in ("float64", "float32")]
    size = Size(n=64, depth=4, replicas=200, tolerance=1e-6)
    runs = [run(t, size, GaussianNoise(0, like=t.gram)).loss.double() for t in tasks]
    error = sum(r.var(0) / 200 for r in runs) ** 0.5
    assert ((runs[0].mean(0) - runs[1].mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_long_runs_survive_directions_below_rounding(dtype: str) -> None:
    # slow training of many samples leaves residuals of pure rounding, which must not be taken for directions
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    task = problem(x, x[:, 0].sign(), dtype=dtype, lr=0.02, steps=12)
    runs = [run(task, Size(n=1024, depth=2, tolerance=t), GaussianNoise(0, like=task.gram)) for t in (0.0, 1e-6)]
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=1e-4, atol=1e-5)


def test_activations_can_be_named_given_or_given_with_their_derivative() -> None:
    named = simulate(X, Y, phi="tanh", **SMALL)
    alone = simulate(X, Y, phi=torch.tanh, **SMALL)
    pair = simulate(X, Y, phi=(torch.tanh, lambda h: 1 - torch.tanh(h) ** 2), **SMALL)
    np.testing.assert_allclose(named.loss, alone.loss)
    np.testing.assert_allclose(named.loss, pair.loss)


def test_cross_entropy_takes_classes_or_probabilities() -> None:
    classes = simulate(X, [0, 2, 1], loss="cross-entropy", **SMALL)
    rows = simulate(X, np.eye(3)[[0, 2, 1]], loss="cross-entropy", **SMALL)
    np.testing.assert_allclose(classes.loss, rows.loss)


def test_one_batch_of_everything_is_the_full_batch() -> None:
    whole = simulate(X, Y, **SMALL)
    batched = simulate(X, Y, batches=[[0, 1, 2], [2, 0, 1]], **SMALL)
    np.testing.assert_allclose(whole.loss, batched.loss)


def test_a_callers_precision_and_gradient_mode_change_nothing() -> None:
    options = SMALL | {"dtype": "float32"}
    plain = simulate(X, Y, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode(), torch.device("meta"):
        inside = simulate(X, Y, **options)
    np.testing.assert_array_equal(inside.loss, plain.loss)


def test_progress_ends_at_one() -> None:
    seen: list[float] = []
    simulate(X, Y, progress=seen.append, **SMALL)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "`depth` must be >= 1, got 0"),
        ({"width": -4}, "`width` must be >= 1, got -4"),
        ({"steps": -1}, "`steps` must be >= 0, got -1"),
        ({"lr": float("nan")}, "`lr` must be finite and >= 0, got nan"),
        ({"horizon": 0.0}, "`horizon` must be finite and > 0, got 0.0"),
        ({"phi": "tahn"}, "Nearest: tanh"),
        ({"loss": "mae"}, "no loss named 'mae'"),
        ({"dtype": "float16"}, "Nearest: float"),
        ({"backward_weights": "both"}, "All: independent, reused"),
        ({"batches": [[0]]}, "one index set for each of the 2 steps, got 1"),
        ({"batches": [[0], [3]]}, r"`batches\[1\]` must hold indices in 0..2"),
        ({"batches": [[0], []]}, r"`batches\[1\]` must be a non-empty list"),
        ({"kernels": [0.5, 1.5]}, "layer times in"),
        ({"x_test": np.ones((2, 4))}, "`x_test` must have 5 features as `x` has, got 4"),
        ({"loss": "cross-entropy"}, "`y` must hold classes 0, 1, ... as integers"),
        ({"seed": -1}, "`seed` must be >= 0, got -1"),
        ({"steps": 10**12}, "needs about .* GiB and the machine has .*fewer steps"),
        ({"depth": 10**12}, "needs about .* GiB"),
        ({"width": 10**12}, "needs about .* GiB"),
        ({"schedule": "cosin"}, "Nearest: cosine"),
        ({"schedule": [1.0]}, "hold one factor for each of the"),
        ({"optimizer": "adan"}, "Nearest: adam"),
        ({"optimizer": "lion", "momentum": 0.5}, "`momentum` of lion is the first of its `betas`"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "use adamw"),
        ({"optimizer": "adam", "betas": (0.9, 1.0)}, "`betas` must be in"),
        ({"betas": (0.9, 0.9)}, "sgd has `momentum`"),
        ({"device": "meta"}, "`device` 'meta' cannot be used"),
        ({"device": "nowhere"}, "`device` 'nowhere' cannot be used"),
    ],
)
def test_bad_settings_say_what_was_wrong(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        simulate(X, Y, **SMALL | arguments)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0, 2.0], [1.0]], [1.0, 2.0], "`x` must be a .* array with as many features in each sample"),
        ([1.0, 2.0], [1.0, 2.0], "`x` must have shape"),
        ([[1.0, np.nan]], [1.0], r"`x` must be finite, got nan at \(0, 1\)"),
        ([[1.0, 2.0]], [np.inf], r"`y` must be finite, got inf at \(0,\)"),
        ([[1.0, 2.0]], [1.0, 2.0], "with 1 samples as `x` has"),
        (np.zeros((0, 3)), [], "`x` must have shape"),
    ],
)
def test_bad_data_say_where(x, y, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        simulate(x, y, **SMALL)


@pytest.mark.parametrize("arguments", [{"depth": 2.5}, {"width": True}, {"lr": "fast"}, {"phi": 3}])
def test_wrong_types_are_type_errors(arguments: dict) -> None:
    with pytest.raises(InvalidTypeError):
        simulate(X, Y, **SMALL | arguments)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(-2, 12), depth=st.integers(-1, 3), steps=st.integers(-1, 3), samples=st.integers(0, 4),
    lr=st.floats(allow_nan=True), phi=st.sampled_from(["tanh", "relu", "sine"]),
    mode=st.sampled_from(["reused", "independent"]),
)  # fmt: skip
def test_any_input_gives_a_clear_error_or_a_full_answer(width, depth, steps, samples, lr, phi, mode) -> None:
    x = np.linspace(-1, 1, 2 * samples).reshape(samples, 2)
    legal = min(width, depth, samples) >= 1 and steps >= 0 and lr >= 0 and math.isfinite(lr) and phi != "sine"
    with contextlib.nullcontext() if legal else pytest.raises(InvalidValueError, match="`"):
        result = simulate(x, np.ones(samples), width, depth, steps, lr, phi, backward_weights=mode)
    if legal:
        k = result.attrs["diverged_step"]
        assert np.isfinite(result.loss[: k if k >= 0 else None]).all()
