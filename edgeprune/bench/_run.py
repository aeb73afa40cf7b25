"""One run of a benchmark: its figures, what they were measured on, and the JSON form of it all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .._machine import Machine, describe_machine
from .._timing import Arm, Ratio, Spread, Timing, Verdict
from ..runtime.artifact import ModelInfo
from ..runtime.errors import InputError

__all__ = ["SCHEMA", "BenchRun", "Kind", "Row", "conditions", "facts", "rows_of"]

SCHEMA = 1
Kind = Literal["latency", "cost"]
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Row:
    """One thing that was timed.

    Attributes:
        key: what it is; the same thing has the same key in every run.
        seconds: of one call.
        ratio: of its time to the reference's, round by round.
        verdict: what may be claimed of it: faster or slower than the reference, or neither.
        details: figures of its own, by names that docs/benchmarks.md lists.
    """

    key: str
    seconds: Spread
    ratio: Ratio
    verdict: Verdict
    details: Mapping[str, Any]

    @classmethod
    def of(cls, key: str, arm: Arm, details: Mapping[str, Any]) -> Row:
        """Of an arm that was measured."""
        return cls(key, arm.seconds, arm.ratio, arm.verdict, dict(details))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read what `dataclasses.asdict` wrote."""
        spread, ratio = Spread(**data["seconds"]), Ratio(**data["ratio"])
        return cls(str(data["key"]), spread, ratio, data["verdict"], dict(data["details"]))


@dataclass(frozen=True)
class BenchRun:
    """The outcome of a benchmark.

    Attributes:
        kind: which benchmark.
        model: name, id, parameters and multiply-adds of the model; never a path.
        machine: what it ran on.
        settings: what was asked for.
        rows: the figures.
        remarks: what a reader must know: noise, load, throttling, what was left out.
        extra: what is no row, by names that docs/benchmarks.md lists.
        created: when, in UTC.
    """

    kind: Kind
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    machine: Machine = field(default_factory=describe_machine)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, of a schema that only grows."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "created": self.created,
            "model": dict(self.model),
            "machine": self.machine.to_dict(),
            "settings": dict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "remarks": list(self.remarks),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> BenchRun:
        """Read what `to_dict` wrote; `where` names it in messages.

        Raises:
            InputError: it is no such thing, damaged, or newer than this code.
        """
        try:
            schema = data["schema"]
            if not isinstance(schema, int) or data["kind"] not in ("latency", "cost"):
                raise ValueError(f"kind {data['kind']!r}")
            if schema > SCHEMA:
                raise InputError(
                    f"{where} has schema {schema}; this edgeprune reads up to {SCHEMA}. Upgrade "
                    "edgeprune."
                )
            return cls(
                kind=data["kind"],
                model=dict(data["model"]),
                settings=dict(data["settings"]),
                rows=tuple(Row.from_dict(row) for row in data["rows"]),
                remarks=tuple(data["remarks"]),
                extra=dict(data["extra"]),
                machine=Machine(**data["machine"]),
                created=str(data["created"]),
            )
        except _DAMAGE as error:
            raise InputError(
                f"{where} is no run of `edgeprune bench latency` or `cost` ({error}). Write one "
                "with --json."
            ) from error

    @classmethod
    def read(cls, path: Path) -> BenchRun:
        """Read a file of JSON.

        Raises:
            InputError: it cannot be read, or is no such run.
        """
        try:
            data = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}). Write it with --json.") from error
        if not isinstance(data, Mapping):
            raise InputError(f"{path} holds no JSON object. Write it with --json.")
        return cls.from_dict(data, str(path))


def facts(name: str, info: ModelInfo) -> dict[str, Any]:
    """What a run says about its model."""
    return {
        "name": name,
        "model_id": info.model_id,
        "parameters": info.parameters,
        "macs": info.macs,
    }


def conditions(timing: Timing) -> dict[str, Any]:
    """What a measurement has to be read with: its noise, and what went on beside it."""
    return {
        "control": asdict(timing.control),
        "floor": timing.floor,
        **timing.conditions.to_dict(),
    }


def rows_of(timing: Timing, prefix: str, details: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row for each arm of a timing that has details; the key is the prefix and its name."""
    return [
        Row.of(f"{prefix}{arm.name}", arm, details[arm.name])
        for arm in timing.arms
        if arm.name in details
    ]
