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
    """Dollars without the sign: cents, and below ten cents two significant digits.

    >>> usd_text(1234.5), usd_text(0.1), usd_text(0.01234)
    ('1,234.50', '0.10', '0.012')
    """
    if amount >= 0.1 or not amount:
        return f"{amount:,.2f}"
    return f"{Decimal(f'{amount:.2g}'):f}"


def usd(amount: float | Decimal | None) -> str:
    """Dollars with their sign; "-" where unknown."""
    return "-" if amount is None else f"${usd_text(amount)}"


def duration(seconds: float) -> str:
    """Seconds in the one or two units that matter.

    >>> [duration(seconds) for seconds in (0.42, 12.34, 245, 1530, 11_220, 180_000, 1_300_000)]
    ['0.42 s', '12 s', '4 min 05 s', '25 min', '3 h 07 min', '2 days 2 h', '15 days']
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // HOUR, whole // (24 * HOUR)
    if minutes < 10:
        return f"{minutes} min {whole % 60:02d} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60:02d} min"
    if days < 10:
        return f"{days} {'day' if days == 1 else 'days'} {hours % 24} h"
    return f"{days} days"


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
