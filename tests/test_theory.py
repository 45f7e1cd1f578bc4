"""docs/theory.md says what the code says: every citation finds its section, and every table its numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from isoscale import rules
from isoscale.rules import Role
from isoscale.scaling.factors import Factors
from isoscale.scaling.optimizers import OPTIMIZERS, family

ROOT = Path(__file__).parent.parent
THEORY = (ROOT / "docs/theory.md").read_text(encoding="utf-8")
CODE = sorted(path for room in ("src", "tests", "benchmarks") for path in (ROOT / room).rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# This file has citations that lead nowhere, to be refused.
CITING = [path for path in [*CODE, *PAGES] if path != Path(__file__)]

# --- citations ----------------------------------------------------------------------------------------------------
# A citation may be broken by a line's end, an indent or the sign of a comment.
_SPACE = r"[\s#]+"
_NUMBER = r"\d+(?:\.\d+)?"
_NUMBERS = rf"(?P<numbers>{_NUMBER}(?:(?:,?{_SPACE}and{_SPACE}|,{_SPACE}){_NUMBER})*)"
_CITATION = re.compile(
    rf"(?:docs/theory\.md,{_SPACE}sections?{_SPACE}|THEORY(?:\.md)?{_SPACE}(?:sections?{_SPACE})?){_NUMBERS}"
)
# In code any mention is a citation; on a page the file may also be linked to as a whole, by its present name.
_MENTION = {".py": re.compile(r"docs/theory\.md|THEORY\.md|THEORY(?= )"), ".md": re.compile(r"THEORY\.md|THEORY(?= )")}


def cited(text: str) -> list[str]:
    """The numbers of the sections that a text cites."""
    found = []
    for citation in _CITATION.finditer(text):
        found += re.findall(_NUMBER, citation["numbers"])
    return found


def without_section(text: str, suffix: str) -> list[str]:
    """Mentions of the file that name no section, with what stands around them."""
    starts = {citation.start() for citation in _CITATION.finditer(text)}
    mentions = [mention.start() for mention in _MENTION[suffix].finditer(text)]
    return [text[max(0, at - 30) : at + 40] for at in mentions if at not in starts]


def headings(text: str) -> set[str]:
    """The numbers of the sections that a page has."""
    return set(re.findall(rf"^#{{2,3}} ({_NUMBER})\.? ", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Source: docs/theory.md, section 5.", ["5"]),
        ("(docs/theory.md, sections 1 and 4)", ["1", "4"]),
        ("docs/theory.md, sections 2, 4 and 6.", ["2", "4", "6"]),
        ("docs/theory.md, section 9.3 (kernels)", ["9.3"]),
        ("(THEORY.md section 6, last paragraph)", ["6"]),
        ("THEORY\n    # sections 1 and 3", ["1", "3"]),
        ("networks (THEORY 2 and 3).", ["2", "3"]),
        ("read docs/theory.md first, section by section", []),
    ],
)
def test_a_citation_is_understood(text, numbers):
    assert cited(text) == numbers
    assert (without_section(text, ".py") == []) == bool(numbers)


def test_sections_are_numbered_without_gaps():
    assert headings("# Page\n## 3. Title\n### 3.1 Part\n## Other\n") == {"3", "3.1"}
    sections = re.findall(r"^## (\d+)\.", THEORY, flags=re.MULTILINE)
    assert sections == [str(number) for number in range(11)]


def test_citations_are_found_at_all():
    assert sum(len(cited(path.read_text(encoding="utf-8"))) for path in CITING) > 50


@pytest.mark.parametrize("path", CITING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_citation_names_a_section_that_exists(path):
    text = path.read_text(encoding="utf-8")
    assert set(cited(text)) <= headings(THEORY)
    assert without_section(text, path.suffix) == []


def test_the_page_refers_to_its_own_sections():
    numbers = re.findall(rf"\bsections? ({_NUMBER})", THEORY)
    numbers += re.findall(r"\((\d+\.\d+)\)", THEORY)
    assert len(numbers) > 20
    assert set(numbers) <= headings(THEORY)


def test_the_page_names_files_that_exist():
    names = re.findall(r"`((?:tests|src|docs)/[\w/.-]+)`", THEORY)
    assert len(names) > 5
    assert [name for name in names if not (ROOT / name).exists()] == []


# --- tables -------------------------------------------------------------------------------------------------------
M, R = 4.0, 16.0
Table = list[dict[str, str]]


def table(text: str, *columns: str) -> Table:
    """The rows, by column, of the one markdown table that has these columns and more."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        head, _, *body = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        if set(columns) <= set(head):
            found.append([dict(zip(head, row, strict=True)) for row in body])
    assert len(found) == 1, f"{len(found)} tables have the columns {columns}"
    return found[0]


def power(ratio: str, cell: str, alpha: float = 0.0, beta: float = 0.0) -> float:
    """The exponent in a cell: 0 for `1`, 1 for `m`, -1/2 for `m^-1/2`, 2 beta - 1 for `r^(2 beta - 1)`."""
    if cell == "1":
        return 0.0
    match = re.fullmatch(rf"{ratio}(?:\^(?:(-?\d+(?:/\d+)?)|\(([-+ \w]+)\)))?", cell)
    assert match, f"no power of {ratio}: {cell!r}"
    if match[1]:
        return float(Fraction(match[1]))
    if match[2]:
        return eval(re.sub(r"(\d) (alpha|beta)", r"\1 * \2", match[2]), {"alpha": alpha, "beta": beta})
    return 1.0


def check_width(text: str) -> None:
    """Every cell of the width table, and that no table and no role is missing."""
    seen = []
    for row in table(text, "width table", "role", "init std"):
        rule = rules.get(row["width table"].strip("`"))
        sgd, adam = power("m", row["SGD lr"]), power("m", row["Adam lr"])
        muon = adam if row["Muon lr"] == "(Adam)" else power("m", row["Muon lr"])
        by_optimizer = {"sgd": sgd, "adam": adam, "adamw": adam, "sign": adam, "muon": muon}
        for role in row["role"].split(", "):
            seen.append((rule.name, role))
            assert (row["Muon lr"] == "(Adam)") == (role != Role.HIDDEN)
            for optimizer in OPTIMIZERS:
                found = rule.factors(Role(role), optimizer, width=M)
                where = f"{rule.name}, {role}, {optimizer}"
                assert found.init_std == pytest.approx(M ** power("m", row["init std"])), where
                assert found.multiplier == pytest.approx(M ** power("m", row["multiplier"])), where
                assert found.lr == pytest.approx(M ** by_optimizer[optimizer]), where
                if optimizer in ("adam", "adamw"):
                    assert found.eps == pytest.approx(M ** power("m", row["eps"])), where
    roles = {role.width_role for role in Role}
    assert sorted(seen) == sorted((name, str(role)) for name in ("sp", "ntp", "mup") for role in roles)


def check_depth_row(row: dict[str, str], rule: rules.Rule, alpha: float = 0.0, beta: float = 0.0) -> None:
    """Every cell of one rule's row."""

    def at(column: str) -> float:
        return R ** power("r", row[column], alpha, beta)

    everywhere = at("lr, every tensor")
    for optimizer in OPTIMIZERS:
        column = "SGD" if optimizer == "sgd" else "Adam"
        internal = rule.factors(Role.BRANCH_INTERNAL, optimizer, depth=R)
        last = rule.factors(Role.BRANCH_LAST, optimizer, depth=R)
        vector = rule.factors(Role.BRANCH_VECTOR, optimizer, depth=R)
        assert last.multiplier == pytest.approx(at("branch multiplier"))
        assert (internal.multiplier, vector.multiplier, vector.init_std) == (1.0, 1.0, 1.0)
        assert internal.init_std == pytest.approx(at("init std, internal"))
        assert last.init_std == pytest.approx(at("init std, last"))
        assert internal.lr == pytest.approx(everywhere * at(f"{column} lr, internal"))
        assert last.lr == vector.lr == pytest.approx(everywhere * at(f"{column} lr, last"))
        assert rule.factors(Role.INPUT, optimizer, depth=R).lr == pytest.approx(everywhere)
        on_stream = rule.factors(Role.STREAM_VECTOR, optimizer, depth=R)
        assert on_stream.lr == pytest.approx(everywhere * at("lr, stream vector"))
        assert (on_stream.multiplier, on_stream.init_std, on_stream.eps) == (1.0, 1.0, 1.0)
    for role in (Role.BRANCH_INTERNAL, Role.BRANCH_LAST, Role.BRANCH_VECTOR):
        assert rule.factors(role, "adamw", depth=R).eps == pytest.approx(at("branch multiplier"))
    assert rule.head_size == power("hd", row["logits"])
    named = rules.get(row["width table"].strip("`"))
    assert rule.width == named.width


def check_depth(text: str) -> None:
    """Every cell of the depth table, and that no rule is missing."""
    rows = {row["rule"].strip("`"): row for row in table(text, "rule", "branch multiplier")}
    family_row = rows.pop("residual-family(alpha,beta)")
    assert sorted(rows) == rules.names()
    for name, row in rows.items():
        check_depth_row(row, rules.get(name))
    for alpha, beta in ((0.5, 0.5), (0.5, 0.75), (0.75, 1.0), (0.25, 1.0)):
        check_depth_row(family_row, rules.residual_family(alpha, beta), alpha, beta)


def check_folding(text: str) -> None:
    """What a multiplier does to each family's numbers when it is folded."""
    c = 0.5
    rows = {row["family"].strip("`"): row for row in table(text, "family", "weight_decay", "eps")}
    assert sorted(rows) == sorted(OPTIMIZERS)
    for name, row in rows.items():
        folded = Factors(multiplier=c).fold(name)
        assert folded.init_std == c
        assert folded.lr == pytest.approx(c ** power("c", row["lr"]))
        assert folded.weight_decay == pytest.approx(c ** power("c", row["weight_decay"]))
        assert folded.eps == pytest.approx(c ** power("c", row["eps"]))
        assert row["decay"] == ("coupled" if family(name).coupled_decay else "decoupled")


def check_decay(text: str) -> None:
    """The factor on a hidden matrix's decay under AdamW, and what the learning rate makes of it."""
    full = rules.get("mup").factors(Role.HIDDEN, "adamw", width=M)
    seen = []
    for row in table(text, "decay", "power of the full factor"):
        name = row["decay"].split("`")[1]
        seen.append(name)
        found = full.with_decay(name)
        if name == "none":
            assert (found.weight_decay, row["lambda of a hidden matrix, AdamW"]) == (0.0, "0")
            continue
        assert found.weight_decay == pytest.approx(
            full.weight_decay ** float(Fraction(row["power of the full factor"]))
        )
        assert found.weight_decay == pytest.approx(M ** power("m", row["lambda of a hidden matrix, AdamW"]))
        kept = row["lr x lambda there"]
        assert found.lr * found.weight_decay == pytest.approx(1.0 if kept == "constant" else M ** power("m", kept))
    assert seen == ["independent", "sqrt", "coupled", "none"]


def test_full_factors_of_the_decay():
    """Before folding: 1 / (lr factor) for SGD and decoupled decay, 1 for Adam's coupled one."""
    rule = rules.get("completep")
    for optimizer in OPTIMIZERS:
        found = rule.factors(Role.BRANCH_LAST, optimizer, width=M, depth=R)
        assert found.weight_decay == pytest.approx(1.0 if optimizer == "adam" else 1 / found.lr)


# What is checked, a row or cell of it, and the ratio whose powers stand there.
CHECKS = {
    "width": (check_width, "| `mup` | hidden | m^-1/2 | 1 | 1 | m^-1 | 1 | m^-1 |", "m"),
    "depth": (check_depth, "| `completep` | `mup` | r^-1 | 1 | 1 | r | r | 1 | 1 | r^-1 | 1 | hd^-1/2 |", "r"),
    "family": (check_depth, "| r^(2 beta - 1) |", "r"),
    "folding": (check_folding, "| `adamw` | c | c^-1 | c^-1 | decoupled |", "c"),
    "decay": (check_decay, "| `sqrt` | 1/2 | m^1/2 | m^-1/2 |", "m"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_table_has_the_codes_numbers(name):
    check, *_ = CHECKS[name]
    check(THEORY)


@pytest.mark.parametrize("name", CHECKS)
def test_a_table_with_another_number_is_caught(name):
    check, line, ratio = CHECKS[name]
    assert line in THEORY
    cells = line.strip("| ").split(" | ")
    places = [at for at, cell in enumerate(cells) if re.fullmatch(rf"1|1/2|(?:{ratio}|hd)(\^.*)?", cell)]
    assert places
    for at in places:
        wrong = "3" if cells[at] == "1/2" else "hd^3" if "hd" in cells[at] else f"{ratio}^3"
        changed = " | ".join([*cells[:at], wrong, *cells[at + 1 :]])
        with pytest.raises(AssertionError):
            check(THEORY.replace(line, f"| {changed} |"))


@pytest.mark.parametrize("name", CHECKS)
def test_a_table_without_a_row_is_caught(name):
    check, line, _ = CHECKS[name]
    rows = [row for row in THEORY.splitlines(keepends=True) if line not in row]
    with pytest.raises((AssertionError, KeyError)):
        check("".join(rows))
