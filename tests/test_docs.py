"""The Python of every page of docs/ runs as it stands there, block after block in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

import isoscale
from isoscale.testing import inline

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md")])
RESULTS = sorted(DOCS.glob("results/**/*.md"))
REFERENCE = sorted(DOCS.glob("api/*.md"))
# What a page may need beyond isoscale's own dependencies.
OPTIONAL = ("transformers", "mup")


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run(page: Path) -> dict:
    names: dict = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Pages write files, draw weights and data as their readers do, and sweep."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(), inline():
        torch.manual_seed(0)
        yield tmp_path


def _scale_my_model(names: dict, printed: str) -> None:
    """The factor of the tied readout, and that roles given by hand are those that were found."""
    assert "{'lm_head.input_multiplier': 0.25}" in printed
    assert names["traced"].diff(names["hand"]).query("what == 'lr'").empty


def _coming_from_mup(names: dict, printed: str) -> None:
    """With and without mup's readout the invariants agree, and CompleteP written out asks for nothing."""
    assert "{'readout.weight': (1.0, 0.25)}\n" in printed
    assert "{(1.0, 0.25)}\n{1.0}\n" in printed
    for kept, plain in zip(names["kept"].entries, names["plain"].entries, strict=True):
        forward = 0.25 if kept.name == "readout.weight" else 1.0
        assert forward * kept.lr == pytest.approx(plain.lr)
        assert kept.lr * kept.weight_decay == pytest.approx(plain.lr * plain.weight_decay)
        assert kept.eps == pytest.approx(forward * plain.eps)


# What a page says that its code gives, beside running.
CLAIMS = {"scale-my-model": _scale_my_model, "coming-from-mup": _coming_from_mup}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_page_runs(page, scratch, capsys):
    for name in OPTIONAL:
        if any(re.search(rf"^(import|from) {name}\b", text, flags=re.MULTILINE) for text in blocks(page)):
            pytest.importorskip(name)
    names = run(page)
    CLAIMS.get(page.stem, lambda *_: None)(names, capsys.readouterr().out)


@pytest.mark.parametrize("page", [*PAGES, *RESULTS, *REFERENCE, *DOCS.parent.glob("*.md")], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_choose_a_rule_names_every_rule():
    text = next(page for page in PAGES if page.stem == "choose-a-rule").read_text()
    assert [name for name in isoscale.rules.names() if f"| `{name}` |" not in text] == []


def test_the_reference_has_every_public_name():
    text = "\n".join(page.read_text() for page in REFERENCE)
    public = [f"isoscale.{name}" for name in isoscale.__all__ if not isinstance(getattr(isoscale, name), ModuleType)]
    for room in (isoscale.rules, isoscale.laws, isoscale.errors, isoscale.limit):
        for name, value in vars(room).items():
            if getattr(value, "__module__", "").startswith("isoscale.") and not name.startswith("_"):
                public.append(f"{room.__name__}.{name}")
    for room in (isoscale.measure, isoscale.models, isoscale.data, isoscale.reproduce):
        public += [f"{room.__name__}.{name}" for name in room.__all__]
    left_out = {"isoscale.measure.parametrize", "isoscale.errors.unknown", "isoscale.rules.Role"}  # said elsewhere
    missing = [name for name in public if f"::: {name}\n" not in text and name not in left_out]
    assert missing == []


def test_every_page_is_in_the_navigation():
    listed = set()
    for pattern in re.findall(r"[\w/.*-]+\.md", (DOCS / ".nav.yml").read_text()):
        listed.update(DOCS.glob(pattern))
    assert set(DOCS.rglob("*.md")) <= listed


def test_one_version_stands_everywhere():
    root = DOCS.parent
    newest = re.search(r"^## (\S+), (\S+)$", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    cited = (root / "CITATION.cff").read_text()
    assert newest is not None
    assert newest.group(1) == isoscale.__version__
    assert f"\nversion: {isoscale.__version__}\ndate-released: {newest.group(2)}\n" in cited
