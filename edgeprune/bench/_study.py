"""What a study is made of: its arms, its users, what every arm may use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .. import runtime
from ..runtime.errors import InputError
from ..runtime.settings import Settings
from ._cells import CellKey, Level
from ._users import UserFiles

__all__ = ["Baselines", "Network", "Study", "UserTask", "code_digest"]


@dataclass(frozen=True)
class Baselines:
    """The fixed recipes of the arms that are not ours; chosen on development users.

    Attributes:
        bn_prior_samples: pseudo-sample size N of the BatchNorm statistics (Schneider et al. 2020):
            with n samples the user's statistics weigh n / (n + N).
        t3a_supports: supports that T3A keeps of each class, those of the least entropy.
        epochs, batch: of fine-tuning, with Adam, BatchNorm frozen.
        lr_last, lr_whole: learning rates of the last layer alone, and of all layers.
        lr_last_labels, lr_whole_labels: the same where the true labels are known.
    """

    bn_prior_samples: int = 4096
    t3a_supports: int = 20
    epochs: int = 5
    batch: int = 16
    lr_last: float = 3e-3
    lr_whole: float = 3e-5
    lr_last_labels: float = 3e-3
    lr_whole_labels: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = isinstance(getattr(Baselines, name), int)
            number = isinstance(value, int if whole else int | float)
            if not number or isinstance(value, bool) or not value > 0:
                what = "a whole number" if whole else "a number"
                raise InputError(f"{name} = {value!r} should be {what} above 0. Nothing was run.")


@dataclass(frozen=True)
class Network:
    """The network of one user: the artifact, and the PyTorch module behind it if it is given."""

    model: Path
    factory: str | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class Study:
    """Everything that is to be compared.

    Attributes:
        users: who.
        model, factory, weights: the network; a ``{user}`` in the paths stands for the user's name.
        arms: names, see `edgeprune.bench.arms`.
        levels: the sparsities.
        samples: the numbers of samples to adapt to.
        settings: of personalisation; its sparsity is replaced.
        baselines: recipes of the other arms.
        label_map: from what the data calls a class to what the model does.
    """

    users: tuple[UserFiles, ...]
    model: str
    arms: tuple[str, ...]
    levels: tuple[Level, ...]
    samples: tuple[int, ...]
    settings: Settings = field(default_factory=Settings)
    baselines: Baselines = field(default_factory=Baselines)
    factory: str | None = None
    weights: str | None = None
    label_map: Mapping[str, str] = field(default_factory=dict)

    def network(self, user: str) -> Network:
        """The network of a user."""
        weights = None if self.weights is None else Path(self.weights.replace("{user}", user))
        return Network(Path(self.model.replace("{user}", user)), self.factory, weights)

    def config(self) -> dict[str, Any]:
        """What results must share to be mixed, as JSON values. Users and models are the cells'."""
        settings = {k: v for k, v in asdict(self.settings).items() if k != "sparsity"}
        return {"settings": settings, "baselines": asdict(self.baselines)}


@dataclass(frozen=True)
class UserTask:
    """All that a process needs to know to measure one user.

    ``macs`` are the shares of multiply-adds that cells already measured removed, by sparsity and
    number of samples.
    """

    user: UserFiles
    network: Network
    model_id: str
    keys: tuple[CellKey, ...]
    settings: Settings
    baselines: Baselines
    label_map: Mapping[str, str]
    macs: Mapping[tuple[Level, int | None], float]


@cache
def code_digest() -> str:
    """Twelve hexadecimal digits that change with any line of the runtime's source."""
    folders = [Path(entry) for entry in runtime.__path__]
    return _digest(file for folder in folders for file in sorted(folder.rglob("*.py")))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
