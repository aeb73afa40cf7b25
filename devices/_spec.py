"""Strict reading and writing of preprocessing specifications.

A specification arrives inside a model file that somebody else wrote, so nothing in it is
believed: every value is checked for type and range before any array is sized by it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from ._errors import PreprocessError

__all__ = [
    "as_floats",
    "as_json",
    "build",
    "check_choice",
    "check_flag",
    "check_integer",
    "check_number",
]

_T = TypeVar("_T")


def check_integer(key: str, value: object, low: int, high: int) -> int:
    """Return ``value`` if it is an integer of low..high (a bool is not one)."""
    if type(value) is not int:
        raise PreprocessError(key, f"must be an integer, got {value!r}")
    if not low <= value <= high:
        raise PreprocessError(key, f"must be within {low}..{high}, got {value}")
    return value


def check_number(key: str, value: object, low: float, high: float) -> float:
    """Return ``value`` as a float if it is a finite number of low..high."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PreprocessError(key, f"must be a number, got {value!r}")
    # Compared before the conversion: a JSON integer can be too long for a float.
    if not low <= value <= high:
        raise PreprocessError(key, f"must be finite and within {low:g}..{high:g}, got {value!r}")
    return float(value)


def check_choice(key: str, value: object, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else say which were meant."""
    if not isinstance(value, str) or value not in choices:
        raise PreprocessError(key, f"must be one of {', '.join(choices)}; got {value!r}")
    return value


def check_flag(key: str, value: object) -> bool:
    """Return ``value`` if it is true or false and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise PreprocessError(key, f"must be true or false, got {value!r}")
    return value


def as_floats(
    key: str, value: object, lengths: Sequence[int], *, positive: bool = False
) -> tuple[float, ...]:
    """Return ``value`` as a tuple of finite floats whose length is one of ``lengths``.

    With ``positive`` every entry must be above zero, as a divisor must.
    """
    if not isinstance(value, list | tuple):
        raise PreprocessError(key, f"must be a list of numbers, got {value!r}")
    if len(value) not in lengths:
        wanted = " or ".join(str(n) for n in sorted(set(lengths)))
        raise PreprocessError(key, f"must hold {wanted} numbers, got {len(value)}")
    # float32 is what comes out, so its limits are the limits of what goes in.
    low = 1e-30 if positive else -1e30
    return tuple(check_number(key, entry, low, 1e30) for entry in value)


def as_json(spec: Any) -> dict[str, Any]:
    """Return a specification dataclass as a dict that ``json`` writes without loss."""
    out: dict[str, Any] = {"kind": spec.kind}
    for field in fields(spec):
        value = getattr(spec, field.name)
        out[field.name] = list(value) if isinstance(value, tuple) else value
    return out


def build(cls: type[_T], data: object) -> _T:
    """Build ``cls`` from a mapping; unknown, missing or ill-typed keys are refused."""
    if not isinstance(data, Mapping):
        raise PreprocessError("kind", f"a specification is a mapping, got {type(data).__name__}")
    kind = getattr(cls, "kind", "")
    if data.get("kind", kind) != kind:
        raise PreprocessError("kind", f"must be {kind!r} here, got {data['kind']!r}")
    given = {key: value for key, value in data.items() if key != "kind"}
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise PreprocessError(str(key), f"is not known{_did_you_mean(str(key), known)}")
    for name, field in known.items():
        if name not in given and field.default is MISSING:
            raise PreprocessError(name, "is missing")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def _did_you_mean(key: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
