"""`simulate`: a residual network of given width and depth, exactly in law, without its weight matrices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoscale.checks import check_memory, whole
from isoscale.limit import activations, inputs, losses, results
from isoscale.limit.memory import lazy_bytes
from isoscale.limit.network import Problem, Size, run
from isoscale.limit.noise import GaussianNoise, Noise
from isoscale.limit.progress import Progress

if TYPE_CHECKING:
    import xarray as xr


def simulate(
    x: Any,
    y: Any,
    width: int = 1024,
    depth: int = 16,
    steps: int = 10,
    lr: float = 0.15,
    phi: activations.Phi = "tanh",
    horizon: float = 1.0,
    seed: int = 0,
    backward_weights: str = "reused",
    train_ends: bool = True,
    loss: losses.Loss = "mse",
    *,
    x_test: Any = None,
    batches: Sequence[Sequence[int]] | None = None,
    kernels: inputs.Kernels = True,
    rank_tolerance: float = 1e-12,
    dtype: str = "float64",
    device: str = "cpu",
    block_depth: int = 1,
    alpha: float = 0.5,
    beta: float = 0.5,
    rule: str | None = None,
    norm: str | None = None,
    optimizer: str = "sgd",
    betas: Sequence[float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: inputs.Schedule = None,
    progress: Progress = None,
) -> xr.Dataset:
    """One network of this width and depth at initialisation and in training, drawn exactly in law.

    The residual network of docs/theory.md, section 1, with blocks of one layer under depth-muP (Yao, Wu, Gao, arXiv
    2512.21075), or of section 9.1, with deeper ones under any depth rule. Simulated as in section 3: same mean and
    spread over seeds as a network with explicit weights. Time is about 12 width depth block_depth (steps samples)^2
    flops; beyond (steps + 1) samples = width / 8 the matrices are explicit.

    Args:
        x: Inputs, shape (samples, features). Their norm is used as given: h_0 = U x / sqrt(features).
        y: Targets, shape (samples,) or (samples, outputs). For cross-entropy integer classes or class probabilities.
        width: n, the number of units of the residual stream.
        depth: L, the number of residual blocks.
        steps: Updates. Step 0 is initialisation, so step axes have steps + 1 entries.
        lr: eta, free of width and depth. Under optimizers other than SGD, whose updates have a size of their own, the
            entries of U (h_0 = U x / sqrt(features)) and v move by about lr a step, those of the matrices by lr
            depth^(beta - 1) / width, and their singular values under muon by lr depth^(beta - 1).
        phi: "tanh", "relu", "gelu", "erf" (of slope 1 at 0), "linear" or another of torch's activations by name, an
            elementwise function, or a pair (function, derivative).
        horizon: T: branches are multiplied by sqrt(T / depth).
        seed: The same seed gives the same numbers; torch's global generator is left alone.
        backward_weights: "reused": backpropagation. "independent": the backward pass uses an independent copy of
            each matrix that receives the same updates (docs/theory.md, section 2).
        train_ends: Whether the input weights U and the readout v are trained too.
        loss: "mse" (mean over samples of the sum over outputs of (f - y)^2 / 2), "cross-entropy", or a function of the
            outputs and targets, tensors of shape (samples,) or (samples, outputs), to a number: a mean over samples if
            there are `batches`. It is differentiated by autograd.
        x_test: Inputs whose predictions are carried along, never trained on.
        batches: The sample indices of each step's mini-batch; all samples at each step if None.
        kernels: Whether to record kernels; or the layer times in [0, 1] at which to.
        rank_tolerance: Directions with less than this share of a vector's squared norm are not sampled on their own.
        dtype: "float64" or "float32".
        device: A torch device.
        block_depth: Layers of a residual block: 1, or as many maps with phi between them.
        alpha, beta: Exponents of the depth rule of blocks of two layers and more, in [0, 1] and [1/2, 1]; alpha changes
            nothing.
        rule: Or its name: "depth-mup" (beta 1/2), "completep" (beta 1), "residual-family(ALPHA,BETA)" or
            "depth-mup-corrected".
        norm: Before each branch: "rms" or "layer"; None: none.
        optimizer: "sgd", "adam" or "adamw", "lion", or "muon" (torch's, of the matrices; U and v by Adam at the same
            lr). Those that act on the entries of matrices, all but sgd and muon, keep explicit ones: time and memory
            go like width^2 depth.
        betas: Of adam, adamw and lion, and of muon's Adam; None: (0.9, 0.999), lion's (0.9, 0.99). Adam's eps is 1e-8,
            for gradients that depend on neither width nor depth.
        momentum: Of SGD, as torch's heavy ball, and of muon.
        nesterov: Whether it looks ahead, as torch's.
        weight_decay: Decoupled: each step multiplies the weights by 1 - lr weight_decay. The input and output layers
            decay too if they are trained.
        clip: The largest norm of the gradients of all blocks' matrices together, each matrix in units in which its
            learning rate is `lr`: free of width and depth. What is beyond shrinks all gradients, those of the input and
            output layers too.
        schedule: "constant", "cosine", "linear" or "wsd", as in sweeps, or by what each step multiplies `lr`; None:
            constant.
        progress: Called with the fraction done after each step.

    Returns:
        Dataset with loss(step), prediction(step, sample[, output]), target, test_prediction if `x_test`, and unless
        `kernels` is False feature_kernel = <u, u> of what the next block's last matrix is applied to (phi(h) in blocks
        of one layer; at time 1 of deeper ones that of the last block), stream_kernel = <h, h>, gradient_kernel =
        <g, g> and cross_kernel = <h, g>, each (step, time, sample, sample2), and displacement = <h^k - h^0, h^k -
        h^0>(step, time, sample). attrs: depths, particles (the width), rank, seconds, diverged_step (-1: none; else the
        arrays are NaN from that step) and the settings.

    Raises:
        InvalidValueError: A value makes no sense, or the run needs more memory than there is.
        InvalidTypeError: An argument cannot be used.

    >>> run = simulate([[1.0, 0.0], [0.0, 1.0]], [1.0, -1.0], width=64, depth=4, steps=2, seed=1)
    >>> run.prediction.dims, run.feature_kernel.shape, run.sizes["step"]
    (('step', 'sample'), (3, 5, 2, 2), 3)
    """
    problem = inputs.problem(
        x,
        y,
        x_test=x_test,
        steps=steps,
        lr=lr,
        phi=phi,
        horizon=horizon,
        loss=loss,
        train_ends=train_ends,
        batches=batches,
        blocks=inputs.architecture(block_depth, alpha, beta, rule, norm),
        optimizer=optimizer,
        betas=betas,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        clip=clip,
        schedule=schedule,
        dtype=dtype,
        device=device,
    )
    depth = whole("depth", depth)
    size = Size(
        n=whole("width", width),
        depth=depth,
        reused=inputs.mode(backward_weights),
        tolerance=inputs.positive("rank_tolerance", rank_tolerance, zero=True),
        kernel_layers=inputs.kernel_layers(kernels, depth),
    )
    check_memory(lazy_bytes(problem, size), "Use a smaller `width` or `depth`, fewer steps, or dtype='float32'.")
    noise = GaussianNoise(whole("seed", seed, least=0), like=problem.gram)
    settings = results.settings(problem, lr=lr, phi=phi, backward_weights=backward_weights, loss=loss)
    settings["seed"] = seed
    settings["dtype"] = dtype
    return single_run(problem, size, noise, settings, progress)


def single_run(
    problem: Problem, size: Size, noise: Noise, settings: dict[str, Any], progress: Progress = None
) -> xr.Dataset:
    """Dataset of one replica."""
    begin = time.perf_counter()
    history = run(problem, size, noise, progress)
    arrays = results.arrays(history, problem)
    values = {name: value[0] for name, value in arrays.items()}
    attrs = {
        "depths": [size.depth],
        "particles": size.n,
        "rank": history.rank,
        "diverged_step": results.diverged_step(history.diverged),
        "seconds": time.perf_counter() - begin,
        **settings,
    }
    times = np.array(size.kernel_layers) / size.depth
    return results.dataset(values, problem, times, attrs)
