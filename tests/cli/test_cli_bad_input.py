"""Bad input is one clear line on standard error and exit code 2; nothing is lost and nothing is left behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from isoscale.runs import Store

Run = Callable[..., tuple[int, str, str]]


def _refused(result: tuple[int, str, str], *said: str) -> None:
    code, _, errors = result
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    for words in said:
        assert words in errors


@pytest.mark.parametrize("verb", ["transfer", "sweep"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rule dept-mup", "no rule named 'dept-mup'. Nearest: depth-mup"),
        ("--optimizer adamx", "no optimizer named 'adamx'. Nearest: adam"),
        ("--dataset cifar-10", "no data set named 'cifar-10'. Nearest: cifar10"),
        ("--model residual-mpl", "no model named 'residual-mpl'. Nearest: residual-mlp"),
        ("--phi rel", "named 'rel'. Nearest: relu"),
        ("--depths 0 1", "`depths` must be >= 1, got 0"),
        ("--depths", "`depths` is empty: give at least one"),
        ("--lrs", "`lrs` is empty: give at least one"),
        ("--lrs 0", "`lrs` must be positive and finite, got 0.0"),
        ("--log2-lr 0 -1", "a log2 grid needs"),
        ("--log2-lr 0 5000", "a log2 grid needs"),
        ("--per-octave 0", "`per_octave` must be >= 1, got 0"),
        ("--seeds 0", "`seeds` must be >= 1, got 0"),
        (
            "--dataset digits --batch-size 2000",
            "`batch_size` must be at most the 1438 training samples of digits, got 2000",
        ),
        ("--base-depth 0", "`base_depth` must be >= 1, got 0"),
        ("--optimizer adam --momentum 0.9", "`momentum` is not an option of adam"),
        ("--weight-decay -1", "`weight_decay` must be >= 0, got -1.0"),
        ("--batches 1", "`batches` is not an option of data set 'synthetic'"),
        ("--dataset cifar10", "data set 'cifar10' needs `folder` (--data)"),
        ("--dataset mnist --data nowhere", "nowhere: No such file or directory"),
        ("--model gpt", "model gpt takes tokens, data set synthetic has images"),
        ("--model conv-net --model-args kernel 5 --dataset synthetic --dataset-args size 4", "`kernel` 5 is larger"),
        ("--model vit --widths 20", "`width` must be a multiple of `head_size` 16, got 20"),
        ("--model gpt --norm none --dataset text", "every block of gpt has a norm, layer or rms"),
        ("--model conv-net --norm layer", "`norm` of a conv net must be batch or None, got 'layer'"),
        ("--model conv-net --block-depth 2", "no option of conv-net named 'block_depth'"),
        ("--model-args phi relu --phi gelu", "`phi` is given twice: by `--phi` and by `--model-args`"),
        ("--dataset synthetic --dataset-args accuracy 2", "`accuracy` must be between chance, 1/10, and 1, got 2"),
        ("--workers 0", "`workers` must be >= 1, got 0"),
        ("--device abacus", "`device` 'abacus' cannot be used"),
        ("--config missing.toml", "missing.toml"),
        ("--config other.toml --steps 7", "`--steps` cannot be given beside --config: put it into other.toml"),
    ],
)
def test_one_line(isoscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, flags: str, said: str):
    monkeypatch.delenv("ISOSCALE_DATA", raising=False)
    _refused(isoscale(verb, *flags.split()), said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--depths 4", "several depths, widths, batch sizes or steps, at least two"),
        ("--widths 8 16 --depths 1 2", "not along width and depth: give several of one"),
        ("--depths 2 4 --base-depth 3", "`base` depth 3 is not among the depths 2, 4"),
    ],
)
def test_a_transfer_that_asks_nothing(isoscale: Run, flags: str, said: str):
    _refused(isoscale("transfer", *flags.split()), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("depth = [4]", "no setting of a sweep named 'depth'. Nearest: depths"),
        ("depths = [0]", "`depths` must be >= 1, got 0"),
        ('depths = "4"', "`depths` must be a list, got '4'"),
        ("depths = [", "cannot read the sweep `grid.toml`"),
    ],
)
def test_a_bad_file(isoscale: Run, tmp_path: Path, text: str, said: str):
    (tmp_path / "grid.toml").write_text(text)
    _refused(isoscale("sweep", "--config", "grid.toml"), said)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_store_from_a_newer_isoscale(isoscale: Run, tmp_path: Path, grid: list[str], dry: list[str]):
    Store(tmp_path / "isoscale.db").close()
    db = sqlite3.connect(tmp_path / "isoscale.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / "isoscale.db").read_bytes()
    _refused(isoscale("sweep", *grid, *dry), "`isoscale.db` was written by a newer isoscale", "upgrade isoscale")
    assert (tmp_path / "isoscale.db").read_bytes() == before


def test_a_store_that_is_none(isoscale: Run, tmp_path: Path, grid: list[str]):
    (tmp_path / "notes.txt").write_text("not a database\n" * 100)
    _refused(isoscale("sweep", *grid, "--store", "notes.txt"), "cannot use the store `notes.txt`", "not a database")
    assert (tmp_path / "notes.txt").read_text() == "not a database\n" * 100


@pytest.mark.parametrize("store", [".", "missing/s.db", "file/s.db", "/proc/s.db", "x" * 300], ids=lambda s: s[:12])
def test_a_store_that_cannot_be_written(isoscale: Run, tmp_path: Path, grid: list[str], store: str):
    """We may be root, who can write into any folder but these."""
    (tmp_path / "file").touch()
    _refused(isoscale("sweep", *grid, "--store", store), f"cannot use the store `{store}`", "--store")


def test_a_path_is_printed_as_it_is(isoscale: Run, grid: list[str]):
    """Neither markup nor emoji to the console that prints it."""
    store = "missing/[bold]:smile:[/].db"
    _refused(isoscale("sweep", *grid, "--store", store), f"`{store}`")


@pytest.mark.parametrize("flags", ["sweep --norm batch", "sweep --steps many", "sweeep", "sweep --unknown 1"])
def test_a_flag_that_cannot_be_read(isoscale: Run, tmp_path: Path, flags: str):
    code, _, errors = isoscale(*flags.split())
    assert code == 2
    assert errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
