"""The bytes of a profile: a safetensors container, written one way and read with distrust.

`docs/artifact.md` is the specification. This module knows the container, the metadata and the mask
bits; `profile.py` knows what the tensors mean for a model. What is wrong with a file is raised as
ValueError here, without the file's name, which `profile.py` adds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HEADER_LIMIT_BYTES",
    "PROFILE_VERSION",
    "Header",
    "Strength",
    "decode_mask",
    "decode_report",
    "encode_mask",
    "encode_report",
    "pack",
    "read_header",
    "unpack",
]

PROFILE_VERSION = 2  # with masks of single weights; a profile without any is still written as 1
# Far above any real header (some 100 bytes a tensor), far below what would exhaust a board.
HEADER_LIMIT_BYTES = 4 << 20
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_GENERATION = re.compile(r"[1-9][0-9]{0,17}")

Strength = Literal["light", "deep"]


@dataclass(frozen=True)
class Header:
    """The metadata of a profile; ``version`` is 2 if single weights are masked, else 1."""

    model_id: str
    strength: Strength
    created: datetime
    parent: int | None
    report: Mapping[str, Any]
    version: int = 1

    def to_metadata(self) -> dict[str, str]:
        """Write the metadata as safetensors wants it; equal headers give equal strings."""
        return {
            "edgeprune.profile": str(self.version),
            "model_id": self.model_id,
            "strength": self.strength,
            "created": self.created.isoformat().removesuffix("+00:00") + "Z",
            "parent": "" if self.parent is None else str(self.parent),
            "report": encode_report(self.report),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Header:
        """Read the metadata; ValueError says what is wrong with it."""
        _check_version(metadata.get("edgeprune.profile"))
        missing = {"model_id", "strength", "created", "parent", "report"} - metadata.keys()
        if missing:
            raise ValueError(f"its metadata lack {', '.join(sorted(missing))}")
        if metadata["strength"] not in ("light", "deep"):
            raise ValueError(f"its strength {metadata['strength']!r} is neither light nor deep")
        return cls(
            model_id=metadata["model_id"],
            strength=cast(Strength, metadata["strength"]),
            created=_decode_time(metadata["created"]),
            parent=_decode_parent(metadata["parent"]),
            report=decode_report(metadata["report"]),
            version=int(metadata["edgeprune.profile"]),
        )


def _check_version(version: str | None) -> None:
    if version is None:
        raise ValueError("it is no edgeprune profile (the metadata do not say so)")
    if not _GENERATION.fullmatch(version):
        raise ValueError(f"its format version {version[:20]!r} is no version")
    if int(version) > PROFILE_VERSION:
        raise ValueError(
            f"it has profile format {version} and this edgeprune reads up to {PROFILE_VERSION}; "
            "upgrade edgeprune"
        )


def _decode_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.utcoffset() != timedelta(0):
        raise ValueError(f"its creation time {text!r} is not in UTC")
    return time.replace(tzinfo=UTC)


def _decode_parent(text: str) -> int | None:
    if text and not _GENERATION.fullmatch(text):
        raise ValueError(f"its parent {text[:20]!r} is no generation number")
    return int(text) if text else None


def encode_report(report: Mapping[str, Any]) -> str:
    """Write a report as JSON with sorted keys; ValueError or TypeError if JSON cannot hold it."""
    return json.dumps(report, sort_keys=True, separators=(",", ":"), allow_nan=False)


def decode_report(text: str) -> dict[str, Any]:
    """Read a report; ValueError unless it is one JSON object with finite numbers."""
    report = _parse_json(text)
    if not isinstance(report, dict):
        raise ValueError("its report is no JSON object")
    return report


def encode_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack bool ``(units,)`` into uint8 ``(ceil(units / 8),)``, least significant bit first."""
    return np.packbits(mask, bitorder="little")


def decode_mask(packed: NDArray[Any], units: int) -> NDArray[np.bool_]:
    """Unpack what `encode_mask` packed; ValueError for a wrong type, length or padding."""
    if packed.dtype != np.uint8 or packed.shape != ((units + 7) // 8,):
        raise ValueError(f"it must be uint8 of shape ({(units + 7) // 8},)")
    bits = np.unpackbits(packed, bitorder="little")
    if bits[units:].any():
        raise ValueError("its padding bits are not zero")
    return bits[:units].astype(np.bool_)


def pack(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Write a safetensors file; the same contents in any order give the same bytes.

    Raises:
        ValueError: the header would be larger than a reader accepts.
    """
    # The library writes metadata in the order of a hash map, another one in every run. So it lays
    # out the tensors (by type, then name), and the metadata are put in here, sorted.
    import safetensors.numpy

    plain = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
    body = _LENGTH_BYTES + int.from_bytes(plain[:_LENGTH_BYTES], "little")
    header = {_METADATA: dict(sorted(metadata.items())), **json.loads(plain[_LENGTH_BYTES:body])}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # tensors start aligned, as the library does it
    if len(text) > HEADER_LIMIT_BYTES:
        raise ValueError(f"its header would exceed {HEADER_LIMIT_BYTES} bytes; shorten the report")
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + plain[body:]


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], Header]:
    """Read tensors and metadata from bytes of unknown origin.

    Raises:
        ValueError: they are not exactly one sound profile container.
    """
    import safetensors.numpy

    length = _header_length(data[:_LENGTH_BYTES])
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as error:  # its own error; and KeyError, ValueError for odd types and shapes
        raise ValueError(f"it is no sound safetensors file ({error})") from error
    return tensors, _parse_header(data[_LENGTH_BYTES : _LENGTH_BYTES + length])[0]


def read_header(path: Path) -> Header:
    """Read only the metadata of a profile file, and check that the file has the length they say.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    with path.open("rb") as file:
        length = _header_length(file.read(_LENGTH_BYTES))
        text = file.read(length)
    if len(text) < length:
        raise ValueError("it is cut short")
    header, tensor_bytes = _parse_header(text)
    if path.stat().st_size != _LENGTH_BYTES + length + tensor_bytes:
        raise ValueError("it was cut short, or something was appended to it")
    return header


def _header_length(prefix: bytes) -> int:
    if len(prefix) < _LENGTH_BYTES:
        raise ValueError("it is cut short")
    length = int.from_bytes(prefix, "little")
    if length > HEADER_LIMIT_BYTES:
        raise ValueError(f"it claims a header of {length} bytes; {HEADER_LIMIT_BYTES} are allowed")
    return length


def _parse_header(text: bytes) -> tuple[Header, int]:
    """The metadata, and how many bytes of tensors must follow."""
    header = _parse_json(text.decode("utf-8"))
    metadata = header.pop(_METADATA, None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("it is no edgeprune profile (it has no metadata)")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not all strings")
    try:
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"its list of tensors is damaged ({error})") from error
    return Header.from_metadata(metadata), end


def _parse_json(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"its JSON is damaged ({error})") from error
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("its JSON holds a key twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"its JSON holds {text[:20]}, which is not finite")
    return number
