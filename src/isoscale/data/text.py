"""Text as tokens, a character or a byte each, cut into windows: x the tokens, y the next token at each position."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from isoscale import checks
from isoscale.data import files
from isoscale.data.dataset import Dataset
from isoscale.errors import DataError, InvalidValueError

Level = Literal["characters", "bytes"]

# Looked for in this order where no file is named: torchtext's and nanoGPT's names, then any one text.
NAMED = ("tinyshakespeare/input.txt", "input.txt")
_TRAIN_SHARE = 0.9
_BYTES = 256


def text(folder: Path, *, file: str | None = None, level: Level = "characters", context: int = 64) -> Dataset:
    """A text file as windows of tokens (windows, context); the first 90 % is for training, the rest for testing.

    Windows do not overlap, but for the one token that is the last label of one and the first input of the next. A
    rest shorter than a window is dropped. Characters are numbered in the order of their code points, those of the
    whole file; bytes are numbered 0 to 255.

    Args:
        folder: Has the file.
        file: Its name within the folder, without `.gz` or `.xz`; by default `tinyshakespeare/input.txt`,
            `input.txt`, or the only `.txt` file of the folder.
        level: "characters" (the file is UTF-8) or "bytes".
        context: Tokens of a window.

    Raises:
        InvalidValueError, InvalidTypeError: An option that makes no sense.
        DataError: No such file or several, unreadable, damaged, not UTF-8, or too short for one window a split.
    """
    if level not in get_args(Level):
        legal = " or ".join(get_args(Level))
        raise InvalidValueError(f"`level` must be {legal}, got {level!r}")
    context = checks.whole("context", context)
    path = _path(folder, file)
    unpacked = files.unpack(path)
    if unpacked.fault:
        raise files.damaged(path, unpacked.fault)
    tokens, classes = _tokens(path, unpacked.data, level)
    cut = int(_TRAIN_SHARE * len(tokens))
    train = tokens[:cut]
    test = tokens[cut:]
    # A window and the label of its last token.
    shorter = min(len(train), len(test))
    if shorter < context + 1:
        whole = len(tokens)
        raise DataError(f"{path} has {whole:,} {level}, too few for windows of `context` {context}")
    train_x, train_y = _windows(train, context)
    test_x, test_y = _windows(test, context)
    held_out = len(test)
    note = f"{path.name}: {cut:,} {level} for training and {held_out:,} for testing, windows of {context}"
    return Dataset(
        name="text",
        note=note,
        classes=classes,
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
    )


def _path(folder: Path, file: str | None) -> Path:
    if file is not None:
        path = files.find(folder, file)
        if path is None:
            wanted = files.any_of([file])
            raise DataError(f"no {wanted} in {folder}")
        return path
    path = files.find(folder, *NAMED)
    if path:
        return path
    found: list[Path] = []
    for suffix in files.SUFFIXES:
        found.extend(folder.glob(f"*.txt{suffix}"))
    if not found:
        wanted = files.any_of([*NAMED, "*.txt"])
        raise DataError(f"no text in {folder}. Looked for {wanted}. Name one with `file`")
    if len(found) > 1:
        names = [path.name for path in sorted(found)]
        there = ", ".join(names)
        raise DataError(f"several texts in {folder}: {there}. Choose one with `file`")
    return found[0]


def _tokens(path: Path, content: bytes, level: Level) -> tuple[Int64[np.ndarray, " tokens"], int]:
    if level == "bytes":
        values = np.frombuffer(content, np.uint8)
        return values.astype(np.int64), _BYTES
    try:
        characters = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start:,}. Read it with `level` 'bytes'"
        ) from error
    # Four bytes a character, each its code point.
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    alphabet, tokens = np.unique(points, return_inverse=True)
    return tokens.astype(np.int64), len(alphabet)


def _windows(
    tokens: Int64[np.ndarray, " tokens"], context: int
) -> tuple[Int64[Tensor, "windows context"], Int64[Tensor, "windows context"]]:
    count = (len(tokens) - 1) // context
    used = count * context
    # Copies: tensors that share memory would be one when somebody writes into them.
    x = tokens[:used].copy()
    y = tokens[1 : used + 1].copy()
    shape = (count, context)
    inputs = torch.from_numpy(x.reshape(shape))
    labels = torch.from_numpy(y.reshape(shape))
    return inputs, labels
