"""What the command line names in text: a factory of a network, its weights, an input shape."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import ExportError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

__all__ = ["load_factory", "parse_example", "parse_input_shape"]

_WRAPPERS = ("state_dict", "model")
_SHOWN = 5
_TYPES = ("float32", "int64", "int32", "bool")


def load_factory(spec: str, weights: str | Path | None = None) -> torch.nn.Module:
    """Call the factory ``package.module:function`` and load a state dict into what it returns.

    The current folder can be imported from, as with ``python -m``. Weights are read as plain
    tensors; a file that would run code when loaded is refused.

    Raises:
        ExportError: there is no such factory, it fails, or the weights do not fit.
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(
            "exporting needs PyTorch. Install it: pip install 'edgeprune[export]'"
        ) from error
    with _current_folder_first():
        module = _call(_find(spec), spec)
    if not isinstance(module, torch.nn.Module):
        raise ExportError(
            f"{spec} returned a {type(module).__name__}, no torch.nn.Module. Nothing was written."
        )
    if weights is not None:
        _load(module, _read_state(Path(weights)), Path(weights))
    return module


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _find(spec: str) -> Callable[[], Any]:
    module_name, colon, attribute = spec.partition(":")
    if not colon or not module_name or not attribute:
        raise ExportError(f"{spec!r} names no factory; write it as package.module:function.")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ExportError(
            f"cannot import {module_name!r} for the factory {spec}: "
            f"{type(error).__name__}: {error}. Nothing was written."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ExportError(f"{module_name!r} has no {attribute!r}. Nothing was written.")
        found = getattr(found, part)
    if not callable(found):
        raise ExportError(f"{spec} is a {type(found).__name__} and cannot be called.")
    return found  # type: ignore[no-any-return]


def _call(factory: Callable[[], Any], spec: str) -> Any:
    try:
        return factory()
    except Exception as error:  # the user's code
        raise ExportError(
            f"the factory {spec} failed: {type(error).__name__}: {error}. Nothing was written."
        ) from error


def _read_state(path: Path) -> Mapping[str, torch.Tensor]:
    import torch

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(
            f"cannot read the weights {path}: {error.strerror or error}. Nothing was written."
        ) from error
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError: damaged or not plain
        raise ExportError(
            f"{path} is no file of plain tensors, or is damaged. Save it with "
            "torch.save(module.state_dict(), path). Nothing was written."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise ExportError(f"{path} holds no state dict. Nothing was written.")
    if state and all(str(name).startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state  # type: ignore[no-any-return]


def _load(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    wanted = module.state_dict()
    problems = [
        _listed("missing", wanted.keys() - state.keys()),
        _listed("unexpected", state.keys() - wanted.keys()),
        _listed("of another shape", _misshaped(wanted, state)),
    ]
    if any(problems):
        text = "; ".join(problem for problem in problems if problem)
        raise ExportError(
            f"the weights {path} do not fit the network: {text}. Nothing was written."
        )
    module.load_state_dict(dict(state))


def _misshaped(
    wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> Iterable[str]:
    for name in wanted.keys() & state.keys():
        if wanted[name].shape != state[name].shape:
            yield f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"


def _listed(what: str, names: Iterable[str]) -> str:
    """The first few of the names, or nothing if there are none."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{len(ordered)} {what} ({', '.join(ordered[:_SHOWN])}{more})" if ordered else ""


def parse_input_shape(text: str) -> tuple[int, ...]:
    """Read ``1x3x224x224``.

    Raises:
        ExportError: anything else.
    """
    sizes = _sizes(text)
    if len(sizes) < 2:
        raise ExportError(
            f"{text!r} is no input shape; write the batch and the sizes as in 1x3x224x224."
        )
    return sizes


def _sizes(text: str) -> tuple[int, ...]:
    """Numbers between crosses; none if it is anything else."""
    plain = re.fullmatch(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6})*", text.strip())
    return tuple(int(size) for size in text.strip().split("x")) if plain else ()


def parse_example(text: str) -> torch.Tensor:
    """Zeros of the shape and type that ``1x16:int64`` says; without a type they are floats.

    Raises:
        ExportError: the text says neither shape nor type.
    """
    import torch

    shape, colon, kind = text.partition(":")
    if colon and kind not in _TYPES:
        raise ExportError(
            f"{text!r}: {kind!r} is no type of input; write one of {', '.join(_TYPES)}."
        )
    sizes = _sizes(shape) or parse_input_shape(shape)  # a second input may be of the batch alone
    return torch.zeros(sizes, dtype=getattr(torch, kind or "float32"))
