"""Files and graphs that are refused: one line that names the operator and the node or tensor."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flows import convert
from golden.errors import LockstepError
from sw.formats import parts
from sw.formats.onnx.importer import folding, import_network, import_onnx, model_file
from tests.sw.formats.onnx.importer.networks import Network, Quantized, residual, saved


def refused(model, folder, match):
    path = saved(model, folder)
    with pytest.raises(LockstepError, match=match) as caught:
        convert.main([str(path), "-o", str(folder / "program")])
    assert len(str(caught.value).splitlines()) == 1
    assert not (folder / "program").exists()


def finished(net, x):
    return net.model(net.quantized(x, 0.1, 0))


def test_an_unsupported_operator(tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.node("Elu", [net.quantized("x")], name="squashed")), tmp_path,
            r"Operator Elu \(node 'squashed'\) is not supported; supported are Add, .*Squeeze")


def test_a_product_that_broadcasts_otherwise(tmp_path):
    net = Quantized((3, 6, 6))
    x, y = net.quantized("x"), net.quantized(net.node("MaxPool", [net.quantized("x")],
                                                      kernel_shape=[6, 5]))
    refused(finished(net, net.node("Mul", [x, y], name="gate")), tmp_path,
            r"Operator Mul \(node 'gate'\): beside a tensor of shape \[3, 6, 6\] the other must "
            r"have the same one or, of 4 dimensions, one value per channel, not shape \[3, 1, 2\]")


def test_an_operator_of_another_domain(tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.node("Conv", [net.quantized("x")], domain="mine", name="own")),
            tmp_path, r"Operator mine.Conv \(node 'own'\) is not supported")


def test_a_softmax_in_the_middle(tmp_path):
    net = Quantized((6,))
    x = net.node("Softmax", [net.quantized("x")])
    x = net.node("Gemm", [net.quantized(x), net.weights((6, 6))])
    refused(finished(net, x), tmp_path, "Softmax .* runs on the host and so only at the end")


def test_a_float_model(tmp_path):
    refused(residual(), tmp_path, "A float model is not converted but quantized: python flows/")


@pytest.mark.parametrize("kind, domain, reason", [
    ("DynamicQuantizeLinear", "", "quantizes its activations anew in every run"),
    ("Quant", "qonnx.custom_op.general", "is quantized in QONNX form"),
    ("MatMulInteger", "", "leaves scales to other operators")])
def test_a_model_quantized_in_another_form(kind, domain, reason, tmp_path):
    net = Network((6,))
    model = net.model(net.node(kind, ["x"], domain=domain, name="own"))
    refused(model, tmp_path, rf"{kind} \(node 'own'\): the model {reason}; supported are fixed")


@pytest.mark.parametrize("shape", [("N", 3, "H", 6), ("N", None, 6, 6)])
def test_a_dynamic_shape(shape, tmp_path):
    net = Quantized((3, 6, 6))
    net.source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    refused(finished(net, net.node("Relu", [net.quantized("x")])), tmp_path,
            "Input 'x' must have a known shape with a batch in front")


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "UINT16", "INT64", "STRING"])
def test_an_input_of_another_type(kind, tmp_path):
    net = Quantized((3, 6, 6), dtype=getattr(TensorProto, kind))
    refused(finished(net, net.node("Relu", [net.quantized("x")])), tmp_path,
            f"Input 'x' must be float32, int8 or uint8, not {kind.lower()}")


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_codes_of_16_bits(kind, tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.node("Relu", [net.quantized("x", dtype=kind)])), tmp_path,
            f"(Tensor|tensor) .*{np.dtype(kind)}")


def test_weights_in_float16(tmp_path):
    net = Quantized((3, 6, 6))
    weights = net.constant(np.ones((2, 3, 1, 1), np.float16), "halves")
    refused(finished(net, net.node("Conv", [net.quantized("x"), weights])), tmp_path,
            "Tensor 'halves' is float16, which is not supported; supported are float32")


def test_an_activation_with_a_scale_per_channel(tmp_path):
    net = Quantized((3, 6, 6))
    x = net.quantized("x", np.full(3, 0.1), np.zeros(3))
    refused(finished(net, x), tmp_path, "must have one scale, not 3: activations are quantized "
            "per tensor")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_weights_with_a_zero_point(dtype, tmp_path):
    net = Quantized((3, 6, 6))
    codes = net.constant(np.ones((2, 3, 1, 1), dtype), "codes")
    weights = net.node("DequantizeLinear", [codes, *net.parameters(0.1, 5, dtype)])
    x = net.node("Conv", [net.quantized("x"), weights], name="shifted")
    refused(finished(net, x), tmp_path, r"Operator Conv \(node 'shifted'\): weights must have zero "
            r"point (0|128), not 5 \(tensor 'codes'\)")


def test_scales_along_another_axis(tmp_path):
    net = Quantized((3, 6, 6))
    x = net.node("Conv", [net.quantized("x"), net.weights((2, 3, 1, 1), axis=1)])
    refused(finished(net, x), tmp_path, "weights must have 1 scale or one for each of the 2 outp")


def test_weights_that_are_not_quantized(tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.conv(net.quantized("x"), 3, 4)), tmp_path,
            "weights .* must be quantized constants")


def test_an_activation_that_is_not_quantized(tmp_path):
    net = Quantized((3, 6, 6))
    x = net.node("Conv", [net.quantized("x"), net.weights((3, 3, 1, 1))])
    x = net.node("Conv", [x, net.weights((3, 3, 1, 1))], name="second")
    refused(finished(net, x), tmp_path, r"\(node 'second'\): input 0 \('conv.*'\) must come from a "
            "QuantizeLinear and DequantizeLinear, but is not quantized")


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_that_is_none(scale, tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.node("Relu", [net.quantized("x", scale)])), tmp_path,
            "scale of tensor '.*' must be finite and above 0")


def external(folder, present):
    net = Quantized((3, 6, 6))
    x = net.node("Conv", [net.quantized("x"), net.weights((2, 3, 1, 1))])
    model = finished(net, x)
    path = folder / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin",
                    size_threshold=0)
    if not present:
        (folder / "weights.bin").unlink()
    return path


def test_external_data(tmp_path):
    assert len(import_onnx(external(tmp_path, True)).nodes) == 1


def test_external_data_that_is_missing(tmp_path):
    with pytest.raises(LockstepError, match=r"model.onnx: External data of tensor '.*' is missing: "
                                            r"there is no file .*weights.bin"):
        import_onnx(external(tmp_path, False))


def test_external_data_that_is_cut_short(tmp_path):
    path = external(tmp_path, True)
    with open(tmp_path / "weights.bin", "r+b") as file:
        file.truncate(3)
    with pytest.raises(LockstepError, match="External data of tensor .* must have .* bytes from"):
        import_onnx(path)


@pytest.mark.parametrize(("key", "value", "match"), [
    ("location", "../weights.bin", "must lie in the folder of the model, not in"),
    ("location", "linked.bin", "must lie in the folder of the model, not in"),
    ("location", "circle.bin", "is damaged: Symlink loop"),
    ("location", "w" * 300, "is damaged: .*File name too long"),
    ("length", "1", "must have .* bytes from .* on, not 1 "), ("offset", "-1", "bytes from -1 on")])
def test_external_data_that_is_described_wrongly(key, value, match, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    path = external(folder, True)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "linked.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "circle.bin").symlink_to(folder / "circle.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LockstepError, match=match):
        import_onnx(path)


@pytest.mark.parametrize("content", [b"", b"\0", b"PK\x03\x04" * 50, b"TFL3" * 9, b"\x08\x07",
                                     b"\x08\x07\x3a\x02\x00\x00", b"\xff" * 40])
def test_a_file_that_is_no_model(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LockstepError, match="model.onnx is not an ONNX model"):
        import_onnx(path)


def test_a_model_that_is_cut_short(tmp_path):
    net = Quantized((3, 6, 6))
    content = finished(net, net.node("Relu", [net.quantized("x")])).SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(LockstepError) as caught:
            import_onnx(path)
        assert len(str(caught.value).splitlines()) == 1


def test_damaged_bytes_end_in_one_line_or_a_program(tmp_path):
    net = Quantized((3, 6, 6))
    x = net.node("Conv", [net.quantized("x"), net.weights((4, 3, 3, 3))])
    content, rng = finished(net, x).SerializeToString(), np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            import_onnx(path)
        except LockstepError as error:
            assert len(str(error).splitlines()) == 1


def test_a_gigabyte_of_zeros_is_not_read(tmp_path):
    path = tmp_path / "zeros.onnx"
    for start in (b"", b"\x08\x07", b"\x08\x07\x3a\xf0\xff\xff\xff\x03"):
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(1 << 30)
        with pytest.raises(LockstepError, match="zeros.onnx is not an ONNX model"):
            import_onnx(path)


def test_a_constant_without_end_is_not_made(tmp_path):
    net = Quantized((3, 6, 6))
    size = net.constant([1 << 40, 1 << 20])
    fill = numpy_helper.from_array(np.zeros(1, np.float32))
    x = net.node("Add", [net.quantized("x"), net.node("ConstantOfShape", [size], value=fill)])
    refused(finished(net, x), tmp_path, r"Operator ConstantOfShape \(node '.*'\): constants must "
            f"have at most {folding.MOST_ELEMENTS} elements")


def filled(net, *shape, value=0.0, dtype=np.float32):
    return net.node("ConstantOfShape", [net.constant(shape)],
                    value=numpy_helper.from_array(np.array([value], dtype)))


@pytest.mark.parametrize("make", [
    lambda net: net.node("Add", [filled(net, 1 << 16, 1), filled(net, 1, 1 << 16)]),
    lambda net: net.node("Clip", [filled(net, 1 << 16, 1), filled(net, 1, 1 << 16)]),
    lambda net: net.node("Concat", [filled(net, 1 << 20)] * 1000, axis=0),
    lambda net: net.node("Gather", [filled(net, 1, 1 << 16), filled(net, 1 << 16,
                                                                    dtype=np.int64)]),
    lambda net: net.node("Expand", [filled(net, 1 << 16, 1), net.constant([1, 1 << 16])]),
    lambda net: net.node("Range", [net.constant(0), net.constant(1 << 40), net.constant(1)]),
    lambda net: net.node("QuantizeLinear", [filled(net, 1, 1 << 16), filled(net, 1 << 16,
                                                                            value=1)], axis=0)],
    ids=["Add", "Clip", "Concat", "Gather", "Expand", "Range", "QuantizeLinear"])
def test_constants_that_grow_beyond_all_measure_are_not_made(make, tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.node("Add", [net.quantized("x"), make(net)])), tmp_path,
            f"constants must have at most {folding.MOST_ELEMENTS} elements")


@pytest.mark.parametrize(("kind", "second", "reason"), [
    ("QuantizeLinear", np.float32(0), "divide by zero encountered in "),
    ("Div", np.float32(0), "divide by zero encountered in "),
    ("Mul", np.float32(3e38), "overflow encountered in ")])
def test_constants_that_are_no_numbers(kind, second, reason, tmp_path):
    net = Quantized((3, 6, 6))
    x = net.node(kind, [filled(net, 3, 1, 1, value=3.0), net.constant(second)], name="folded")
    refused(finished(net, net.node("Add", [net.quantized("x"), x])), tmp_path,
            fr"Operator {kind} \(node 'folded'\): cannot be computed from its constants: {reason}")


@pytest.mark.parametrize("inputs", [[], [""]])
def test_a_shape_that_is_left_out(inputs, tmp_path):
    net = Quantized((3, 6, 6))
    x = net.node("Add", [net.quantized("x"), net.node("ConstantOfShape", inputs, name="empty")])
    refused(finished(net, x), tmp_path, r"Operator ConstantOfShape \(node 'empty'\): ")


@pytest.mark.parametrize("calls", [[0, 1, 1], [1, 2, 3], [-1, 0, 0]], ids=str)
def test_functions_without_end_are_not_inlined(calls, tmp_path):
    """Function i calls function i + 1 - c for every c: itself, or 40 levels, twice each."""
    net = Quantized((3, 6, 6))
    model = finished(net, net.node("f0", [net.quantized("x")], domain="mine"))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    for level in range(40):
        called = [max(level + 1 - c, 0) for c in calls]
        nodes = [helper.make_node(f"f{index}" if index < 40 else "Relu", [f"t{i}"], [f"t{i + 1}"],
                                  domain="mine" if index < 40 else "")
                 for i, index in enumerate(called)]
        model.functions.append(helper.make_function("mine", f"f{level}", ["t0"], ["t3"], nodes,
                                                    opsets))
    refused(model, tmp_path, "its functions must have at most 65536 nodes in all and call each "
            "other at most 64 deep")


@pytest.mark.parametrize("entries, entry", [
    (lambda graph: graph.node[1].attribute, onnx.AttributeProto()),
    (lambda graph: graph.initializer[0].dims, 1),
    (lambda graph: graph.output[0].type.tensor_type.shape.dim, onnx.TensorShapeProto.Dimension())],
    ids=["attributes", "sizes", "open sizes"])
def test_more_fields_than_a_model_has(entries, entry, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "MOST_FIELDS", 300)
    net = Quantized((3, 6, 6))
    model = finished(net, net.node("Relu", [net.quantized("x")]))
    import_onnx(saved(model, tmp_path))
    entries(model.graph).extend([entry] * 300)
    refused(model, tmp_path, "model.onnx: A model has at most 300 fields in all")


@pytest.mark.parametrize("make", [Network, Quantized])
def test_weights_that_many_layers_share(make, tmp_path, monkeypatch):
    net = make((6,))
    weights = net.floats((6, 6)) if make is Network else net.weights((6, 6), per_channel=False)
    x = "x" if make is Network else net.quantized("x")
    for _ in range(3):
        x = net.node("Gemm", [x, weights])
        x = x if make is Network else net.quantized(x)
    path, load = saved(net.model(x), tmp_path), import_network if make is Network else import_onnx
    load(path)
    monkeypatch.setattr(parts, "MOST_WEIGHTS", 100)
    with pytest.raises(LockstepError, match="model.onnx: The layers of a model have at most 100 "
                                            "weights in all"):
        load(path)


def test_tensors_that_nothing_writes_and_cycles(tmp_path):
    net = Quantized((3, 6, 6))
    refused(finished(net, net.node("Add", [net.quantized("x"), "absent"])), tmp_path,
            "Tensor 'absent' is written by no node")
    for kind in ("Relu", "Softmax"):
        net = Quantized((3, 6, 6))
        net.quantized("x")
        net.node(kind, ["b"], name="a")
        net.nodes.append(helper.make_node(kind, ["a_out"], ["b"], name="b"))
        refused(net.model("b"), tmp_path, "which depends on it")


def test_two_inputs(tmp_path):
    model = residual()
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3]))
    refused(model, tmp_path, "The graph must have 1 input, not 2")
