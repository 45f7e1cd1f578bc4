"""Number formatting: learning rates, estimates with their intervals, powers of two, as plain text.

Every figure, table and page writes its numbers through these functions. A number that does not exist is a dash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import SupportsFloat

NOTHING = "\N{EM DASH}"
NARROWEST = 1e-9  # an interval narrower than that is rounding
SE = 1.96  # half-width of a 95 % interval in standard errors


def significant(number: float, digits: int = 2) -> str:
    """A positive number with so many significant digits, as a person writes it.

    >>> significant(0.1302), significant(0.0996, 1), significant(130.4), significant(3.05e-5)
    ('0.13', '0.1', '130', '3e-05')
    """
    if not 1e-4 <= abs(number) < 1e5:
        return f"{number:.{digits}g}"
    # Rounding may move the first digit up: 0.0996 to one digit is 0.1 and needs one decimal, not two.
    rounded = float(f"{number:.{digits}g}")
    first_digit = math.floor(math.log10(abs(rounded)))
    decimals = max(0, digits - 1 - first_digit)
    return f"{number:.{decimals}f}"


def learning_rate(number: float) -> str:
    """A learning rate: exact if it is a power of two, as grids are; else the two digits that a fit deserves.

    >>> learning_rate(0.0625), learning_rate(16.0), learning_rate(0.0627), learning_rate(float("nan"))
    ('0.0625', '16', '0.063', '—')
    """
    if not math.isfinite(number):
        return NOTHING
    mantissa, _ = math.frexp(number)
    if mantissa != 0.5:
        return significant(number)
    if 1 <= number < 1e5:
        return f"{number:.0f}"
    return f"{number:.3g}"


def signed(number: float, digits: int, *, sign: bool = True) -> str:
    """A number with its sign, and zero without one.

    >>> signed(2.04, 1), signed(-0.01, 1), signed(-1.0, 1), signed(2.04, 1, sign=False)
    ('+2.0', '0.0', '-1.0', '2.0')
    """
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    # Adding 0 turns a negative zero into a positive one.
    rounded = round(number, digits) + 0.0
    plus = "+" if sign and rounded else ""
    return f"{rounded:{plus}.{digits}f}"


def estimate(
    middle: float, low: float = math.nan, high: float = math.nan, *, places: int = 0, sign: bool = True
) -> str:
    """A number and its interval, with no more decimals than the interval supports.

    >>> estimate(-1.04, -1.3, -0.74), estimate(0.002, 0.001, 0.009), estimate(0.412, 0.409, 0.415, sign=False)
    ('-1.0 ± 0.3', '+0.002 [+0.001, +0.009]', '0.412 ± 0.003')
    """
    if math.isnan(middle):
        return NOTHING
    if math.isinf(middle):
        return signed(middle, 0)
    half = (high - low) / 2
    has_interval = high - low > NARROWEST
    error = half if has_interval and half < math.inf else abs(middle) / 100
    digits = max(places, _decimals(error))
    number = signed(middle, digits, sign=sign)
    if not has_interval:
        return number
    # An interval is written as ± if it is symmetric as far as the digits show.
    asymmetry = abs((low + high) / 2 - middle)
    if asymmetry < 0.5 * 10.0**-digits:
        return f"{number} ± {half:.{digits}f}"
    lower = signed(low, digits, sign=sign)
    upper = signed(high, digits, sign=sign)
    return f"{number} [{lower}, {upper}]"


def _decimals(error: float) -> int:
    """Decimals that show one digit of an error, from 0 for errors of 1 and more to 9; 3 if there is none."""
    if error < 1e-11:
        return 3
    # 0.02: an error of 0.096 is written 0.1, so it needs one decimal, not two.
    decimals = math.ceil(-math.log10(error) - 0.02)
    return min(9, max(0, decimals))


def written(number: SupportsFloat, form: str) -> str:
    """A number in a given format, a dash where it is not finite.

    >>> written(0.5, ".2f"), written(float("nan"), ".2f")
    ('0.50', '—')
    """
    number = float(number)
    return format(number, form) if math.isfinite(number) else NOTHING


def ends(low: float, high: float, form: str) -> str:
    """An interval by its ends, a dash for one that is open: "[0.10, 0.17]".

    >>> ends(0.1, 0.17, ".2f"), ends(0.1, float("inf"), ".2f"), ends(float("nan"), float("nan"), ".2f")
    ('[0.10, 0.17]', '[0.10, —]', '—')
    """
    if not math.isfinite(low) and not math.isfinite(high):
        return NOTHING
    return f"[{written(low, form)}, {written(high, form)}]"


def with_ends(middle: float, low: float, high: float, form: str) -> str:
    """A number with the ends of its interval behind it, if it has one.

    >>> with_ends(-1.5, -1.6, -1.4, ".2f"), with_ends(-1.5, float("nan"), float("nan"), "+.2f")
    ('-1.50 [-1.60, -1.40]', '-1.50')
    """
    number = written(middle, form)
    if not math.isfinite(low):
        return number
    return f"{number} {ends(low, high, form)}"


def typeset(text: str) -> str:
    """The same text with true minus signs before numbers, for figures and the page.

    >>> typeset("depth-mup drifts by -2.0 octaves") == "depth-mup drifts by \\N{MINUS SIGN}2.0 octaves"
    True
    """
    return re.sub(r"(?<![\w.-])-(?=[\d∞])", "\N{MINUS SIGN}", text)


def superscript(number: int) -> str:
    """An integer as superscripts.

    >>> superscript(-3)
    '⁻³'
    """
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def power(number: float) -> str:
    """A grid's learning rate as a power of two where it is one.

    >>> power(0.125), power(0.1)
    ('2⁻³', '0.1')
    """
    exponent = math.log2(number)
    if exponent.is_integer():
        return f"2{superscript(int(exponent))}"
    return f"{number:.3g}"


def listing(items: Iterable[object]) -> str:
    """Items as a sentence has them: "4, 8 and 16"."""
    *rest, last = (str(item) for item in items)
    if not rest:
        return last
    return f"{', '.join(rest)} and {last}"
