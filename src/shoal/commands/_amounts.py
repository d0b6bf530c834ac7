"""How money, time and energy are written for people. What is unknown is said to be, and is never 0."""

from __future__ import annotations

UNKNOWN = "unknown"


def usd(amount: float | None) -> str:
    """`$12.30`; `$0.0042` and `<$0.0001` for little; with a minus where it is a loss."""
    if amount is None:
        return UNKNOWN
    if amount < 0:
        return f"-{usd(-amount)}"
    if amount == 0 or amount >= 0.995:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if amount >= 0.0001 else "<$0.0001"


def milliseconds(ms: float | None) -> str:
    if ms is None:
        return UNKNOWN
    if ms >= 1000:
        return f"{ms / 1000:,.1f} s"
    return f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def seconds(s: float) -> str:
    return f"{s / 3600:,.1f} h" if s >= 3600 else f"{s:,.0f} s" if s >= 10 else f"{s:,.2f} s"


def joules(amount: float | None) -> str:
    """Of GPUs; nothing else is metered."""
    if amount is None:
        return UNKNOWN
    return f"{amount / 1000:,.1f} kJ" if amount >= 1000 else f"{amount:,.1f} J"


def both(p50: float | None, p95: float | None) -> str:
    """Two quantiles as one cell."""
    return "-" if p50 is None else f"{milliseconds(p50)} / {milliseconds(p95)}"
