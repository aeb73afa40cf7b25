"""Figures as people read them, and plain aligned text that survives a pipe."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["count", "pairs", "percent", "share_of", "signed", "size", "table"]


def percent(share: float, digits: int = 1) -> str:
    """``0.503`` as ``50.3 %``."""
    return f"{100 * share:.{digits}f} %"


def signed(share: float) -> str:
    """A difference of shares, with its sign."""
    return f"{share:+.3f}"


def count(number: int) -> str:
    """``4631000`` as ``4,631,000``."""
    return f"{number:,}"


def share_of(part: int, whole: int) -> str:
    """``50.0 % (64 of 128)``."""
    return f"{percent(part / whole if whole else 0.0)} ({count(part)} of {count(whole)})"


def size(number: float) -> str:
    """Bytes in decimal units."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000 or unit == "MB":
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry, two spaces between; numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [
        bool(rows) and all(row[column][:1].isdigit() or row[column] == "-" for row in rows)
        for column in range(len(header))
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
