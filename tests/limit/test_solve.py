"""`solve`: rates, tolerances, depth sequences, and agreement with large finite networks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from explicit import X, Y, problem

from isoscale.errors import InvalidValueError
from isoscale.limit import closed_form, gaussian, richardson, simulate, solve
from isoscale.limit.choices import choose_plan
from isoscale.limit.network import Size, run
from isoscale.limit.noise import GaussianNoise, HalvedNoise, QuasiNoise
from isoscale.limit.particles import Sample

MODES = ["reused", "independent"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("phi", ["tanh", "relu"])
def test_wide_networks_approach_it(phi: str, mode: str) -> None:
    limit = solve(X, Y, 3, 0.5, phi, 1.0, 4, 1024, 16, mode, kernels=False)
    n, runs = 1024, 64
    wide = run(problem(phi=phi, lr=0.5), Size(n=n, depth=4, replicas=runs, reused=mode == "reused"), GaussianNoise(1))
    error = np.hypot(wide.loss.std(0).numpy() / runs**0.5, limit.loss_se)
    # the finite width's own bias is about 0.3 / n in the loss
    assert np.all(np.abs(wide.loss.mean(0).numpy() - limit.loss) < 4 * error + 1 / n)


HARD = {
    "gelu": {"phi": "gelu"},
    "long horizon": {"horizon": 2.0},
    "cross-entropy": {"y": [0, 1, 2], "loss": "cross-entropy", "lr": 1.5},
    "gelu, long horizon, cross-entropy": {"y": [0, 1, 2], "loss": "cross-entropy", "phi": "gelu", "horizon": 2.0},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", HARD)
def test_few_particles_agree_with_many_and_with_plain_networks_freed_of_bias(case: str, mode: str) -> None:
    settings = {"x": X, "y": Y, "steps": 4, "lr": 0.5} | HARD[case]
    many = solve(**settings, depth=4, backward_weights=mode, kernels=False, particles=2048, replicas=16, seed=1)
    task, size = problem(**settings), {"depth": 4, "reused": mode == "reused"}
    # the replicas of a first trial, without halves: eight of them are to have a bias below a fifth of their error
    noise = QuasiNoise(2, layers=4, gram=task.gram)
    few = run(task, Size(n=512, replicas=64, matched=True, tolerance=1e-5, **size), noise).loss.numpy()
    spread = few.std(0, ddof=1)
    error = np.hypot(spread / 64**0.5, many.loss_se)
    assert np.all(np.abs(few.mean(0) - many.loss) < 4.5 * error + 0.2 * spread / 8**0.5)
    # networks of width n, exactly in law: 2 M(n) - M(n/2), whose bias is of order 1/n^2
    whole = run(task, Size(n=512, replicas=32, **size), GaussianNoise(2)).loss
    halves = run(task, Size(n=256, replicas=64, **size), HalvedNoise(GaussianNoise(2))).loss
    plain = (2 * whole - halves.unflatten(0, (32, 2)).mean(1)).numpy()
    error = np.hypot(plain.std(0, ddof=1) / 32**0.5, many.loss_se)
    assert np.all(np.abs(plain.mean(0) - many.loss) < 4.5 * error)


def test_moment_matching_beats_plain_particles_ninefold_in_variance() -> None:
    size = {"n": 256, "depth": 8, "replicas": 48}
    spread = [
        run(problem(), Size(**size, matched=m), GaussianNoise(0)).loss[:, 1:].var(0).mean() for m in (False, True)
    ]
    assert spread[0] > 9 * spread[1]


def test_modes_agree_at_initialisation_and_part_in_training() -> None:
    both = [solve(X, Y, 3, 0.5, depth=4, backward_weights=m, kernels=False) for m in MODES]
    assert both[0].loss[0].item() == pytest.approx(both[1].loss[0].item(), abs=1e-12)
    gap = np.abs(both[0].loss - both[1].loss)[1:]
    assert np.all(gap > 5 * np.hypot(both[0].loss_se, both[1].loss_se)[1:])


@pytest.mark.parametrize("mode", MODES)
def test_the_error_of_finite_depth_is_a_series_in_one_over_depth(mode: str) -> None:
    # linear phi is exact at every depth: the series c_0 + c_1/L + ... is seen without error bars
    depths = np.array([8, 16, 32, 64, 128])
    runs = [closed_form.linear(X[:2], Y[:2], int(d), 2, 0.2, backward_weights=mode, kernels=False) for d in depths]
    losses, x = np.array([r.loss[-1].item() for r in runs]), 1 / depths
    c = np.linalg.solve(np.vander(x[:4], increasing=True), losses[:4])
    assert abs(c[1] * x[-1]) > 4 * abs(c[2] * x[-1] ** 2), "1/L leads"
    # The deepest was held out. Three terms fitted to the three before it miss it by the fourth: Newton's remainder.
    # Of that the fifth takes c_4 sum(x) = 0.23 c_4 / c_3: with |c_4| < 4 |c_3| it is known within a factor of two.
    shorter = np.linalg.solve(np.vander(x[1:4], increasing=True), losses[1:4])
    missed = losses[-1] - shorter @ x[-1] ** np.arange(3)
    assert 0.5 < missed / (c[3] * np.prod(x[-1] - x[1:4])) < 2


def test_richardson_weights_cancel_powers_of_one_over_depth() -> None:
    depths = (8, 16, 32)
    w = richardson.weights(depths)
    for power, expected in ((0, 1), (1, 0), (2, 0)):
        assert w @ np.array(depths, float) ** -power == pytest.approx(expected, abs=1e-12)


def test_tolerance_is_met_or_the_result_says_by_how_much_not() -> None:
    met = solve(X, Y, 2, 0.3, depth=2, tolerance=3e-4, kernels=False)
    assert met.attrs["tolerance_met"] == 1
    assert met.loss_se.max() <= 3e-4
    missed = solve(X, Y, 2, 0.3, depth=2, particles=64, replicas=4, tolerance=1e-5, kernels=False)
    assert missed.attrs["tolerance_met"] == 0
    assert missed.attrs["error"] == pytest.approx(missed.loss_se.max().item())


@pytest.mark.parametrize("ratio", [0.8, 1.0, 3.0])
def test_an_error_is_within_a_tolerance_that_is_met(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # A trial whose true standard error is so many tolerances, with four steps that are correlated.
    module = sys.modules["isoscale.limit.solve"]
    task, tolerance, repetitions = problem(), 1e-3, 150
    plan = choose_plan(task, (8,), None, None, seed=0, tolerance=tolerance)
    spread = ratio * tolerance * (plan.particles * plan.replicas) ** 0.5
    mix = np.array([[1, 0.5, 0, 0], [0, 0.8, 0.5, 0], [0, 0, 0.7, 0.3], [0, 0, 0, 0.5]])
    rng = np.random.default_rng(0)

    def drawn(problem, plan, *, reused, progress) -> Sample:
        losses = spread / plan.particles**0.5 * rng.standard_normal((plan.replicas, 4)) @ mix
        return Sample(values=({"loss": losses},), rank=1, diverged=None)

    monkeypatch.setattr(module, "sample", drawn)
    within = []
    for _ in range(repetitions):
        answer = module._to_tolerance(task, plan, True, tolerance, None)[1]
        if answer.error <= tolerance:
            worst = answer.values["loss_se"].argmax()
            within.append(abs(answer.values["loss"][worst]) <= tolerance)
    assert len(within) > 0.9 * repetitions
    assert np.mean(within) > 0.68 - 4 * (0.68 * 0.32 / len(within)) ** 0.5


def test_standard_errors_cover_what_they_say() -> None:
    repetitions = 50
    runs = [
        solve(X[:2], Y[:2], 1, 0.5, depth=2, particles=96, replicas=4, seed=s, kernels=False)
        for s in range(repetitions)
    ]
    final = np.array([r.loss[-1].item() for r in runs])
    errors = np.array([r.loss_se[-1].item() for r in runs])
    off = np.abs(final - final.mean()) / errors
    # Of four replicas, widened for their number, one standard error holds more than 68 %.
    for reach, nominal in ((1, 0.68), (1.96, 0.95)):
        assert np.mean(off < reach) > nominal - 4 * (nominal * (1 - nominal) / repetitions) ** 0.5
    assert np.mean(off < 0.5) < 0.85


def test_inputs_out_of_all_proportion_end() -> None:
    found = solve(1e8 * X, Y, 2, lr=1e-18, kernels=False, depth=2)
    assert found.attrs["dtype"] == "float64"
    assert found.attrs["tolerance_met"] == 1
    assert solve(1e8 * X, Y, 1, kernels=False, depth=2).attrs["tolerance_met"] == 0


def test_every_variable_has_a_standard_error_and_a_label() -> None:
    limit = solve(X, Y, 1, ladder=(2, 4), x_test=X + 1, particles=128, replicas=4)
    names = [name for name in limit.data_vars if not name.endswith("_se") and name != "target"]
    assert {"loss", "prediction", "test_prediction", "feature_kernel", "gradient_kernel"} <= set(names)
    assert all(f"{name}_se" in limit and limit[name].attrs["long_name"] for name in names)
    assert list(limit.time) == [0, 0.5, 1]
    assert limit.attrs["depths"] == [2, 4]


def test_longer_horizons_take_finer_depths() -> None:
    assert solve(X, Y, 0, horizon=3.0, kernels=False).attrs["depths"] == [32, 64, 128]


def test_float32_agrees_with_float64_within_its_errors() -> None:
    runs = [solve(X, Y, 5, 0.4, depth=4, kernels=False, dtype=d) for d in ("float64", "float32")]
    assert [r.attrs["dtype"] for r in runs] == ["float64", "float32"]
    assert np.all(np.abs(runs[0].loss - runs[1].loss) < 4 * np.hypot(runs[0].loss_se, runs[1].loss_se))


@pytest.mark.parametrize(("tolerance", "dtype"), [(1e-3, "float32"), (1e-5, "float64")])
def test_the_tolerance_chooses_the_precision(tolerance: float, dtype: str) -> None:
    run = solve(X, Y, 0, depth=2, particles=64, replicas=2, tolerance=tolerance, kernels=False)
    assert run.attrs["dtype"] == dtype


def test_left_to_itself_its_bias_does_not_show() -> None:
    # few large replicas, which do not run in halves, against many that do
    chosen = solve(X, Y, 4, 0.5, depth=4, seed=1)
    assert chosen.attrs["particles"] >= 64 * chosen.attrs["replicas"]
    reference = solve(X, Y, 4, 0.5, depth=4, particles=512, replicas=64)
    for name in ("loss", "feature_kernel", "gradient_kernel"):
        error = np.hypot(chosen[f"{name}_se"], reference[f"{name}_se"])
        off = (chosen[name] - reference[name]) / (error + 1e-6)
        assert np.sqrt(np.square(off).mean()) < 2


@pytest.mark.parametrize("mode", MODES)
def test_rank_truncation_is_invisible_and_keeps_the_response(mode: str) -> None:
    # at a small learning rate every change is below the tolerance: only its conditional mean keeps the modes apart
    lr = 1e-4
    reused = mode == "reused"
    task = problem(lr=lr, steps=2)
    change = []
    for tolerance in (1e-14, 1e-3):
        history = run(
            task, Size(n=256, depth=4, replicas=16, reused=reused, matched=True, tolerance=tolerance), GaussianNoise(0)
        )
        change.append((history.prediction[:, -1] - history.prediction[:, 0]).mean(0) / lr)
    torch.testing.assert_close(change[0], change[1], rtol=0.02, atol=0.02)


def test_rank_truncation_halves_the_rank_of_long_runs() -> None:
    ranks = []
    losses = []
    for tolerance in (1e-14, 1e-6):
        history = run(problem(steps=12, lr=0.3), Size(n=512, depth=2, tolerance=tolerance), GaussianNoise(0))
        ranks.append(history.rank)
        losses.append(history.loss)
    assert ranks[1] < 0.9 * ranks[0]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-5)


def test_memory_is_checked_before_the_run() -> None:
    with pytest.raises(InvalidValueError, match=r"needs about [\d.]+ GiB and the machine has .*`particles`"):
        solve(X, Y, 100, depth=4096, particles=200_000, replicas=2)
    with pytest.raises(InvalidValueError, match=r"needs about [\d.]+ GiB and the machine has .*`width`"):
        simulate(X, Y, 1_000_000, 1024, 1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 10}, "`particles` must be >= "),
        ({"particles": 501}, "`particles` must be even"),
        ({"replicas": 1}, "`replicas` must be >= 2, got 1"),
        ({"replicas": 10**9}, "GiB and the machine has .* Use fewer `replicas`"),
        ({"optimizer": "lion"}, "infinite depth under `optimizer` lion is not derived"),
        ({"depth": 0}, "`depth` must be >= 1, got 0"),
        ({"ladder": [8]}, "`ladder` must hold two or more depths"),
        ({"ladder": [8, 12]}, "`ladder` must hold two or more depths"),
        ({"depth": 8, "ladder": [8, 16]}, "leave out `depth`, or `ladder`"),
        ({"tolerance": 0}, "`tolerance` must be finite and > 0, got 0"),
        ({"backward_weights": "reuse"}, "Nearest: reused"),
    ],
)
def test_bad_settings_say_what_and_how(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        solve(X, Y, 2, **arguments)


def test_years_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoscale.limit.particles.MOST_FLOPS_EVER", 1e6)
    with pytest.raises(InvalidValueError, match="years of a core: use fewer `replicas`"):
        solve(X, Y, 2)


@pytest.mark.nightly
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.05), ("lion", 0.03), ("muon", 0.1)])
def test_wide_networks_approach_the_limit_under_other_optimizers(optimizer: str, lr: float) -> None:
    given = {"steps": 6, "lr": lr, "optimizer": optimizer}
    limit = solve(X, Y, depth=4, particles=512, replicas=8, kernels=False, **given)
    # 2 M(n) - M(n/2), whose bias is of order 1/n^2
    size = {"depth": 4, "explicit": optimizer != "muon"}
    whole = run(problem(**given), Size(n=256, replicas=128, **size), GaussianNoise(2)).loss
    halves = run(problem(**given), Size(n=128, replicas=256, **size), GaussianNoise(3)).loss
    mean = 2 * whole.mean(0) - halves.mean(0)
    error = (4 * whole.var(0) / len(whole) + halves.var(0) / len(halves)).sqrt().numpy()
    assert np.all(np.abs(mean.numpy() - limit.loss) < 4 * np.hypot(error, limit.loss_se))


def test_a_small_matrix_that_float32_cannot_factor_is_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAPACK's float32 eigensolver fails on some finite matrices: training must not hear of it."""
    exact = torch.linalg.eigh

    def fragile(matrix: torch.Tensor) -> object:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return exact(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fragile)
    limit = solve(X, Y, 3, depth=4, tolerance=0.01, kernels=False)
    assert limit.attrs["dtype"] == "float32"
    assert limit.attrs["diverged_step"] == -1
    assert np.isfinite(limit.loss).all()


def test_what_float32_cannot_do_is_done_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gaussian.match_moments

    def coarse(noise: torch.Tensor, *others: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        if noise.dtype == torch.float32:
            raise torch.linalg.LinAlgError("not positive definite")
        return exact(noise, *others, **more)

    monkeypatch.setattr(gaussian, "match_moments", coarse)
    limit = solve(X, Y, 3, depth=4, tolerance=0.01, kernels=False)
    assert limit.attrs["dtype"] == "float64"
    assert np.isfinite(limit.loss).all()
    with pytest.raises(InvalidValueError, match="`dtype` float32 is too coarse"):
        solve(X, Y, 3, depth=4, tolerance=0.01, kernels=False, dtype="float32")
