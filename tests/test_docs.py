"""The Python of every page of docs/ runs as it stands there, block after block in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import isoscale

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
RESULTS = sorted((Path(__file__).parent.parent / "docs/results").glob("*.md"))
# What a page may need beyond isoscale's own dependencies.
OPTIONAL = ("transformers",)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run(page: Path) -> dict:
    names: dict = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Pages write files, and draw weights and data as their readers do."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield tmp_path


def _scale_my_model(names: dict, printed: str) -> None:
    """The factor of the tied readout, and that roles given by hand are those that were found."""
    assert "{'lm_head.input_multiplier': 0.25}" in printed
    assert names["traced"].diff(names["hand"]).query("what == 'lr'").empty


# What a page says that its code gives, beside running.
CLAIMS = {"scale-my-model": _scale_my_model}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_page_runs(page, scratch, capsys):
    for name in OPTIONAL:
        if any(re.search(rf"^(import|from) {name}\b", text, flags=re.MULTILINE) for text in blocks(page)):
            pytest.importorskip(name)
    names = run(page)
    CLAIMS.get(page.stem, lambda *_: None)(names, capsys.readouterr().out)


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_choose_a_rule_names_every_rule():
    text = next(page for page in PAGES if page.stem == "choose-a-rule").read_text()
    assert [name for name in isoscale.rules.names() if f"| `{name}` |" not in text] == []
