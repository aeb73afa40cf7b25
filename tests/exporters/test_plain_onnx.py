"""ONNX models from elsewhere: what can be read, what is inlined, what is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeprune.exporters import export_onnx
from edgeprune.runtime._ort import make_session
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ExportError
from edgeprune.runtime.profile import Profile

from .onnx_nets import around, constant, model_of, save, tensor, value
from .rows import pruned_rows_replaced

NEWEST = onnx.defs.onnx_opset_version()


def frozen(report: Any) -> dict[str, str]:
    return dict(report.frozen)


def invariant(path: Path, feeds: dict[str, Any] | None = None) -> bool:
    """Whether a pruned unit of each group has no say, whatever the weights of its rows are."""
    artifact, rng = Artifact.open(path), np.random.default_rng(0)
    if feeds is None:
        feeds = {artifact.info.input_name: rng.standard_normal((2, 3, 8, 8), np.float32)}
    for group in artifact.info.prunable:
        mask = np.ones(group.units, np.float32)
        mask[0] = 0
        noise = pruned_rows_replaced(artifact, {group.name: mask}, rng)
        one = make_session(path, {group.mask: mask}).run(None, feeds)[0]
        two = make_session(path, {group.mask: mask, **noise}).run(None, feeds)[0]
        if not np.array_equal(one, two):
            return False
    return bool(artifact.info.prunable)


def loads(model: onnx.ModelProto) -> bool:
    try:
        make_session(model.SerializeToString())
    except Exception:
        return False
    return True


# --- operator sets ------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(17, NEWEST + 1))
def test_operator_sets(tmp_path: Path, opset: int) -> None:
    model = around(opset=opset)
    if not loads(model):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not load operator set {opset}")
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    written = onnx.load(report.path)
    assert written.opset_import[0].version == opset
    onnx.checker.check_model(written, full_check=True)
    onnxruntime.InferenceSession(report.path)
    assert invariant(report.path)


def test_the_newest_operator_set_that_loads_is_not_an_old_one() -> None:
    assert loads(around(opset=min(23, NEWEST)))


def old_forms(opset: int) -> onnx.ModelProto:
    """Operators whose form changed: Pad, Squeeze, Unsqueeze, Clip and Dropout had attributes."""
    middle = [
        helper.make_node("Pad", ["r"], ["q"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        helper.make_node("Unsqueeze", ["q"], ["u"], axes=[0]),
        helper.make_node("Squeeze", ["u"], ["v"], axes=[0]),
        helper.make_node("Clip", ["v"], ["w"], min=0.0, max=6.0),
        helper.make_node("Dropout", ["w"], ["m"], ratio=0.5),
    ]
    return around(middle, opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_operator_sets_are_converted(tmp_path: Path, opset: int) -> None:
    report = export_onnx(old_forms(opset), tmp_path / "net.onnx")
    assert onnx.load(report.path).opset_import[0].version == 17
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert report.worst_error_random < 1e-5
    assert invariant(report.path)


@pytest.mark.parametrize("opset", range(11, 17))
def test_operator_sets_before_17_are_converted(tmp_path: Path, opset: int) -> None:
    report = export_onnx(around(opset=opset), tmp_path / "net.onnx")
    assert onnx.load(report.path).opset_import[0].version == 17
    assert invariant(report.path)


def test_a_conversion_that_changes_the_network(tmp_path: Path) -> None:
    scales = constant("scales", [1, 1, 2, 2], np.float32)
    middle = [helper.make_node("Upsample", ["r", "scales"], ["m"], mode="linear")]
    with pytest.raises(ExportError, match=r"converted from operator set 9.*may be why"):
        export_onnx(around(middle, [scales], opset=9), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_standard_operators(tmp_path: Path) -> None:
    model = around()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    with pytest.raises(ExportError, match="no standard ONNX operators"):
        export_onnx(model, tmp_path / "net.onnx")


# --- operators that are not standard ------------------------------------------------------------


def test_custom_operators_are_named(tmp_path: Path) -> None:
    middle = [helper.make_node("Swirl", ["r"], ["m"], domain="com.acme")]
    with pytest.raises(ExportError, match=r"cannot run the network.*com\.acme\.Swirl"):
        export_onnx(around(middle, domains={"com.acme": 1}), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_standard_name_that_does_not_exist(tmp_path: Path) -> None:
    middle = [helper.make_node("Swirl", ["r"], ["m"])]
    with pytest.raises(ExportError, match=r"the model is invalid: .*Swirl"):
        export_onnx(around(middle), tmp_path / "net.onnx")


def test_what_onnxruntime_knows_beyond_the_standard_freezes(tmp_path: Path) -> None:
    middle = [helper.make_node("QuickGelu", ["r"], ["m"], name="quick", domain="com.microsoft")]
    report = export_onnx(around(middle, domains={"com.microsoft": 1}), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "QuickGelu 'quick' is not understood channel by channel"
    assert [group.name for group in report.info.prunable] == ["b"]


def test_functions_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Neg", ["i"], ["n"]), helper.make_node("Neg", ["n"], ["o"])]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("com.acme", "Twice", ["i"], ["o"], body, opsets)
    middle = [helper.make_node("Twice", ["r"], ["m"], domain="com.acme")]
    model = around(middle, domains={"com.acme": 1})
    model.functions.append(function)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "b"]


# --- branches and loops -------------------------------------------------------------------------


def branch(name: str, op: str, source: str = "r", out: str = "") -> onnx.GraphProto:
    """A graph of one operator on a tensor of the graph around it."""
    out = out or f"{name}.out"
    node = helper.make_node(op, [source], [out], name=f"{name}.{op}")
    return helper.make_graph([node], name, [], [value(out, None)])


def an_if(condition: str, **attributes: Any) -> onnx.NodeProto:
    branches = {"then_branch": branch("yes", "Neg"), "else_branch": branch("no", "Abs")}
    return helper.make_node("If", [condition], ["m"], name="if", **branches | attributes)


@pytest.mark.parametrize(("condition", "left"), [(True, "Neg"), (False, "Abs")])
def test_a_branch_that_is_always_taken_is_inlined(
    tmp_path: Path, condition: bool, left: str
) -> None:
    model = around([an_if("condition")], [constant("condition", condition, np.bool_)])
    report = export_onnx(model, tmp_path / "net.onnx")
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert left in operators
    assert "If" not in operators
    assert [group.name for group in report.info.prunable] == ["a", "b"]
    assert invariant(report.path)


def test_a_branch_that_depends_on_sizes_is_inlined(tmp_path: Path) -> None:
    """As torch writes `squeeze`: is this axis of size one?"""
    middle = [
        helper.make_node("Shape", ["r"], ["shape"], start=1, end=2),
        helper.make_node("Equal", ["shape", "one"], ["same"]),
        an_if("same"),
    ]
    report = export_onnx(around(middle, [constant("one", [1])]), tmp_path / "net.onnx")
    assert "Abs" in {node.op_type for node in onnx.load(report.path).graph.node}
    assert [group.name for group in report.info.prunable] == ["a", "b"]


def test_branches_within_branches(tmp_path: Path) -> None:
    """An If inside, an inner constant, two outputs."""
    nodes = [
        helper.make_node("Conv", ["r", "inner.weight"], ["i"], name="inner"),
        helper.make_node("Equal", ["zero", "zero"], ["always"]),
        helper.make_node(
            "If",
            ["always"],
            ["deep"],
            then_branch=branch("yes2", "Relu", "i", "out2"),
            else_branch=branch("no2", "Abs", "i", "out3"),
        ),
        helper.make_node("Identity", ["deep"], ["out0"]),
        helper.make_node("Neg", ["i"], ["out1"]),
    ]
    weight = tensor("inner.weight", 6, 6, 1, 1)
    then = helper.make_graph(
        nodes, "then", [], [value("out0", None), value("out1", None)], [weight]
    )
    otherwise = helper.make_graph(
        [helper.make_node("Split", ["r"], ["out4", "out5"], num_outputs=2)],
        "else",
        [],
        [value("out4", None), value("out5", None)],
    )
    constants = [constant("condition", True, np.bool_), constant("zero", 0)]
    middle = [
        helper.make_node("If", ["condition"], ["u", "v"], then_branch=then, else_branch=otherwise),
        helper.make_node("Add", ["u", "v"], ["m"]),
    ]
    report = export_onnx(around(middle, constants), tmp_path / "net.onnx")
    assert [group.name for group in report.info.prunable] == ["a", "inner", "b"]
    assert invariant(report.path)


def test_a_branch_that_depends_on_values_freezes_what_it_captures(tmp_path: Path) -> None:
    middle = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        an_if("positive"),
    ]
    model = around(middle, [constant("zero", 0, np.float32)])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert frozen(report)["a"] == "If 'if' is not understood channel by channel"
    assert [group.name for group in report.info.prunable] == ["b"]


def test_what_a_branch_captures_through_an_identity_is_found(tmp_path: Path) -> None:
    middle = [
        helper.make_node("Identity", ["r"], ["same"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        an_if("positive", then_branch=branch("yes", "Neg", "same")),
    ]
    model = around(middle, [constant("zero", 0, np.float32)])
    assert "a" in frozen(export_onnx(model, tmp_path / "net.onnx"))


def test_a_loop_freezes_what_it_captures(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["carried", "r"], ["sum"]),
        ],
        "body",
        [
            value("i", [], TensorProto.INT64),
            value("going", [], TensorProto.BOOL),
            value("carried", None),
        ],
        [value("still", [], TensorProto.BOOL), value("sum", None)],
    )
    middle = [helper.make_node("Loop", ["three", "", "r"], ["m"], name="loop", body=body)]
    report = export_onnx(around(middle, [constant("three", 3)]), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "Loop 'loop' is not understood channel by channel"


# --- sizes that are not known -------------------------------------------------------------------


def test_sizes_that_depend_on_values_freeze(tmp_path: Path) -> None:
    """Channels are picked by what is not zero: two runs that agree prove nothing."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], name="a"),
        helper.make_node("ReduceMean", ["c", "axes"], ["mean"], keepdims=0),
        helper.make_node("NonZero", ["mean"], ["found"]),
        helper.make_node("Squeeze", ["found"], ["places"]),
        helper.make_node("Gather", ["c", "places"], ["g"], axis=1),
        helper.make_node("Conv", ["g", "b.weight"], ["d"], name="b"),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    constants = [
        tensor("a.weight", 6, 3, 3, 3),
        tensor("b.weight", 4, 6, 1, 1),
        constant("axes", [0, 2, 3]),
    ]
    report = export_onnx(model_of(nodes, constants), tmp_path / "net.onnx")
    assert report.info.prunable == ()
    assert "a" in frozen(report)


def test_a_shape_that_is_computed_from_values_is_not_taken_for_fixed(tmp_path: Path) -> None:
    middle = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "zero"], ["nothing"]),
        helper.make_node("Add", ["shape", "nothing"], ["target"]),
        helper.make_node("Reshape", ["r", "target"], ["m"], name="reshape"),
    ]
    constants = [constant("zero", 0), constant("shape", [-1, 6, 6, 6])]
    report = export_onnx(around(middle, constants), tmp_path / "net.onnx")
    assert frozen(report)["a"] == "Reshape 'reshape' has no known shape"


FREE = {"inputs": [value("x", ["batch", 3, "height", None])], "outputs": [value("y", ["batch", 4])]}


def test_free_sizes_are_told_and_can_be_fixed(tmp_path: Path) -> None:
    model = around(**FREE)
    with pytest.raises(ExportError, match=r"'x' has no fixed size.*--size height=N --size x:3=N"):
        export_onnx(model, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    info = export_onnx(model, tmp_path / "net.onnx", sizes={"height": 8, "x:3": 9}).info
    assert info.input_shape == (None, 3, 8, 9)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 8}, "no free size 'width'; free are: batch, height, x:3"),
        ({"x:1": 8}, "no free size 'x:1'"),
        ({"height": 0}, "height=0 is not positive"),
        ({"height": 1, "x:3": 1}, "fails on inputs|refuses the network"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(around(**FREE), tmp_path / "net.onnx", sizes=sizes)
    assert list(tmp_path.iterdir()) == []


def two_inputs(batch: str | None = "batch") -> onnx.ModelProto:
    """``y`` of a picture and a vector beside it, which is scaled."""
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight"], ["h"], name="a"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Mul", ["z", "scale"], ["w"]),
        helper.make_node("Concat", ["r", "w"], ["j"], axis=1),
        helper.make_node("Gemm", ["j", "head.weight"], ["y"], name="head"),
    ]
    inputs = [value("x", ["batch", 5]), value("z", [batch, 2]), value("scale", [])]
    weights = [tensor("a.weight", 5, 6), tensor("head.weight", 8, 4)]
    return model_of(nodes, weights, inputs=inputs)


@pytest.mark.parametrize("batch", ["batch", None, "n"])
def test_the_batch_of_other_inputs(tmp_path: Path, batch: str | None) -> None:
    sizes: Any = {"n": "batch"} if batch == "n" else {}
    report = export_onnx(two_inputs(batch), tmp_path / "net.onnx", sizes=sizes)
    shapes = {item.name: item.shape for item in report.info.inputs}
    assert shapes == {"x": (None, 5), "z": (None, 2), "scale": ()}


def test_a_free_size_of_another_name_has_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--size n=N \(or n=batch\)"):
        export_onnx(two_inputs("n"), tmp_path / "net.onnx")


def test_a_size_that_is_not_the_batch_although_it_has_no_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight"], ["h"], name="a"),
        helper.make_node("Gemm", ["h", "z"], ["y"], name="b"),
    ]
    inputs = [value("x", ["batch", 5]), value("z", [None, 2])]
    outputs = [value("y", ["batch", 2])]
    model = model_of(nodes, [tensor("a.weight", 5, 6)], inputs=inputs, outputs=outputs)
    with pytest.raises(ExportError, match=r"Taken for the batch: z:0\. If .*--size z:0=N\.$"):
        export_onnx(model, tmp_path / "net.onnx")
    report = export_onnx(model, tmp_path / "net.onnx", sizes={"z:0": 6})
    assert [item.shape for item in report.info.inputs] == [(None, 5), (6, 2)]


def test_an_input_becomes_a_constant(tmp_path: Path) -> None:
    model = two_inputs()
    report = export_onnx(model, tmp_path / "net.onnx", constants={"scale": 2})
    assert [item.name for item in report.info.inputs] == ["x", "z"]
    feeds = {"x": np.ones((2, 5), np.float32), "z": np.ones((2, 2), np.float32)}
    expected = make_session(model.SerializeToString()).run(
        None, {**feeds, "scale": np.array(2, np.float32)}
    )[0]
    got = make_session(report.path).run(None, feeds)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert len(model.graph.input) == 3  # the caller's model is as it was


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"rate": 1}, "no input 'rate'; its inputs are x, z, scale"),
        ({"scale": "loud"}, "'loud' for the input 'scale' is no float32"),
        ({"scale": [1, 2]}, r"does not have the shape \(\)"),
        ({"scale": 1e300}, "cannot be a float32"),
        ({"z": 1}, r"cannot fill it while its sizes are free"),
        ({"x": [[1] * 5], "z": [[1] * 2], "scale": 1}, "no input or no output"),
    ],
)
def test_constants_that_do_not_fit(tmp_path: Path, constants: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message), np.errstate(over="ignore"):
        export_onnx(two_inputs(), tmp_path / "net.onnx", constants=constants)
    assert list(tmp_path.iterdir()) == []


def test_a_value_for_a_whole_input(tmp_path: Path) -> None:
    constants = {"scale": 1, "z": [[1, 2]]}
    nodes = around().graph.node
    assert nodes
    model = two_inputs()
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = export_onnx(model, tmp_path / "net.onnx", constants=constants)
    assert report.info.input_shape == (1, 5)  # one sample of z, so one of x


# --- names --------------------------------------------------------------------------------------


def test_names_that_the_artifact_needs_are_given_others(tmp_path: Path) -> None:
    middle = [
        helper.make_node("Mul", ["r", "edgeprune.ones"], ["edgeprune/a/weight"], name="a.mask"),
        helper.make_node("Add", ["edgeprune/a/weight", "a.mask"], ["m"], name="edgeprune/x"),
    ]
    constants = [constant("edgeprune.ones", 3, np.float32), constant("a.mask", 1, np.float32)]
    report = export_onnx(around(middle, constants), tmp_path / "net.onnx")
    assert invariant(report.path)
    names = [group.name for group in report.info.prunable]
    assert len(names) == 2
    assert "a" not in names


def test_a_network_of_reserved_interface_names(tmp_path: Path) -> None:
    model = around()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "edgeprune.y"
    with pytest.raises(ExportError, match=r"'edgeprune\.y' has a name that edgeprune needs"):
        export_onnx(model, tmp_path / "net.onnx")


def test_a_weight_that_is_read_elsewhere_is_a_copy(tmp_path: Path) -> None:
    """A table of embeddings that the head multiplies by, too: a profile changes one of them."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"], name="embedding"),
        helper.make_node("ReduceMean", ["e", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "table"], ["y"], name="head", transB=1),
    ]
    constants = [tensor("table", 7, 6), constant("axes", [1])]
    inputs = [value("x", ["batch", 9], TensorProto.INT64)]
    model = model_of(nodes, constants, inputs=inputs, outputs=[value("y", ["batch", 7])])
    report = export_onnx(model, tmp_path / "net.onnx")
    artifact = Artifact.open(report.path)
    head = report.info.operator_by_name["head"]
    gather = next(
        n for n in artifact.model.graph.node if n.op_type == "Gather" and n.name == "embedding"
    )
    assert gather.input[0] not in artifact.tensors
    assert head.weight in artifact.tensors
    group = report.info.group_by_name["embedding"]
    assert (group.units, group.frozen, group.parameters) == (6, None, 2 * 7 * 6)
    assert not report.info.single


def test_a_compacted_model_can_be_exported_again(tmp_path: Path) -> None:
    from edgeprune.runtime.compact import compact

    report = export_onnx(around(), tmp_path / "net.onnx")
    masks = {"a": np.array([1, 0, 1, 1, 0, 1], np.bool_)}
    artifact = Artifact.open(report.path)
    profile = Profile(report.info.model_id, masks=masks)
    compact(artifact, profile, tmp_path / "small.onnx")
    again = export_onnx(tmp_path / "small.onnx", tmp_path / "again.onnx")
    assert [group.units for group in again.info.prunable] == [4, 5]


def test_an_artifact_is_no_source(tmp_path: Path) -> None:
    report = export_onnx(around(), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="exported by edgeprune already"):
        export_onnx(report.path, tmp_path / "again.onnx")


def test_a_model_in_memory_must_be_whole(tmp_path: Path) -> None:
    model = onnx.load(save(around(), tmp_path / "source.onnx"), load_external_data=False)
    with pytest.raises(ExportError, match=r"stands outside the model.*Give the path"):
        export_onnx(model, tmp_path / "net.onnx")


# --- products written as sums -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("bhqk,bhkd->bqhd", ((2, 3, 4, 6), (2, 3, 6, 5))),
        ("bqhd, bkhd -> bhqk", ((2, 4, 3, 5), (2, 6, 3, 5))),
        ("bd,cd->bc", ((2, 5), (6, 5))),
        ("bd,dc->cb", ((2, 5), (5, 6))),
        ("abc,cd->abd", ((2, 3, 4), (4, 5))),
        ("abc,dc->dab", ((2, 3, 4), (5, 4))),
    ],
)
@pytest.mark.parametrize("weight", [None, 0, 1])
def test_an_einsum_that_is_a_matmul(
    tmp_path: Path, equation: str, shapes: Any, weight: int | None
) -> None:
    if weight == 0 and len(shapes[0]) == 3:
        pytest.skip("a stack of weights on the left is none that a layer has")
    names = [f"i{place}" for place in range(2) if place != weight]
    inputs = [value(name, shapes[int(name[1])]) for name in names]
    constants = [] if weight is None else [tensor(f"i{weight}", *shapes[weight])]
    nodes = [helper.make_node("Einsum", ["i0", "i1"], ["y"], equation=equation)]
    model = model_of(nodes, constants, inputs=inputs, outputs=[value("y", None)])
    rank = len(equation.partition("->")[2].strip())
    model.graph.output[0].CopyFrom(value("y", [None] * rank))
    report = export_onnx(model, tmp_path / "net.onnx")
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert operators & {"MatMul", "Gemm"}
    assert "Einsum" not in operators


@pytest.mark.parametrize("equation", ["bd,bd->b", "bd,bd->bd", "ab,cd->abcd", "bb,bd->bd"])
def test_an_einsum_that_is_no_matmul_stays(tmp_path: Path, equation: str) -> None:
    nodes = [helper.make_node("Einsum", ["x", "x"], ["y"], equation=equation)]
    rank = len(equation.partition("->")[2])
    model = model_of(nodes, [], inputs=[value("x", [4, 4])], outputs=[value("y", [None] * rank)])
    report = export_onnx(model, tmp_path / "net.onnx")
    assert [node.op_type for node in onnx.load(report.path).graph.node] == ["Einsum"]


def test_attention_by_einsum_is_pruned_by_heads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Attention(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = torch.nn.Linear(12, 36), torch.nn.Linear(12, 5)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).unbind(2)
            weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
            return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).mean(1))

    from edgeprune.exporters import export

    report = export(Attention(), torch.zeros(1, 7, 12), tmp_path / "net.onnx", dynamo=False)
    group = report.info.group_by_name["qkv"]
    assert (group.units, group.kind) == (3, "heads")
    x = np.random.default_rng(0).standard_normal((2, 7, 12), np.float32)
    assert invariant(report.path, {report.info.input_name: x})


def test_a_sum_along_another_axis_passes(tmp_path: Path) -> None:
    middle = [helper.make_node("CumSum", ["r", "axis"], ["m"])]
    for axis, left in ((3, ["a", "b"]), (1, ["b"])):
        model = around(middle, [constant("axis", axis)])
        report = export_onnx(model, tmp_path / "net.onnx")
        assert [group.name for group in report.info.prunable] == left


# --- a batch that is given ----------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_becomes_free_where_the_network_allows_it(tmp_path: Path, batch: int) -> None:
    inputs, outputs = [value("x", [batch, 3, 8, 8])], [value("y", [batch, 4])]
    report = export_onnx(around(inputs=inputs, outputs=outputs), tmp_path / "net.onnx")
    assert report.info.input_shape == (None, 3, 8, 8)
    x = np.zeros((7, 3, 8, 8), np.float32)
    assert make_session(report.path).run(None, {"x": x})[0].shape == (7, 4)


@pytest.mark.parametrize("shape", [[1, 6, 6, 6], [1, -1, 6, 6]])
def test_a_fixed_batch_stays_where_the_network_is_made_for_it(
    tmp_path: Path, shape: list[int]
) -> None:
    """The second shape would run with any batch, and lay all samples side by side."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], name="a"),
        helper.make_node("Reshape", ["c", "shape"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    inputs, outputs = [value("x", [1, 3, 8, 8])], [value("y", [1, 6, 6, 6])]
    constants = [tensor("a.weight", 6, 3, 3, 3), constant("shape", shape)]
    model = model_of(nodes, constants, inputs=inputs, outputs=outputs)
    report = export_onnx(model, tmp_path / "net.onnx")
    assert report.info.input_shape == (1, 3, 8, 8)
