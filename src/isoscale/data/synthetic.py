"""Classes of known difficulty: Gaussian clouds whose best possible accuracy is chosen, not guessed.

A sample of class y is x = s q_y + g with orthonormal q_1 ... q_K, g standard Gaussian over all pixels. The best
classifier takes the largest q_k.x and is right with probability E[Phi(g + s)^(K-1)], g ~ N(0, 1), from which `s`
follows.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from isoscale import checks
from isoscale.data.dataset import Dataset
from isoscale.errors import InvalidValueError

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
    orthonormal, _ = np.linalg.qr(generator.standard_normal((pixels, classes)))
    means = orthonormal.T * separation(accuracy, classes)  # (classes, pixels): s q_k
    shape = (channels, size, size)
    train_x, train_y = _draw(generator, means, train, label_noise, shape)
    test_x, test_y = _draw(generator, means, test, label_noise, shape)

    # Each channel as `load` promises: mean 0 and standard deviation 1 over the training images.
    mean = train_x.mean((0, 2, 3), keepdims=True)
    std = train_x.std((0, 2, 3), keepdims=True)
    train_x = (train_x - mean) / std
    test_x = (test_x - mean) / std
    # A label drawn anew is the old one in one of `classes` cases.
    reachable = accuracy * (1 - label_noise) + label_noise / classes
    return Dataset(
        name="synthetic",
        note=f"{train:,} training samples, {test:,} test samples; the best accuracy there is: {reachable:.4g}",
        classes=classes,
        train_x=torch.from_numpy(train_x.astype(np.float32)),
        train_y=torch.from_numpy(train_y),
        test_x=torch.from_numpy(test_x.astype(np.float32)),
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

    # Bisection, until no number lies between the ends.
    low, high = 0.0, _FARTHEST
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        not_larger = ndtr(nodes + middle)
        right = float(weights @ not_larger ** (classes - 1))
        if right < accuracy:
            low = middle
        else:
            high = middle


def _draw(
    generator: np.random.Generator,
    means: Float[np.ndarray, "classes pixels"],
    samples: int,
    label_noise: float,
    shape: tuple[int, ...],
) -> tuple[Float[np.ndarray, "samples channels height width"], Int[np.ndarray, " samples"]]:
    classes = len(means)
    labels = np.arange(samples, dtype=np.int64) % classes
    noise = generator.standard_normal((samples, means.shape[1]))
    x = means[labels] + noise
    # Drawn for every sample, so that more label noise changes no sample.
    anew = generator.random(samples) < label_noise
    drawn = generator.integers(classes, size=samples)
    labels = np.where(anew, drawn, labels)
    return x.reshape(samples, *shape), labels


def _check(
    accuracy: float,
    label_noise: float,
    classes: int,
    channels: int,
    size: int,
    train: int,
    test: int,
    seed: int,
) -> None:
    checks.whole("classes", classes, least=2)
    checks.whole("channels", channels)
    checks.whole("size", size)
    checks.whole("train", train)
    checks.whole("test", test)
    checks.whole("seed", seed, least=0)
    if not 1 / classes < accuracy < 1:
        raise InvalidValueError(f"`accuracy` must be between chance, 1/{classes}, and 1, got {accuracy}")
    if not 0 <= label_noise <= 1:
        raise InvalidValueError(f"`label_noise` must be in [0, 1], got {label_noise}")
    # More orthonormal q_k do not exist.
    pixels = channels * size**2
    if classes > pixels:
        raise InvalidValueError(f"`classes` must be at most the {pixels} pixels of a sample, got {classes}")
