"""Unmodified public models at four times the width and depth: planned right, or refused with a reason and a way out.

`make survey` installs the packages and runs this. The verdicts are listed in docs/survey.md.
"""

from __future__ import annotations

import importlib.util

import other_packages  # noqa: F401 its models enter themselves
import pytest
from expected import EXPECTED
from judging import Verdict, verdict
from measuring import Slope, slopes
from page import PAGE, text
from refused import REFUSED

from models import SUBJECTS

pytestmark = [
    pytest.mark.nightly,
    # What other packages warn of is theirs.
    pytest.mark.filterwarnings("ignore"),
]

SECONDS = 3.0

# The verdict was fixed before the figures, as in tests/parametrization/test_zoo_coordinates.py, which says why.
TOLERANCE, RESOLUTION, GROWTH = 0.15, 0.3, 0.25
SIZES = {"width": ((64, 2), (256, 2)), "depth": ((64, 4), (64, 16))}
# Of each family one. Left out are norms on the stream, which no rule slows down with the depth unless it is asked to,
# and norms that end branches (Gemma 2): at the base each branch is as loud as the stream, and what the first multiples
# of its depth show is the noise that fades (docs/theory.md, section 5, "At small sizes", has its slopes).
MEASURED = (
    "llama", "gemma", "cohere", "deepseekv3", "gptoss", "gpt2", "biogpt", "mamba2", "lfm2", "nanochat", "whisper",
    "vit", "dinov2", "timesformer", "swin_hf", "timm_caformer", "lucid_parallelvit", "x_palm", "litgpt_pythia",
    "diffusers_dit", "torch_encoder", "pyg_schnet",
)  # fmt: skip


def _explained(name: str, found: Verdict) -> None:
    """Right, or refused for the reason that is listed."""
    if name in REFUSED:
        assert found.word == "refused", found
        assert REFUSED[name].reason in found.why
    else:
        assert found.word == "right", found


@pytest.mark.parametrize("name", SUBJECTS)
def test_width_and_depth(name):
    found = verdict(name)
    _explained(name, found)
    assert found.seconds <= SECONDS


@pytest.mark.parametrize("name", SUBJECTS)
def test_width_alone(name):
    found = verdict(name, deep=False)
    if found.word != "right":
        _explained(name, found)


@pytest.mark.parametrize("name", REFUSED)
def test_way_out(name):
    """What the refusal advises leads to the plan of the table."""
    assert verdict(name, way_out=REFUSED[name].way_out).word == "right"


def test_the_table_is_of_these_models():
    assert EXPECTED.keys() == SUBJECTS.keys()
    assert REFUSED.keys() <= SUBJECTS.keys()
    assert set(MEASURED) <= SUBJECTS.keys() - REFUSED.keys()


@pytest.mark.parametrize("axis", SIZES)
@pytest.mark.parametrize("name", MEASURED)
def test_one_step_does_the_same_at_every_size(name, axis):
    for place, slope in slopes(name, *SIZES[axis], "completep").items():
        assert slope.half_width <= RESOLUTION, (place, slope)
        assert slope.low <= TOLERANCE, (place, slope)
        assert slope.high >= -TOLERANCE, (place, slope)


@pytest.mark.parametrize("axis", SIZES)
@pytest.mark.parametrize("name", MEASURED)
def test_one_step_grows_under_sp(name, axis):
    found = slopes(name, *SIZES[axis], "sp")
    assert max(map(_low, found.values())) > GROWTH, found


def _low(slope: Slope) -> float:
    return slope.low


def test_the_page_says_what_is_found():
    """`python tests/survey/page.py` writes it."""
    for subject in SUBJECTS.values():
        if importlib.util.find_spec(subject.module) is None:
            pytest.skip(f"{subject.package} is not installed")
    assert PAGE.read_text() == text(MEASURED)
