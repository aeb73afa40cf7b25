"""Random, valid ONNX models as a hypothesis strategy, and inputs for them.

A model is a list of steps. A step is a role (a dense layer, a norm, a join, ...) and two numbers
that say which block of that role, on which earlier value, and how it is spelled. Every block
tracks shapes, so whatever is drawn is a valid graph; and it tracks the spread of its values, so
weights are scaled to keep activations near unit variance.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray
from onnx import TensorProto

from edgeprune.runtime._ort import make_session, run
from edgeprune.runtime.errors import InputError

from .assembly import ROLES, Frame, Step, build_model
from .builder import VOCABULARY

__all__ = ["Frame", "Step", "build_model", "draw_models", "inputs_for", "models"]

OPSETS = (17, 22)


def _code(size: int) -> SearchStrategy[int]:
    """A number of so many bytes, all equally likely; of integers hypothesis prefers the small."""
    return st.binary(min_size=size, max_size=size).map(int.from_bytes)


def flat(pairs: list[tuple[Step, Step | None]]) -> list[Step]:
    """The steps of all pairs; hypothesis draws short lists, so those of pairs are long enough."""
    return [step for pair in pairs for step in pair if step is not None]


_step = st.builds(Step, st.sampled_from(ROLES), _code(4), _code(10))
_frame = st.builds(Frame, st.integers(*OPSETS), _code(Frame.BYTES))
# Unique, though no two new objects are equal, because hypothesis leaves the elements of unique
# lists alone. Of others it makes five of six examples by copying one element over another: three
# hundred examples would be variations on seventy models.
_steps = st.lists(
    st.tuples(_step, st.none() | _step),
    min_size=1,
    max_size=12,
    unique_by=lambda pair: object(),
).map(flat)


def models(max_nodes: int = 40) -> SearchStrategy[onnx.ModelProto]:
    """Models of at most `max_nodes` nodes, Constant not counted; opset 17 to 22.

    Which choices led to a model is what hypothesis prints of one that fails a test:
    `build_model(Frame(...), [Step(...), ...])` makes it again.
    """
    return st.builds(build_model, _frame, _steps, st.just(max_nodes)).filter(is_lively)


def draw_models(count: int, seed_number: int, max_nodes: int = 40) -> list[onnx.ModelProto]:
    """Draw models outside of any test, the same for the same numbers."""
    found: list[onnx.ModelProto] = []

    @seed(seed_number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(models(max_nodes))
    def collect(model: onnx.ModelProto) -> None:
        found.append(model)

    collect()
    return found


def is_lively(model: onnx.ModelProto) -> bool:
    """Whether a model does something with its inputs that can be compared.

    Blocks take care of that, but `a + (1 - a)` and its kin are rare and hard to foresee. One run
    tells: of a few samples, and of the last of them with noise of the size of rounding errors.
    """
    feeds = {name: _with_noise(value) for name, value in inputs_for(model, 6, 0).items()}
    session = make_session(model.SerializeToString())
    try:
        return all(_differs(result) for result in run(session, None, feeds))
    except InputError as error:
        # A bug of ONNX Runtime 1.32: where it moves a Transpose behind a Pad that names its axes,
        # the Gather that it puts there reads amounts that are not given. No node of ours is called
        # so; whatever else fails is an error of the generator.
        if "node. Name:'Gather'" in str(error):
            return False
        raise


def _with_noise(samples: NDArray[Any]) -> NDArray[Any]:
    last = samples[-1:]
    if samples.dtype == np.float32:
        noise = np.random.default_rng(0).standard_normal(last.shape, np.float32)
        last = last * (1 + 1e-5 * noise)
    return np.concatenate([samples, last])


def _differs(result: NDArray[Any]) -> bool:
    """By more than a thousandth of itself from sample to sample, and by less under noise."""
    scale = np.abs(result).max()
    steps = [np.abs(after - before).max() for before, after in pairwise(result)]
    return bool(1e-2 < scale < 1e2 and min(steps[:-1]) > 1e-3 * scale > steps[-1])


def inputs_for(model: onnx.ModelProto, batch: int, seed: int) -> dict[str, NDArray[Any]]:
    """Inputs for a model: normal numbers, or indices where it wants integers."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [batch if dim.dim_param else dim.dim_value for dim in dims]
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            feeds[value.name] = rng.integers(0, VOCABULARY, shape)
        else:
            feeds[value.name] = rng.standard_normal(shape, np.float32)
    return feeds
