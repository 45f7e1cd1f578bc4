"""Folders too large for the memory: the same data set through the cache, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from folders import CLASSES, KINDS, fill
from PIL import Image
from published import pixels

from isoscale.data import Dataset, audio_folder, cache, decoded, image_folder, load
from isoscale.errors import DataError

READERS = {"image-folder": image_folder, "audio-folder": audio_folder}
OPTIONS = {"image-folder": {"size": 3}, "audio-folder": {"length": 20}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, and everything is too large for the memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "IN_MEMORY_BYTES", 0)
    return tmp_path / "cache" / "isoscale"


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A kind of folder; one of it lies in `tmp_path / "data"`."""
    suffix, write = KINDS[request.param]
    fill(tmp_path / "data" / "train", suffix, write, 4)
    fill(tmp_path / "data" / "test", suffix, write, 2, first=50)
    return request.param


@contextmanager
def counted(name: str) -> Iterator[list[Path]]:
    """The files that are decoded meanwhile."""
    read, done = READERS[name]._read, []

    def counting(path: Path, *options: object) -> object:
        done.append(path)
        return read(path, *options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(READERS[name], "_read", counting)
        yield done


def contents(home: Path) -> list[str]:
    """What the cache has, leftovers too."""
    return sorted(path.name for path in home.iterdir()) if home.exists() else []


def in_memory(name: str, folder: Path, **options: object) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoded, "IN_MEMORY_BYTES", 2**40)
        return load(name, folder, **options)


@pytest.mark.parametrize("some", [False, True], ids=["as they are", "with options"])
def test_the_same_data_set_through_the_cache_and_without(home: Path, tmp_path: Path, name: str, some: bool) -> None:
    options = OPTIONS[name] if some else {}
    ours, theirs = load(name, tmp_path / "data", **options), in_memory(name, tmp_path / "data", **options)
    assert ours.fingerprint == theirs.fingerprint
    # Hashed again from what lies in the files.
    assert dataclasses.replace(ours).fingerprint == theirs.fingerprint
    assert ours.flatten().fingerprint == theirs.flatten().fingerprint
    assert (repr(ours), ours.note) == (repr(theirs), theirs.note)
    (kept,) = contents(home)
    assert sorted(path.name for path in (home / kept).iterdir()) == [
        "dataset.json", "test_x.npy", "test_y.npy", "train_x.npy", "train_y.npy",
    ]  # fmt: skip
    assert load("arrays", home / kept).fingerprint == theirs.fingerprint


def test_what_is_small_makes_no_file(home: Path, tmp_path: Path, name: str) -> None:
    in_memory(name, tmp_path / "data")
    assert contents(home) == []


def test_a_later_run_decodes_nothing(home: Path, tmp_path: Path, name: str) -> None:
    with counted(name) as done:
        load(name, tmp_path / "data")
    assert len(set(done)) == 18
    with counted(name) as done:
        load(name, tmp_path / "data")
    assert len(set(done)) == 1  # the first, for its shape


def test_a_file_that_changes_is_seen_and_the_old_numbers_go(home: Path, tmp_path: Path, name: str) -> None:
    """Even if it brings its size and its time of writing along, as from an archive."""
    old = load(name, tmp_path / "data")
    suffix, write = KINDS[name]
    path = tmp_path / "data" / "train" / "bee" / f"001{suffix}"
    before = path.stat()
    same_size = next(seed for seed in range(1000, 2000) if write(path, seed=seed).stat().st_size == before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = load(name, tmp_path / "data")
    assert new.fingerprint != old.fingerprint, same_size
    assert new.fingerprint == in_memory(name, tmp_path / "data").fingerprint
    assert len(contents(home)) == 1
    assert dataclasses.replace(old).fingerprint == old.fingerprint  # who mapped it keeps it
    load(name, tmp_path / "data", **OPTIONS[name])
    assert len(contents(home)) == 2


def test_equal_names_in_another_folder_are_other_files(home: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert load(name, tmp_path / "copy").fingerprint == load(name, tmp_path / "data").fingerprint
    assert len(contents(home)) == 2


def test_damaged_files_are_named_and_nothing_is_kept(home: Path, tmp_path: Path, name: str) -> None:
    suffix, _ = KINDS[name]
    for split in ("test", "train"):
        path = tmp_path / "data" / split / "bee" / f"001{suffix}"
        path.write_bytes(path.read_bytes()[:30])
        with pytest.raises(DataError, match="is damaged: ") as ours:
            load(name, tmp_path / "data")
        with pytest.raises(DataError) as theirs:
            in_memory(name, tmp_path / "data")
        assert str(ours.value) == str(theirs.value)
        assert str(path) in str(ours.value)
        assert contents(home) == []


def test_constant_files_are_refused_in_the_same_words(home: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in CLASSES:
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / split / label / "a.png")
    for read in (load, in_memory):
        with pytest.raises(DataError, match="'image-folder' have a channel that is 9 everywhere"):
            read("image-folder", tmp_path)
    assert contents(home) == []


@pytest.mark.parametrize("spoil", ["cut", "taken away", "no fingerprint"])
def test_a_cache_that_was_damaged_is_made_again(home: Path, tmp_path: Path, name: str, spoil: str) -> None:
    fingerprint = load(name, tmp_path / "data").fingerprint
    (kept,) = contents(home)
    if spoil == "cut":
        os.truncate(home / kept / "train_x.npy", 200)
    elif spoil == "taken away":
        (home / kept / "test_x.npy").unlink()
    else:
        (home / kept / "dataset.json").write_text('{"classes": 3, "note": ""}')
    again = load(name, tmp_path / "data")
    assert again.fingerprint == dataclasses.replace(again).fingerprint == fingerprint
    assert contents(home) == [kept]


# --- whatever happens on the way ---
def during(name: str, at: int, act: Callable[[], object]) -> AbstractContextManager[None]:
    """Does something while a folder is decoded, before the file of that number."""

    @contextmanager
    def patched() -> Iterator[None]:
        read, count = READERS[name]._read, iter(range(10**6))

        def acting(path: Path, *options: object) -> object:
            if next(count) == at:
                act()
            return read(path, *options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(READERS[name], "_read", acting)
            yield

    return patched()


def test_two_that_decode_at_once_do_not_mind(home: Path, tmp_path: Path, name: str) -> None:
    others: list[Dataset] = []
    with during(name, 10, lambda: others.append(load(name, tmp_path / "data"))):
        ours = load(name, tmp_path / "data")
    assert [other.fingerprint for other in others] == [ours.fingerprint]
    assert dataclasses.replace(ours).fingerprint == ours.fingerprint
    assert len(contents(home)) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12's, of a process with threads
def test_a_killed_process_leaves_no_half(home: Path, tmp_path: Path, name: str) -> None:
    child = os.fork()
    if child == 0:
        with during(name, 10, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            load(name, tmp_path / "data")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = contents(home)
    assert left.endswith(".part")
    fingerprint = in_memory(name, tmp_path / "data").fingerprint
    assert load(name, tmp_path / "data").fingerprint == fingerprint
    # Another may still write it; a day later nobody does.
    assert left in contents(home)
    yesterday = time.time() - 90_000
    for path in (*(home / left).iterdir(), home / left):
        os.utime(path, (yesterday, yesterday))
    load(name, tmp_path / "data", **OPTIONS[name])
    assert left not in contents(home)
    assert len(contents(home)) == 2


def test_a_disk_that_fills_up_is_named_and_nothing_is_left(home: Path, tmp_path: Path) -> None:
    """The system itself ends the writing, after the levels and before the last array."""
    suffix, write = KINDS["image-folder"]
    fill(tmp_path / "data", suffix, lambda path, seed: write(path, seed, (40, 40)), 5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"File too large. Make room there, or set XDG_CACHE_HOME") as info:
            load("image-folder", tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(info.value).startswith(f"the cache folder {home} cannot hold the 0.3 MiB of image-folder: ")
    assert contents(home) == []


def test_a_disk_without_room_is_known_beforehand(
    home: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with counted(name) as done, pytest.raises(DataError, match=r"only 0.0 MiB are free"):
        load(name, tmp_path / "data")
    assert len(set(done)) == 1
    assert contents(home) == []


def test_a_cache_folder_that_cannot_be_is_named(home: Path, tmp_path: Path, name: str) -> None:
    home.parent.write_text("a file")
    with pytest.raises(DataError, match=f"the cache folder {home} cannot hold .*: Not a directory"):
        load(name, tmp_path / "data")


# --- memory ---
# One process does all: streamed first, since a peak only grows.
SCRIPT = """
import re, sys
from pathlib import Path
from isoscale.data import decoded, load
from isoscale.training import Member, Optimizer, Recipe, train

RECIPE = Recipe(model="conv-net", width=1, depth=1, base_width=1, base_depth=1, rule="sp", optimizer=Optimizer(),
                steps=2, batch_size=1, model_args={"kernel": 3})

def peak(folder, threshold):
    decoded.IN_MEMORY_BYTES = threshold
    data = load("image-folder", folder)
    train(RECIPE, [Member(0.1, 0)], data)
    print(data.fingerprint)
    # Not getrusage's: that one begins with the memory of the process that started this one.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

few, streamed = peak(sys.argv[1], 0), peak(sys.argv[2], 0)
whole = peak(sys.argv[2], 2**40)
print(streamed - few, whole - streamed)
"""


def write_squares(path: Path, seed: int, side: int) -> None:
    """A large image that compresses, and decodes, quickly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(8, 8, 3, seed=seed)).resize((side, side), Image.Resampling.NEAREST).save(path)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak")
def test_peak_memory_is_that_of_a_few_images(home: Path, tmp_path: Path) -> None:
    """A folder of 236 MB, decoded, loaded and trained on, against one of six images."""
    side, samples = 512, 75
    one = 4 * 3 * side**2
    for folder, count in (("few", 1), ("many", samples // len(CLASSES))):
        fill(tmp_path / folder / "train", ".png", lambda path, seed: write_squares(path, seed, side), count)
        fill(tmp_path / folder / "test", ".png", lambda path, seed: write_squares(path, seed, side), 1, first=50)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "few"), str(tmp_path / "many")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    _, ours, theirs, streamed, whole = done.stdout.split()
    assert ours == theirs
    assert int(streamed) < 10 * one
    assert int(whole) > (samples - 10) * one
