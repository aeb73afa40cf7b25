"""The process that personalises beside the service: ``python -m edgeprune.service._worker``.

Protocol. stdin: one line of JSON (`JobRequest.header`), then the samples, raw and in order; its end
later on means that the service is gone, and ends this process. stdout: lines of JSON, progress
``{"step", "share"}`` and at last the fields of `JobResult`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["main"]

_ABANDONED = 75  # exit status when the service has gone
_BATCH = 8


class _Samples:
    """The samples that came in, for the runtime; widened to float32 one at a time."""

    def __init__(self, arrays: NDArray[np.floating]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return np.asarray(self._arrays[index], np.float32)


def main() -> None:
    """Read a request, carry it out, and say how it ended."""
    # What any library prints must not come between the messages.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.stdin.buffer.readline())
    with contextlib.suppress(OSError):
        os.nice(request["nice"])  # inference goes first
    arrays = _read_arrays(request, sys.stdin.buffer)
    threading.Thread(target=_leave_with_the_service, daemon=True).start()
    _say(messages, _outcome(request, arrays, messages))
    os._exit(0)  # the thread that waits on stdin must not hold up the end


def _leave_with_the_service() -> None:
    sys.stdin.buffer.read()
    os._exit(_ABANDONED)


def _read_arrays(request: dict[str, Any], stream: BinaryIO) -> NDArray[np.floating]:
    shape = (request["samples"], *request["shape"])
    arrays = np.empty(shape, np.dtype(request["dtype"]))
    view = memoryview(arrays.reshape(-1).view(np.uint8).data)
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            os._exit(_ABANDONED)
        done += count
    return arrays


def _outcome(
    request: dict[str, Any], arrays: NDArray[np.floating], messages: TextIO
) -> dict[str, Any]:
    from ..runtime.errors import EdgepruneError, GuardRefused, NotEnoughSamples

    try:
        return _personalize(request, _Samples(arrays), messages)
    except GuardRefused as error:
        return {"outcome": "refused", "message": str(error)}
    except NotEnoughSamples as error:
        return {"outcome": "too-few", "message": str(error)}
    except (EdgepruneError, MemoryError) as error:
        return {"outcome": "failed", "message": str(error) or type(error).__name__}


def _personalize(request: dict[str, Any], samples: _Samples, messages: TextIO) -> dict[str, Any]:
    from .._board import rates
    from ..runtime.artifact import Artifact
    from ..runtime.errors import ProfileError
    from ..runtime.personalize import personalize
    from ..runtime.prior import ClassHistory
    from ..runtime.settings import Settings
    from ..runtime.store import ProfileStore

    artifact = Artifact.open(request["model"])
    store = ProfileStore(Path(request["store"]))
    earlier = None
    with contextlib.suppress(ProfileError):  # none yet, or one that nothing can be learnt from
        prior = store.load(request["profile"], artifact).prior
        if prior is not None:
            earlier = ClassHistory(prior.astype(np.float64), request["fade"] * len(samples))
    outcome = personalize(
        artifact,
        samples,
        Settings(**request["settings"]),
        earlier=earlier,
        rates=rates(),
        on_progress=lambda step, share: _say(messages, {"step": step, "share": share}),
    )
    reference = _reference(artifact, samples)
    generation = store.save(request["profile"], outcome.profile)
    return {
        "outcome": "saved",
        "message": f"personalised from {len(samples)} samples.",
        "generation": generation,
        "report": outcome.report.to_dict(),
        "reference": reference,
    }


def _reference(artifact: Any, samples: _Samples) -> dict[str, Any]:
    """What the network as trained says of these samples, for drift to be measured against."""
    from ..runtime.session import Session
    from ._drift import fit_reference

    session = Session(artifact, threads=1)
    outputs = []
    for start in range(0, len(samples), _BATCH):
        indices = range(start, min(start + _BATCH, len(samples)))
        outputs.append(session.run(np.stack([samples[index] for index in indices])))
    return fit_reference(artifact.info.logits(np.concatenate(outputs))).to_dict()


def _say(stream: TextIO, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
