"""Units and how numbers in them are written: bytes, seconds and dollars for a reader."""

from __future__ import annotations

from decimal import Decimal

GIB = 1 << 30
"""Bytes."""
HOUR = 3600
"""Seconds."""
NANOSECONDS = 1_000_000_000
"""Of a second."""
MILLIJOULES_PER_KWH = 3_600_000_000


def gib_text(size: float) -> str:
    """Bytes in GiB with two decimals, without the unit."""
    return f"{size / GIB:.2f}"


def usd_text(amount: float | Decimal) -> str:
    """Dollars without the sign: cents, and below one dollar two significant digits.

    >>> usd_text(12.345), usd_text(0.01234)
    ('12.35', '0.012')
    """
    return f"{amount:.2f}" if amount >= 1 else f"{float(amount):.2g}"


def usd(amount: float | Decimal | None) -> str:
    """Dollars with their sign; "-" where unknown."""
    return "-" if amount is None else f"${usd_text(amount)}"


def duration(seconds: float) -> str:
    """Seconds in the one or two units that matter: 0.42 s, 12.3 s, 4 min 05 s, 3 h 07 min.

    >>> duration(12.34), duration(245)
    ('12.3 s', '4 min 05 s')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(fraction: float | None) -> str:
    """`fraction` of 1 in percent, without the sign; "-" where unknown."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def short_number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and few characters: 0.003, 12.3k, 2.5e-4."""
    for limit, scale, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / scale:.{digits}g}{suffix}"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if value and abs(value) < 0.001:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"
