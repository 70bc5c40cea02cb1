"""Numbers for people: three significant digits, the unit that fits, a dash for what is unknown."""

import math

DASH = "–"
_SI = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}
_AGES_S = 1e13
_TIME_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, thousands apart by thin spaces.

    >>> number(0.012345), number(12345678.0).replace(chr(0x202f), " "), number(float("nan"))
    ('0.0123', '12 345 678', '–')
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and (abs(value) < 1e-4 or abs(value) >= 1e15):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def count(value: float | None) -> str:
    """Whole number, all digits.

    >>> count(None), count(20.0)
    ('–', '20')
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}".replace(",", "\u202f").replace("-", "−")


def plural(amount: int, noun: str) -> str:
    """A number with its noun, in the plural but for one.

    >>> plural(1, "round"), plural(2, "round")
    ('1 round', '2 rounds')
    """
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def si(value: float, unit: str, lowest: int = -4) -> str:
    """Value with the SI prefix that leaves one to three digits before the point; no prefix below 10^(3 lowest).

    >>> si(12.34e9, "bit"), si(0.0021, "W"), si(0.5, "bit", lowest=0)
    ('12.3 Gbit', '2.10 mW', '0.500 bit')
    """
    if not math.isfinite(value) or value == 0:
        return f"{number(value)} {unit}" if not math.isnan(value) else DASH
    # rounding first keeps 999.9 from becoming "1000" of the smaller unit
    power = min(max(int(f"{abs(value):.2e}".partition("e")[2]) // 3, lowest), 6)
    return f"{number(value / 1000.0**power)} {_SI[power]}{unit}"


def bits(value: float) -> str:
    """Amount of data.

    >>> bits(2.0129e8), bits(17)
    ('201 Mbit', '17 bit')
    """
    return f"{count(value)} bit" if abs(value) < 1000 else si(value, "bit", lowest=0)


def rate(value: float) -> str:
    """Bits a second.

    >>> rate(6.5e6)
    '6.50 Mbit/s'
    """
    return si(value, "bit/s", lowest=0)


def joules(value: float) -> str:
    """Energy.

    >>> joules(31234.0)
    '31.2 kJ'
    """
    return si(value, "J")


def watts(value: float) -> str:
    """Power in watts and in dBm.

    >>> watts(0.5)
    '500 mW (27.0 dBm)'
    """
    return f"{si(value, 'W')} ({dbm(value)})" if 0 < value < math.inf else si(value, "W")


def dbm(power_w: float) -> str:
    """Power in dBm.

    >>> dbm(0.001)
    '0.0 dBm'
    """
    from wavetune.units import w_to_dbm  # with NumPy, for which no `--help` should wait

    return f"{w_to_dbm(power_w):.1f} dBm".replace("-", "−") if 0 < power_w < math.inf else DASH


def seconds(value: float) -> str:
    """Duration in the unit that fits, two units from a minute on.

    >>> [seconds(s) for s in (0.0042, 12.3, 59.97, 83.0, 4500.0, 200000.0)]
    ['4.20 ms', '12.3 s', '1 min', '1 min 23 s', '1 h 15 min', '2 d 7 h 33 min']
    """
    if not math.isfinite(value) or abs(value) < 59.95:
        return si(value, "s")
    if value < 0:
        return "−" + seconds(-value)
    if value >= _AGES_S:
        return f"{number(value / 86400)} d"
    rounded = round(value) if value < 3600 else round(value / 60) * 60
    parts: list[str] = []
    for size, unit in _TIME_UNITS[:4]:
        amount, rounded = divmod(rounded, int(size))
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts)


def percent(fraction: float, signed: bool = False) -> str:
    """Fraction as a percentage.

    >>> percent(0.1234), percent(-0.05, signed=True), percent(-2e-16)
    ('12.3 %', '−5.0 %', '0 %')
    """
    if not math.isfinite(fraction):
        return number(fraction)
    value = fraction * 100
    if abs(value) < 1e-9:  # what is left of rounding
        return "0 %"
    decimals = 1 if abs(value) < 99.95 else 0
    if abs(value) < 0.05:
        return f"{'+' if signed and value > 0 else ''}{number(value, 1)} %"
    return f"{value:{'+' if signed else ''}.{decimals}f} %".replace("-", "−")


def byte_size(value: float) -> str:
    """Memory.

    >>> byte_size(1.5e9)
    '1.50 GB'
    """
    return si(value, "B", lowest=0)


def axis_unit(kind: str, largest: float) -> tuple[float, str]:
    """Divisor and unit of an axis: all its ticks share them.

    >>> axis_unit("s", 9000.0), axis_unit("J", 31e3), axis_unit("", 5.0)
    ((3600.0, 'h'), (1000.0, 'kJ'), (1.0, ''))
    """
    if not kind or not math.isfinite(largest) or largest <= 0:
        return 1.0, kind
    if kind == "s" and largest >= 1e-3:
        # two of a unit at least, so that ticks are not all fractions
        return next((size, unit) for size, unit in _TIME_UNITS if largest >= 2 * size or size == 1e-3)
    power = min(max(math.floor(math.log10(largest) / 3), -4), 6)
    return 1000.0**power, _SI[power] + kind
