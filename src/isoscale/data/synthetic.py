"""Classes of known difficulty: Gaussian clouds whose best possible accuracy is chosen, not guessed.

A sample of class y is x = s q_y + g with orthonormal q_1 ... q_K, g standard Gaussian over all pixels. The best
classifier takes the largest q_k.x and is right with probability E[Phi(g + s)^(K-1)], g ~ N(0, 1), from which `s`
follows.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from isoscale.data.dataset import Dataset
from isoscale.errors import InvalidTypeError, InvalidValueError

# Beyond this the probability is 1 or 1/K in double precision.
_FARTHEST = 40.0


def synthetic(
    *,
    accuracy: float = 0.9,
    label_noise: float = 0.0,
    classes: int = 10,
    channels: int = 1,
    size: int = 8,
    train: int = 2000,
    test: int = 1000,
    seed: int = 0,
) -> Dataset:
    """Gaussian classes of images (samples, channels, size, size), as many of each class as of every other.

    Args:
        accuracy: What the best possible classifier reaches, above chance and below 1, before label noise.
        label_noise: Share of the labels of both splits that are drawn anew, uniformly from all classes.
        classes: How many, at most as many as a sample has pixels.
        channels, size: Of an image; its height and width are `size`.
        train, test: Samples of each split.
        seed: Of everything drawn.

    Raises:
        InvalidTypeError: A count that is no whole number.
        InvalidValueError: A value that makes no sense.

    >>> synthetic(train=40, test=20)
    Dataset('synthetic', train=(40, 1, 8, 8), test=(20, 1, 8, 8), classes=10)
    """
    _check(accuracy, label_noise, classes, channels, size, train, test, seed)
    generator = np.random.default_rng(seed)
    pixels = channels * size**2
    frame = np.linalg.qr(generator.standard_normal((pixels, classes)))[0].T * separation(accuracy, classes)
    shape = (channels, size, size)
    (train_x, train_y), (test_x, test_y) = (_draw(generator, frame, n, label_noise, shape) for n in (train, test))
    # Each channel as `load` promises: mean 0 and standard deviation 1 over the training images.
    mean, std = train_x.mean((0, 2, 3), keepdims=True), train_x.std((0, 2, 3), keepdims=True)
    reachable = accuracy * (1 - label_noise) + label_noise / classes
    return Dataset(
        name="synthetic",
        note=f"{train:,} training samples, {test:,} test samples; the best accuracy there is: {reachable:.4g}",
        classes=classes,
        train_x=torch.from_numpy(((train_x - mean) / std).astype(np.float32)),
        train_y=torch.from_numpy(train_y),
        test_x=torch.from_numpy(((test_x - mean) / std).astype(np.float32)),
        test_y=torch.from_numpy(test_y),
    )


def separation(accuracy: float, classes: int) -> float:
    """The distance s of each class from the origin, at which the best classifier is right so often.

    >>> round(separation(0.9, 2) / 2**0.5, 6)  # two classes: accuracy = Phi(s / sqrt(2)), Phi(1.281552) = 0.9
    1.281552
    """
    from scipy.special import ndtr

    # 80 nodes integrate the smooth step's powers to machine precision at these scales.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    low, high = 0.0, _FARTHEST
    while (middle := (low + high) / 2) not in (low, high):  # bisection, to the last bit
        right = float(weights @ ndtr(nodes + middle) ** (classes - 1))
        low, high = (middle, high) if right < accuracy else (low, middle)
    return high


def _draw(
    generator: np.random.Generator,
    means: Float[np.ndarray, "classes pixels"],
    samples: int,
    label_noise: float,
    shape: tuple[int, ...],
) -> tuple[Float[np.ndarray, "samples channels height width"], Int[np.ndarray, " samples"]]:
    classes = len(means)
    labels = np.arange(samples, dtype=np.int64) % classes
    x = means[labels] + generator.standard_normal((samples, means.shape[1]))
    anew = generator.random(samples) < label_noise
    labels = np.where(anew, generator.integers(classes, size=samples), labels)
    return x.reshape(samples, *shape), labels


def _check(accuracy: float, label_noise: float, classes: int, *counts: int) -> None:
    channels, size, train, test, seed = counts
    named = {"classes": classes, "channels": channels, "size": size, "train": train, "test": test, "seed": seed}
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidTypeError(f"`{name}` must be a whole number, got {value!r}")
        least = {"classes": 2, "seed": 0}.get(name, 1)
        if value < least:
            raise InvalidValueError(f"`{name}` must be >= {least}, got {value}")
    if not 1 / classes < accuracy < 1:
        raise InvalidValueError(f"`accuracy` must be between chance, 1/{classes}, and 1, got {accuracy}")
    if not 0 <= label_noise <= 1:
        raise InvalidValueError(f"`label_noise` must be in [0, 1], got {label_noise}")
    if classes > channels * size**2:
        raise InvalidValueError(f"`classes` must be at most the {channels * size**2} pixels of a sample, got {classes}")
