"""What can go wrong in exporting and in the runtime, as one tree.

::

    EdgepruneError                 exit 1
    ├── ArtifactError              the model files are no artifact, damaged, or newer than this code
    ├── ExportError                the model could not be exported; nothing was written
    ├── CompactError               the model could not be compacted; nothing was written
    ├── ProfileError               a profile is damaged
    │   ├── ProfileMismatch        it belongs to another model
    │   └── ProfileNotFound        there is none of that name or generation
    ├── InputError                 an array has the wrong shape, type or values
    ├── NotEnoughSamples           the stream holds too little to learn from
    ├── MissingExtra               an optional dependency is not installed
    └── GuardRefused               exit 3: personalisation would harm; nothing was changed

Every message says what is wrong, what was left unchanged, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "CompactError",
    "EdgepruneError",
    "ExportError",
    "GuardRefused",
    "InputError",
    "MissingExtra",
    "NotEnoughSamples",
    "ProfileError",
    "ProfileMismatch",
    "ProfileNotFound",
]


class EdgepruneError(Exception):
    """Root of every error that edgeprune raises on purpose."""

    exit_code = 1


class ArtifactError(EdgepruneError):
    """The model files are not an artifact, are damaged, or are newer than this code."""


class ExportError(EdgepruneError):
    """The model could not be exported; nothing was written."""


class CompactError(EdgepruneError):
    """The model could not be compacted exactly; nothing was written."""


class ProfileError(EdgepruneError):
    """A profile is damaged; the one in force stays in force."""


class ProfileMismatch(ProfileError):
    """A profile belongs to another model."""


class ProfileNotFound(ProfileError):
    """There is no profile, or no generation of it, of that name."""


class InputError(EdgepruneError):
    """An array has the wrong shape, type or values."""


class NotEnoughSamples(EdgepruneError):
    """The stream holds too few usable samples to learn from; nothing was changed."""


class MissingExtra(EdgepruneError):
    """An optional dependency is not installed; the message holds the pip line."""


class GuardRefused(EdgepruneError):
    """The personalised network disagrees too much with the dense one; nothing was changed."""

    exit_code = 3
