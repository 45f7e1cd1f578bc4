"""What the figures share: type and colour, panels, lines with bands, labels that keep apart.

Figures are built on `matplotlib.figure.Figure`, never through pyplot, and in a style of their own, so that
neither the caller's rcParams nor ours leak; the same data give the same bytes.
"""

from __future__ import annotations

import colorsys
import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from isoscale.extras import needed
from isoscale.report.formats import Standing
from isoscale.report.numbers import SE

with needed("report", by="a figure"):
    import matplotlib
    import matplotlib.style
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_hex, to_rgb
    from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID, STRIP = "#1b1f24", "#57606a", "#b8bfc8", "#e7eaee", "#f3f4f6"
PAPER, DARK_PAPER = "#ffffff", "#171c23"
# Of verdicts; one that is open is neither.
VERDICTS: dict[Standing, str] = {"good": "#0b63a5", "open": "#57606a", "bad": "#b2430b"}

# Okabe and Ito's colours that stand out on white: told apart with every kind of colour vision.
RULES = ("#0072b2", "#d55e00", "#009e73", "#b05a92", "#3a9bd1", "#b98300", "#444c56")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

POINTS = 72  # to the inch

STYLE = {
    # Text stays text: selectable, searchable, small, and in the reader's own font.
    "svg.fonttype": "none",
    # Matplotlib names clip paths and markers at random unless it is given a salt to hash them with.
    "svg.hashsalt": "isoscale",
    # A rule may be called anything: a dollar sign in its name is not mathematics.
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.solid_capstyle": "round",
}


# --- figures ---
@contextlib.contextmanager
def style() -> Generator[None, None, None]:
    """Matplotlib's defaults and ours on top, whatever the caller's settings, which come back afterwards."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, *, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in the figure, all in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def encoded(figure: Figure, kind: str) -> bytes:
    """The figure as the bytes of a file: "svg", "png" or "pdf". The same figure gives the same bytes."""
    # Matplotlib signs files with the date and its own version: neither comes from the data.
    metadata = {
        "svg": {"Date": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[kind]
    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        # A rule's name may hold letters that our font lacks: boxes in the PNG, but right in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def caption(figure: Figure, text: str) -> None:
    """Small print below everything that is drawn: the figure grows by what it takes."""
    across, up = figure.get_size_inches()
    lines = textwrap.wrap(text, width=int(across * 17))
    more = 0.14 * len(lines) + 0.08
    for axes in figure.axes:
        place = axes.get_position()
        bottom, height = place.y0 * up, place.height * up
        axes.set_position((place.x0, (bottom + more) / (up + more), place.width, height / (up + more)))
    figure.set_size_inches(across, up + more)
    words = "\n".join(lines)
    figure.text(0.01, 0.05 / (up + more), words, fontsize=7, color=MUTED, va="bottom", linespacing=1.3)


# --- colours ---
def sequence(count: int) -> list[str]:
    """Colours for ordered sizes, light to dark: viridis without the yellow that white swallows."""
    shades = np.linspace(0.05, 0.74, count)[::-1]
    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](shades)]


def colours(count: int) -> list[str]:
    """Colours for things without an order; more of them than can be told apart get shades."""
    if count > len(RULES):
        return sequence(count)
    return list(RULES[:count])


def dark(color: str) -> str:
    """What a colour that was chosen for white paper becomes on a dark page: its hue, as far from the ground.

    >>> dark("#ffffff"), dark("#0b63a5")
    ('#171c23', '#5eb4f4')
    """
    if color == PAPER:
        return DARK_PAPER
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    # The dark ground is not black, and letters need not be white.
    turned = 0.95 - 0.83 * lightness
    return to_hex(colorsys.hls_to_rgb(hue, turned, saturation))


# --- lines and their labels ---
def line(axes: Axes, x: np.ndarray, y: np.ndarray, se: np.ndarray, color: str, marker: str = "") -> float:
    """A line with its 95 % band; the height of its end."""
    axes.plot(
        x,
        y,
        color=color,
        lw=1.6,
        marker=marker,
        ms=4,
    )
    axes.fill_between(
        x,
        y - SE * se,
        y + SE * se,
        color=color,
        alpha=0.2,
        lw=0,
    )
    finite = y[np.isfinite(y)]
    if not len(finite):
        return math.nan
    return float(finite[-1])


def label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Labels (text, colour, height) to the right of the axes, at the heights of the lines' ends, kept apart."""
    to_axes = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    wanted = []
    for _, _, height in ends:
        # A line that never had a value has its label in the middle.
        place = to_axes.transform((right, height))[1] if math.isfinite(height) else 0.5
        wanted.append(float(place))
    lines = max(text.count("\n") + 1 for text, _, _ in ends)
    places = spread(wanted, 0.065 * lines, 0.02, 0.98)
    for (text, color, _), place in zip(ends, places, strict=True):
        write(
            axes,
            text,
            at=(1.0, place),
            shift=(8, 0),
            color=color,
            va="center",
            fontsize=8.5,
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to the wanted ones as possible that keep their order and a gap, within bounds.

    >>> [round(y, 2) for y in spread([0.5, 0.5, 0.9], 0.1, 0.0, 1.0)]
    [0.45, 0.55, 0.9]
    """
    order = np.argsort(wanted, kind="stable")
    # With z_i = y_i - i gap the gap becomes "z never falls", which is isotonic regression.
    steps = gap * np.arange(len(order))
    free = isotonic_regression(np.asarray(wanted, float)[order] - steps).x
    # The lowest z is y_0 and the highest y_n - n gap, so these bounds keep every y within low and high.
    highest = max(low, high - gap * (len(order) - 1))
    placed = np.empty(len(order))
    placed[order] = np.clip(free, low, highest) + steps
    return placed.tolist()


def write(axes: Axes, text: str, *, at: tuple[float, float], shift: tuple[float, float], **look: Any) -> None:
    """Text at a fraction of the axes, shifted by points."""
    axes.annotate(
        text,
        at,
        shift,
        xycoords="axes fraction",
        textcoords="offset points",
        annotation_clip=False,
        **look,
    )


def shortened(text: str, most: int) -> str:
    """The text on one line, its middle left out where it is too long: a rule's parameters stand at its end.

    >>> shortened("residual_family(alpha=0.5, beta=0.75)", 24)
    'residual_fam… beta=0.75)'
    """
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    tail = (most - 1) // 2
    head = most - 1 - tail
    return f"{line[:head]}…{line[-tail:]}"
