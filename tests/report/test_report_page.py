"""The page: self-contained, escaped, repeatable, and complete or absent."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr

from isoscale import report

Made = Callable[..., xr.Dataset]
FIGURES = ("loss", "training", "optimum")
FILES = {"index.html", "transfer.nc"} | {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """What a browser would find: elements, their attributes, the words between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def values(self, *names: str) -> list[str]:
        """The values of the attributes of these names, in the order of the page."""
        return [attrs[name] for _, attrs in self.elements for name in names if name in attrs]


@pytest.fixture(scope="module")
def written(make_data: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of the data as they are."""
    return report.write(make_data(), tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written / "index.html")


def test_everything_is_written_and_nothing_else(data: xr.Dataset, tmp_path: Path) -> None:
    path = report.write(data, str(tmp_path / "deep" / "report"))
    assert path == tmp_path / "deep" / "report" / "index.html"
    assert {file.name for file in path.parent.iterdir()} == FILES
    assert path.with_name("loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_answers_before_anything_else(page: Page, data: xr.Dataset) -> None:
    body = page.text[page.text.index("Does the learning rate of depth 4") :]
    question, answer, figure, numbers = (
        body.index(part) for part in (data.question, data.answer, "Each curve is one depth", "The numbers")
    )
    assert question < answer < figure < numbers


@pytest.mark.parametrize(
    "part",
    [
        "isoscale transfer --depths 4 8 16 32",
        "1,437 training images",
        "528: 387 finished, 141 diverged, 0 failed",
        "torch 2.13.0",
        'dataset = "digits"',
        "does not transfer, not trainable at depth 32",
        "? cannot tell",
        "octaves, factors of two",
        "at most 2 % of the loss at depth 32's own rate",
        "not more than 2 % above that of depth 4",
        "no seed diverges there",
        "The table goes on to the right",
        "≥ 4",
        "drifts by \N{MINUS SIGN}3.0 octaves",
        "0.23 to 0.33",
    ],
)
def test_the_page_says(page: Page, part: str) -> None:
    assert part in page.text


def test_the_page_needs_no_network_and_no_script(page: Page) -> None:
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "base", "audio", "video", "source"}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert all(re.match(r"#|data:,$", value) for value in page.values("href", "src", "srcset", "xlink:href"))
    assert "metadata" not in page.tags
    assert [tag for tag, _ in page.elements].count("style") == 1
    style = "".join(page.words) + " ".join(page.values("style", "clip-path", "fill"))
    assert "@import" not in style
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))
    assert "http" not in page.text + " ".join(value for value in page.values("href", "xmlns", "style"))


def test_elements_close_in_order_and_ids_are_unique_and_found(page: Page) -> None:
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 100
    used = [value[1:] for value in page.values("href") if value.startswith("#")]
    used += re.findall(r"url\(#([^)]*)\)", " ".join(page.values("clip-path", "style", "fill")))
    assert used
    assert set(used) <= set(ids)


def test_every_figure_has_words_for_those_who_hear_it(page: Page) -> None:
    drawn = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(drawn) == 6
    assert all(attrs["role"] == "img" and "completep" in attrs["aria-label"] for attrs in drawn)


def test_every_colour_of_a_figure_has_another_in_the_dark(page: Page) -> None:
    style = next("".join(word) for word in page.words if "prefers-color-scheme: dark" in word)
    used = set(re.findall(r"var\((--c[0-9a-f]{6}),", " ".join(page.values("style"))))
    assert used
    assert used <= set(re.findall(r"(--c[0-9a-f]{6}): #[0-9a-f]{6};", style))
    assert not re.findall(r"(?<![,a-z])#[0-9a-f]{6}", " ".join(page.values("fill", "stroke")))


def test_the_runs_that_would_tell_stand_with_the_flag_that_does_them(
    page: Page, data: xr.Dataset, tmp_path: Path
) -> None:
    assert "--until-decided" not in page.text
    data.attrs["next_runs"] = '["lazy at 32: learning rates 5.7, 8, seeds 0, 1, 2 (larger ones may be better)"]'
    undecided = Page(report.write(data, tmp_path))
    assert "lazy at 32: learning rates 5.7, 8" in undecided.text
    assert "--until-decided" in undecided.text


def test_hostile_names_come_out_as_text(make_data: Made, tmp_path: Path) -> None:
    script, image = "<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'> & --> ]]>"
    data = make_data(
        rules={script: (-2.0, 0.0, 1.0, 2.0), image: (-2.0, -1.0, 1.0, 2.0)},
        dataset=script,
        dataset_note=image,
        **dict.fromkeys(("question", "answer", "model", "optimizer", "command", "spec", "created"), script + image),
    )
    data["reason"] = data.reason.astype("U200")
    data["reason"][:] = script
    page = Page(report.write(data, tmp_path))
    assert not page.tags & {"script", "img"}
    assert page.open == []
    assert page.text.count(script) > 10
    for name in FIGURES:
        tags = {element.tag for element in ElementTree.parse(tmp_path / f"{name}.svg").iter()}
        assert not [tag for tag in tags if tag.endswith(("script", "img"))]
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "transfer.nc"), data)


def test_the_numbers_come_back_and_give_the_same_bytes(written: Path, data: xr.Dataset, tmp_path: Path) -> None:
    loaded = xr.load_dataset(written / "transfer.nc")
    xr.testing.assert_identical(loaded, data)
    report.write(loaded, tmp_path)
    for name in FILES - {"transfer.nc"}:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_numbers_that_are_missing_infinite_or_text_come_back(make_data: Made, tmp_path: Path) -> None:
    data = make_data(rules={"µ-rule ü": (-2.0, -1.0, 1.0, 1.0)}, sizes=(4,))
    data["at_edge"] = data.at_edge.astype("U4").copy(data=np.full(data.at_edge.shape, ""))
    data["regret"][:] = np.inf
    report.write(data.assign_attrs(dataset_note=""), tmp_path)
    loaded = xr.load_dataset(tmp_path / "transfer.nc")
    xr.testing.assert_equal(loaded, data)
    assert loaded.attrs["dataset_note"] == ""
    assert loaded.attrs["question"] == data.question


def test_a_result_that_no_command_made_says_nothing_of_one(data: xr.Dataset, tmp_path: Path) -> None:
    del data.attrs["command"]
    page = Page(report.write(data, tmp_path))
    assert "Trials already in the store" not in page.text
    assert 'xarray.load_dataset("transfer.nc")' in page.text


def test_seeds_beyond_32_bits_are_kept(data: xr.Dataset, tmp_path: Path) -> None:
    data = data.assign_coords(seed=[1, 2**40 + 1, 2**52 + 1])
    page = Page(report.write(data, tmp_path))
    assert xr.load_dataset(tmp_path / "transfer.nc").seed.values.tolist() == data.seed.values.tolist()
    assert f"1, {2**40 + 1} and {2**52 + 1}" in page.text


@pytest.mark.parametrize(
    "shape",
    [
        {"axis": "width", "sizes": (64, 128)},
        {"rules": {"sp": (-2.0, 0.0, 1.0, 3.0)}, "sizes": (8,), "seeds": 1},
        {"rules": {"sp": (-20.0, 0.0, 1.0, 1.0)}},
    ],
    ids=["width", "one of each", "nothing trained"],
)
def test_pages_of_other_shapes(make_data: Made, tmp_path: Path, shape: dict) -> None:
    page = Page(report.write(make_data(**shape), tmp_path))
    assert page.open == []
    assert f"Each curve is one {shape.get('axis', 'depth')}" in page.text
