"""Numbers as a reader wants them: bytes, shares, times and ratios in words."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"


def size(count: int) -> str:
    """Bytes in decimal units, three digits: "900 B", "12.3 kB", "4.06 MB"."""
    if count < 1000:
        return f"{count}{NARROW}B"
    value, unit = float(count), "B"
    for name in ("kB", "MB", "GB", "TB"):
        value, unit = value / 1000, name
        if value < 999.5:
            break
    return f"{digits(value)}{NARROW}{unit}"


def milliseconds(value: float) -> str:
    """Three digits: "0.842 ms", "12.4 ms", "320 ms"."""
    return f"{digits(value)}{NARROW}ms"


def digits(value: float) -> str:
    """Three significant digits, never in exponent form."""
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.9995 or value == 0 else f"{value:.3f}"


def percent(share: float, places: int = 2) -> str:
    """A share in [0, 1]: "95.83 %"."""
    return f"{100 * share:.{places}f}{NARROW}%".replace("-", MINUS)


def points(cost: float) -> str:
    """A change of a share in percentage points with its sign; a cost of 0.006 reads "−0.60"."""
    change = round(-100 * cost, 2)
    return "0.00" if change == 0 else f"{change:+.2f}".replace("-", MINUS)


def ratio(value: float) -> str:
    """A factor: "4.5×", "16×"."""
    return f"{value:.0f}{TIMES}" if value >= 9.95 else f"{value:.2f}{TIMES}"


def faster(speed_ratio: float) -> str:
    """A speed ratio in words: "4.50× faster", "1.30× slower", "as fast"."""
    if 0.995 < speed_ratio < 1.005:
        return "as fast"
    if speed_ratio > 1:
        return f"{ratio(speed_ratio)} faster"
    return f"{ratio(1 / speed_ratio)} slower"


def smaller(before: int, after: int) -> str:
    """Two sizes in words: "7.52× smaller", "1.10× larger", "as large"."""
    change = before / after
    if 0.995 < change < 1.005:
        return "as large"
    return f"{ratio(change)} smaller" if change > 1 else f"{ratio(1 / change)} larger"


def duration(seconds: float) -> str:
    """ "8 s", "2 min 05 s", "1 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{digits(seconds) if seconds < 10 else whole}{NARROW}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW}min {whole % 60:02d}{NARROW}s"
    return f"{whole // 3600}{NARROW}h {whole % 3600 // 60:02d}{NARROW}min"
