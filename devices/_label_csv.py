"""Labels from a table, for samples whose folders do not say them."""

from __future__ import annotations

import csv
from pathlib import Path

from ._errors import SourceError

__all__ = ["read_label_csv"]

_HEADER = ["file", "label"]


def read_label_csv(path: str | Path) -> dict[Path, str]:
    """Read a UTF-8 table of two columns, file and label, into resolved path → label.

    The header line ``file,label`` may be there or not; empty lines and spaces around
    values are ignored; relative paths are relative to the folder of the table.

    Raises:
        SourceError: the table is missing, is not UTF-8 text, has no row, has a row of
            another shape, names a file twice or names one that does not exist; the
            message gives the line.
    """
    path = Path(path)
    labels: dict[Path, str] = {}
    for line, row in _rows(path):
        file, label = _checked_row(path, line, row)
        if file in labels:
            raise _problem(path, line, f"{row[0]} was named before; keep one of the two rows")
        labels[file] = label
    if not labels:
        raise SourceError(f"{path} holds no rows of file,label. Nothing was read; fill it in.")
    return labels


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, stripped cells) without header and empty lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets add a BOM
            reader = csv.reader(stream)
            cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise SourceError(
            f"The label table {path} cannot be opened ({error.strerror}). Nothing was read; "
            "check the path."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{path} is not a UTF-8 table ({error}). Nothing was read; save it as CSV, UTF-8."
        ) from error
    rows = [(line, row) for line, row in cells if any(row)]
    has_header = bool(rows) and [cell.lower() for cell in rows[0][1]] == _HEADER
    return rows[1:] if has_header else rows


def _checked_row(path: Path, line: int, row: list[str]) -> tuple[Path, str]:
    if len(row) != 2 or not row[0] or not row[1]:
        raise _problem(path, line, f"expected file,label and got {','.join(row)!r}")
    file = path.parent / row[0]
    if not file.is_file():
        raise _problem(path, line, f"{row[0]} does not exist beside the table")
    return file.resolve(), row[1]


def _problem(path: Path, line: int, what: str) -> SourceError:
    return SourceError(f"{path}, line {line}: {what}. Nothing was read; correct this line.")
