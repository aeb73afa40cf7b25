"""Finding the device that a person means by a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ._errors import DeviceNotFound

__all__ = ["choose"]

# ALSA's card number, which may be another one after a reboot: "USB Audio: - (hw:1,0)".
_CARD_NUMBER = re.compile(r"\s*:?[\s-]*\((plug)?hw:\d+,\d+\)$")


def choose(kind: str, wanted: str, names: Sequence[str]) -> int:
    """Return the position of the device that ``wanted`` names, the best first.

    Tried in this order: the exact name; the name but for case; the name but for ALSA's card
    number; a part of the name, but for case. Several devices of the very same name are one
    device that is offered several times: the first is taken, so sort by preference.

    Raises:
        DeviceNotFound: nothing fits, or a part of a name fits different devices.
    """
    fold = str.casefold
    tests: tuple[Callable[[str], bool], ...] = (
        lambda name: name == wanted,
        lambda name: fold(name) == fold(wanted),
        lambda name: _bare(name) == _bare(wanted),
        lambda name: _bare(wanted) in fold(name),
    )
    for fits in tests:
        found = [position for position, name in enumerate(names) if wanted and fits(name)]
        if len({names[position] for position in found}) > 1:
            raise DeviceNotFound(kind, wanted, [names[position] for position in found], True)
        if found:
            return found[0]
    raise DeviceNotFound(kind, wanted, list(dict.fromkeys(names)))


def _bare(name: str) -> str:
    return _CARD_NUMBER.sub("", name).casefold()
