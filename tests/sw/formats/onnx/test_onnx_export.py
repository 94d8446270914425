"""The integer ONNX model gives golden's bits in ONNX Runtime; the QDQ model comes near them."""

import dataclasses
import hashlib

import numpy as np
import onnx
import pytest

from golden import arith, ops
from golden.errors import LockstepError
from golden.program import Node, Program, Quantization, Tensor
from golden.program.interpreter import run as golden_run
from sw.formats.onnx import runtime as onnx_runtime
from sw.formats.onnx.exporter.integer import export_integer, export_qdq
from tests.golden.stateful import step_program, streaming_program
from tests.programs import (
    batch_norm_net,
    linear_net,
    norm_net,
    random_codes,
    residual_net,
    small_programs,
)

PROGRAMS = small_programs()


def assert_same(program, x, **options):
    expected = golden_run(program, x)
    actual = onnx_runtime.run(program, x, **options)
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == np.int8
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", PROGRAMS)
def test_matches_golden(name, optimize):
    assert_same(PROGRAMS[name], random_codes(PROGRAMS[name], 5), optimize=optimize)


def test_batches_beyond_one_piece(monkeypatch):
    monkeypatch.setattr(onnx_runtime, "BATCH", 3)
    assert_same(PROGRAMS["residual_net"], random_codes(PROGRAMS["residual_net"], 7))


def extreme_net(depth, weight):
    """A convolution whose products all have one sign: 16-bit sums of them would saturate."""
    tensors = {name: Tensor(name=name, shape=shape, quantization=Quantization(scale=scale,
                                                                              zero_point=0))
               for name, shape, scale in (("x", (depth, 5, 5), 1.0), ("y", (4, 3, 3), 1e4))}
    rescale = ops.Rescale.from_factors(60 / (depth * 9 * 128 * 127), zero_point=0)
    op = ops.Conv2d(weights=np.full((4, depth, 3, 3), weight, np.int8), input_zero_point=0,
                    bias=np.zeros(4, np.int32), rescale=rescale)
    return Program(name="extreme", nodes=(Node(name="conv", op=op, inputs=("x",), outputs=("y",)),),
                   tensors=tensors, inputs=("x",), outputs=("y",))


@pytest.mark.parametrize("depth", [1, 7, 64])
@pytest.mark.parametrize("weight", [-127, 127])
def test_products_do_not_saturate(depth, weight):
    program = extreme_net(depth, weight)
    for code in (-128, 127):
        x = np.full((2, depth, 5, 5), code, np.int8)
        assert_same(program, x)
        assert abs(int(onnx_runtime.run(program, x)["y"].flat[0])) in (59, 60)


def test_model_is_plain_checked_and_names_its_program():
    program = residual_net()
    model = export_integer(program)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.name for entry in model.graph.input] == ["input"]
    assert [entry.name for entry in model.graph.output] == list(program.outputs)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["lockstep.program_sha256"] == program.sha256
    assert float(metadata["lockstep.input.input.scale"]) == program.input.quantization.scale
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT8


# Of nodes and constants, integer and QDQ: exports are read back by making them again, so those
# written before must stay as they are.
WRITTEN = {
    "residual_net": ("ef0bc639fe9dfd02", "8b87b7a75961cfd5"),
    "linear_net": ("53c3a3f19c8fce6b", "4bf6803a12009553"),
    "pool_net": ("95fd1c092a41e9bd", "5f2f8ff62e0e250b"),
    "code_average_net": ("3d90adae4d4878cf", "cdf8cb707c543d6c"),
    "conv_shapes_net": ("027f088841b5a587", "4956f622fa906808"),
    "concat_net": ("c2800956da5cac39", "5c2597ea8f59a272"),
    "norm_net": ("e3b679a6902f762f", "a37c1e05ffaf045e"),
    "residual_net_gemmlowp": ("b5818a7b92cfddc2", "8b87b7a75961cfd5"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_graphs_stay_as_they_were_written(name):
    for export, digest in zip((export_integer, export_qdq), WRITTEN[name]):
        graph = export(PROGRAMS[name]).graph
        data = b"".join(part.SerializeToString(deterministic=True)
                        for part in (*graph.node, *graph.initializer))
        assert hashlib.sha256(data).hexdigest()[:16] == digest


def test_export_is_deterministic():
    first, second = (export(residual_net()).SerializeToString(deterministic=True)
                     for export in (export_integer, export_integer))
    assert first == second
    assert (export_qdq(residual_net()).SerializeToString(deterministic=True)
            == export_qdq(residual_net()).SerializeToString(deterministic=True))


@pytest.mark.parametrize("taken", ["linear0/MatMulInteger:0", "linear0/weights"])
def test_tensors_may_be_called_as_those_of_the_export(taken):
    program = linear_net()

    def renamed(names):
        return tuple(taken if name == "linear0_out" else name for name in names)
    nodes = [dataclasses.replace(node, inputs=renamed(node.inputs), outputs=renamed(node.outputs))
             for node in program.nodes]
    tensors = dict(zip(renamed(program.tensors), program.tensors.values()))
    tensors[taken] = dataclasses.replace(tensors[taken], name=taken)
    assert_same(dataclasses.replace(program, nodes=nodes, tensors=tensors), random_codes(program))


def test_batch_statistics_are_refused():
    program = batch_norm_net(2)
    for export in (export_integer, export_qdq):
        with pytest.raises(LockstepError, match="range_norm1: RangeNorm with batch statistics"):
            export(program)


def scaled(program, scales):
    """The program with other scales of some tensors."""
    tensors = {name: dataclasses.replace(tensor, quantization=dataclasses.replace(
        tensor.quantization, scale=scales.get(name, tensor.quantization.scale)))
        for name, tensor in program.tensors.items()}
    return dataclasses.replace(program, tensors=tensors)


@pytest.mark.parametrize(("scales", "message"), [
    ({"input": 1e-45}, r"Scale of tensor input must be in 1.17549e-38..1.33444e\+36, what float32 "
                       r"holds, not 1e-45"),
    ({"input": 1e38}, r"Scale of tensor input must be in .*, not 1e\+38"),
    ({"linear0_out": 1e-36}, r"Scale of the bias of tensor linear0_out must be in 1.17549e-38.."),
    ({"linear0_out": 1e33}, r"Scale of the bias of tensor linear0_out .*1.58456e\+29, what"),
    ({"input": 1e-30, "linear0_out": 1e20}, r"Scale of the weights of tensor linear0_out .*\+36")],
    ids=["small input", "large input", "small bias", "large bias", "large weights"])
def test_scales_beyond_float32_are_refused(scales, message):
    with pytest.raises(LockstepError, match=message):
        export_qdq(scaled(linear_net(), scales))


@pytest.mark.parametrize(("scales", "what"), [
    ({"conv0_out": 1e-30, "range_norm1_out": 1e20}, "Gain"), ({"range_norm1_out": 1e36}, "Offset")])
def test_norms_beyond_float32_are_refused(scales, what):
    program = norm_net()
    norm = program.nodes[1]
    nodes = list(program.nodes)
    nodes[1] = dataclasses.replace(norm, op=dataclasses.replace(
        norm.op, bias=np.full_like(norm.op.bias, 2**30)))
    with pytest.raises(LockstepError, match=f"{what} of tensor range_norm1_out must be in"):
        export_qdq(scaled(dataclasses.replace(program, nodes=nodes), scales))


def test_a_wrong_bias_changes_the_output():
    program = linear_net()
    node = program.nodes[-1]
    bias = node.op.bias + np.int32(2000)
    wrong_node = dataclasses.replace(node, op=dataclasses.replace(node.op, bias=bias))
    wrong = dataclasses.replace(program, nodes=(*program.nodes[:-1], wrong_node))
    x = random_codes(program)
    output = program.outputs[0]
    assert (onnx_runtime.run(wrong, x)[output] != golden_run(program, x)[output]).any()


def run_qdq(program, x):
    """The codes of every tensor as the QDQ model computes them, from int8 codes x (NCHW)."""
    model = export_qdq(program)
    for name, tensor in program.tensors.items():
        model.graph.output.append(onnx.helper.make_tensor_value_info(
            f"{name}_codes", onnx.TensorProto.INT8, ["N", *tensor.shape]))
    quantization = program.input.quantization
    real = arith.dequantize(x, quantization.scale, quantization.zero_point).astype(np.float32)
    runner = onnx_runtime.session(model, optimize=False)
    names = [f"{name}_codes" for name in program.tensors]
    return dict(zip(program.tensors, runner.run(names, {f"{program.inputs[0]}_real": real})))


@pytest.mark.parametrize("name", PROGRAMS)
def test_qdq_comes_near(name):
    program = PROGRAMS[name]
    expected = golden_run(program, random_codes(program, 5))
    actual = run_qdq(program, expected[program.inputs[0]])
    np.testing.assert_array_equal(actual[program.inputs[0]], expected[program.inputs[0]])
    # Approximate by nature: a code in three may be one off, or two where two wrong ones meet.
    for tensor, codes in expected.items():
        apart = np.abs(codes.astype(int) - actual[tensor].astype(int))
        assert apart.max() <= 2, tensor
        assert (apart > 0).mean() <= 0.35, tensor


def test_state_becomes_further_inputs_and_outputs():
    def described(values):
        return {value.name: (value.type.tensor_type.elem_type,
                             [d.dim_param or d.dim_value
                              for d in value.type.tensor_type.shape.dim]) for value in values}

    kinds = onnx.TensorProto
    graph = export_integer(step_program()).graph
    assert described(graph.input) == {
        "x": (kinds.INT8, [3, 5]), "target": (kinds.INT8, [3, 5]), "rate": (kinds.INT32, [1, 1]),
        "masters": (kinds.INT16, [1, 5]), "momenta": (kinds.INT32, [1, 5])}
    assert described(graph.output) == {
        "y": (kinds.INT8, [3, 5]), "sums": (kinds.INT32, [1, 5]),
        "masters_next": (kinds.INT16, [1, 5]), "momenta_next": (kinds.INT32, [1, 5])}
    graph = export_integer(streaming_program()).graph
    assert [*described(graph.input)] == ["x", "bias", "memory"]
    assert [*described(graph.output)] == ["limited", "both", "mixed"]


def test_what_has_no_form_for_steps_is_refused():
    with pytest.raises(LockstepError, match="Node gradient: Gradient has no ONNX form"):
        export_integer(step_program(batch=None))     # a sum over a batch of unknown length
    with pytest.raises(LockstepError, match=r"Program stream: state \(memory\) has no QDQ form"):
        export_qdq(streaming_program())
    with pytest.raises(LockstepError, match="Tensor rate must be int8 with a batch for the QDQ"):
        export_qdq(step_program(state={}))
