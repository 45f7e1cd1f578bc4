"""docs/survey.md: every surveyed model with its verdict. `python tests/survey/page.py` writes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from expected import EXPECTED
from judging import Verdict, verdict
from refused import REFUSED

from models import SUBJECTS

PAGE = Path(__file__).parents[2] / "docs" / "survey.md"

_HEAD = """\
# Survey of public models

{models} unmodified models of {packages} packages, drawn from their configurations at width {width} and depth {depth}
(where the column "checked" names no others), then at four times the width and four times the depth, and at four
times the width alone. Each is given to `isoscale.parametrize` with `rule="completep"`, `optimizer="adamw"` and
nothing else but example inputs. Heads keep their size, so that their number grows; what users do not grow
(vocabulary, classes, experts, kernels, states) stays.

* **right**: the role, the learning rate and the init of *every* tensor, and the depth's ratio, are those of a table
  that was written from the architectures (`tests/survey/expected.py`), at both sizes.
* **refused**: an error that names the tensor or the branch; with the way out of the last column the plan is right.
* **measured**: one step of Adam was also measured to do the same to the stream and to the output at x1 and x4, in
  width and in depth apart, and to do more under `sp` (`tests/survey/test_survey.py`).

Where plan and table first differed, the model's source was read again. Most often the plan was wrong, and was mended.
In these rows the table was: RecurrentGemma's embedding, which is multiplied by the width's root; the Mixer's token
layers, from the width to a fixed number; the norm before a projecting block of a pre-activation ResNet; where the
branch's factor stands at LayerScale, in pooling and in NFNet blocks, where several places train alike; and the first
attention of CaiT's class token and of DETR's decoder, whose streams begin there with a learned token or with zeros, so
that it is no branch yet.

After each trace the model's parameters are still the same objects. `make survey` repeats all of this.

{words}

| model | package | verdict | tensors | checked | way out |
| --- | --- | --- | --- | --- | --- |
"""


def text(measured: Iterable[str]) -> str:
    """The page, from verdicts found now; `measured`: names of the models whose exponents were measured."""
    verdicts = {name: verdict(name) for name in SUBJECTS}
    words = Counter(found.word for found in verdicts.values())
    head = _HEAD.format(
        models=len(SUBJECTS),
        packages=len({subject.package for subject in SUBJECTS.values()}),
        width=32,
        depth=2,
        words=", ".join(f"{words[word]} {word}" for word in ("right", "refused", "wrong", "crashed")) + ".",
    )
    return head + "".join(_rows(verdicts, set(measured)))


def _rows(verdicts: dict[str, Verdict], measured: set[str]) -> Iterator[str]:
    for name, found in verdicts.items():
        subject = SUBJECTS[name]
        word, way_out = found.word, ""
        if word == "refused" and name in REFUSED:
            word = f"refused: {REFUSED[name].why}"
            way_out = REFUSED[name].how
        checked = "roles, rates, inits" if found.word == "right" else "the way out: roles, rates, inits"
        if name in measured:
            checked += ", measured"
        if (subject.width, subject.depth) != (32, 2):
            checked += f" (width {subject.width}, depth {subject.depth})"
        yield f"| {name} | {subject.package} | {word} | {found.tensors} | {checked} | {way_out} |\n"


if __name__ == "__main__":
    import other_packages  # noqa: F401
    from test_survey import MEASURED

    assert EXPECTED.keys() == SUBJECTS.keys()
    PAGE.write_text(text(MEASURED))
