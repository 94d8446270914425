"""What Lockstep exports comes back as the very Program; a changed graph is noticed."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from golden.errors import LockstepError
from golden.program.interpreter import run
from sw.formats.onnx.exporter.integer import export_integer, export_qdq
from sw.formats.onnx.importer import import_onnx
from tests.golden.stateful import streaming_program
from tests.programs import random_codes, residual_net, small_programs
from tests.sw.formats.onnx.importer.networks import saved

EXPORTS = {"integer": export_integer, "qdq": export_qdq}
PROGRAMS = small_programs()


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_comes_back(name, form, tmp_path):
    program = PROGRAMS[name]
    model = EXPORTS[form](program)
    assert model.opset_import[0].version >= 21
    onnx.checker.check_model(model, full_check=True)
    again = import_onnx(saved(model, tmp_path))
    assert again.sha256 == program.sha256
    x = random_codes(program, 3)
    for tensor, codes in run(program, x).items():
        np.testing.assert_array_equal(run(again, x)[tensor], codes)


def test_a_program_with_state_comes_back(tmp_path):
    program = streaming_program("NHWC")
    again = import_onnx(saved(export_integer(program), tmp_path))
    assert again.sha256 == program.sha256
    np.testing.assert_array_equal(again.state["memory"].initial, program.state["memory"].initial)


def test_a_traced_export_comes_back(tmp_path):
    program = residual_net()
    assert import_onnx(saved(export_integer(program, trace=True), tmp_path)
                       ).sha256 == program.sha256


@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_with_its_weights_in_another_file_comes_back(form, tmp_path):
    program = residual_net()
    onnx.save_model(EXPORTS[form](program), tmp_path / "model.onnx", save_as_external_data=True,
                    location="weights.bin", size_threshold=0)
    assert import_onnx(tmp_path / "model.onnx").sha256 == program.sha256
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(LockstepError, match="External data of tensor '.*' is missing"):
        import_onnx(tmp_path / "model.onnx")


def _weights(model):
    return max((tensor for tensor in model.graph.initializer if tensor.data_type
                == onnx.TensorProto.INT8), key=lambda tensor: len(tensor.raw_data))


def another_weight(model):
    tensor = _weights(model)
    codes = numpy_helper.to_array(tensor).copy()
    codes.flat[3] += 1
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))


def another_constant(model):
    """One that is no array of the Program: a rounding constant, a zero point."""
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 0)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))


def another_attribute(model):
    node = next(node for node in model.graph.node if node.op_type in ("ConvInteger", "Conv"))
    next(entry for entry in node.attribute if entry.name == "strides").ints[:] = [1, 1]
    next(entry for entry in node.attribute if entry.name == "pads").ints[:] = [1, 1, 1, 0]


def another_hash(model):
    next(entry for entry in model.metadata_props
         if entry.key == "lockstep.program_sha256").value = "0" * 64


def another_output(model):
    name = model.graph.node[0].output[0]
    model.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=name))


def fewer_nodes(model):
    del model.graph.node[-1]


def no_metadata_in_order(model):
    next(entry for entry in model.metadata_props
         if entry.key == "lockstep.program").value = "{"


def an_unknown_type(model):
    model.graph.initializer[0].data_type = 127


CHANGES = [another_weight, another_constant, an_unknown_type, another_attribute, another_hash,
           another_output, fewer_nodes, no_metadata_in_order]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_integer_graph_is_refused(change, tmp_path):
    model = export_integer(residual_net())
    change(model)
    with pytest.raises(LockstepError, match="not that of the program in its metadata") as caught:
        import_onnx(saved(model, tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_changed_qdq_graph_counts_itself(tmp_path):
    program = residual_net()
    model = export_qdq(program)
    another_weight(model)
    again = import_onnx(saved(model, tmp_path))
    assert again.sha256 != program.sha256
    assert "The program in the metadata is not that of the graph" in again.metadata["notes"][0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_qdq_graph_without_metadata_comes_near(name, tmp_path):
    program = PROGRAMS[name]
    model = export_qdq(program)
    del model.metadata_props[:]
    try:
        again = import_onnx(saved(model, tmp_path))
    except LockstepError as error:
        # Reshapes with channels last are written with a Transpose, tables with a Cast and Gather.
        assert ("Operator Transpose" in str(error) and "channels_last=True" in str(program.nodes)
                or "Operator Cast" in str(error) and name == "gate_net")
        return
    x = random_codes(program, 20)
    first = run(program, x)[program.outputs[0]]
    second = run(again, program.quantize_input(x))[again.outputs[0]]    # NCHW in the file
    apart = np.abs(first.astype(int) - second)
    # The programs have simple fractions as factors, and so many ties.
    assert apart.max() <= 2 and (apart > 0).mean() <= 0.35
