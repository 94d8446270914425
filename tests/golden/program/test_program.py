"""Programs: fields, input quantization, the interpreter, and files that are damaged or altered."""

import json
import os
import zipfile

import numpy as np
import pytest

from golden import ops
from golden.errors import LockstepError
from golden.ops import range_norm
from golden.program import Node, Program, Quantization, Tensor, interpreter
from golden.program.encoding import array_hash
from tests.golden.samples import residual_program

FILES = ("program.json", "tensors.npz")


def images(n=2, layout="NCHW"):
    x = np.random.default_rng(7).normal(size=(n, 3, 8, 8)).astype(np.float32)
    return x if layout == "NCHW" else x.transpose(0, 2, 3, 1)


def test_round_trip_keeps_everything(tmp_path):
    program = residual_program(metadata={"seed": 1, "accuracy": 0.9, "classes": ["a", "b"]})
    program.save(tmp_path / "p")
    loaded = Program.load(tmp_path / "p")
    assert loaded.sha256 == program.sha256
    assert loaded.metadata == program.metadata
    assert loaded.tensors == program.tensors
    assert loaded.input_layout == "NCHW"
    expected, got = interpreter.run(program, images()), interpreter.run(loaded, images())
    assert list(expected) == list("xanbsmcgfy")
    for name, value in expected.items():
        assert got[name].dtype == np.int8
        assert (got[name] == value).all()
        assert value.shape == (2, *program.tensors[name].shape)
    assert len(np.unique(expected["y"])) > 3


def test_every_operator_round_trips(tmp_path):
    config = range_norm.RangeNormConfig.from_floats(
        count=128, gamma=np.ones(3), beta=np.zeros(3), eps=1e-5, input_scale=0.1,
        output_scale=0.1, output_zero_point=0)
    rescale = ops.Rescale.from_factors(0.25, zero_point=0)
    chain = [ops.RangeNorm(batch=config), ops.Clamp(low=0),
             ops.AveragePool(kernel=(2, 2), stride=(2, 2), input_zero_point=0, rescale=rescale),
             ops.Rescaling(input_zero_point=0, rescale=rescale)]
    q, shape = Quantization(scale=0.1, zero_point=0), (3, 8, 8)
    tensors, nodes = {"t0": Tensor(name="t0", shape=shape, quantization=q)}, []
    for i, op in enumerate(chain):
        shape = op.output_shape(shape)
        tensors[f"t{i + 1}"] = Tensor(name=f"t{i + 1}", shape=shape, quantization=q)
        nodes.append(Node(name=f"n{i}", op=op, inputs=(f"t{i}",), outputs=(f"t{i + 1}",)))
    program = Program(name="chain", nodes=nodes, tensors=tensors, inputs=("t0",), outputs=("t4",))
    program.save(tmp_path / "p")
    got = interpreter.run(Program.load(tmp_path / "p"), images())
    assert (got["t4"] == interpreter.run(program, images())["t4"]).all()


def test_bytes_are_the_same_every_time(tmp_path):
    residual_program().save(tmp_path / "a")
    residual_program().save(tmp_path / "b")
    Program.load(tmp_path / "a").save(tmp_path / "a")       # replaces itself
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "a" / "tensors.npz") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
    assert residual_program(seed=1).sha256 != residual_program().sha256
    assert residual_program(metadata={"a": 1}).sha256 != residual_program().sha256


def test_metadata_is_kept_as_json_reads_it(tmp_path):
    program = residual_program(metadata={10: (1, 2), 9: None})
    program.save(tmp_path / "p")
    loaded = Program.load(tmp_path / "p")
    assert loaded.metadata == {"10": [1, 2], "9": None}
    assert loaded.sha256 == program.sha256


def test_a_failed_save_leaves_the_old_program(tmp_path, monkeypatch):
    program = residual_program()
    program.save(tmp_path / "p")
    rename = os.rename

    def failing(source, target):
        if str(source).endswith("new"):
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="disk full"):
        residual_program(seed=1).save(tmp_path / "p")
    assert Program.load(tmp_path / "p").sha256 == program.sha256
    assert os.listdir(tmp_path) == ["p"]


def test_save_keeps_foreign_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LockstepError, match="must not be overwritten"):
        residual_program().save(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(LockstepError, match="Metadata of program residual must fit JSON"):
        residual_program(metadata={"a": object()}).save(tmp_path / "p")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_any_altered_byte_is_seen(tmp_path):
    directory = residual_program().save(tmp_path / "p")
    for name in FILES:
        path = directory / name
        data = path.read_bytes()
        for position in np.linspace(0, len(data) - 2, 40).astype(int):
            changed = bytearray(data)
            changed[position] ^= 1
            path.write_bytes(changed)
            if name == FILES[0] and _same_json(data, changed):
                continue
            with pytest.raises(LockstepError, match=name):
                Program.load(directory)
        path.write_bytes(data)
    Program.load(directory)


def _same_json(first, second):
    try:
        return json.loads(first) == json.loads(second.decode())
    except ValueError:
        return False


def test_an_altered_array_names_both_hashes(tmp_path):
    directory = residual_program().save(tmp_path / "p")
    path = directory / "tensors.npz"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(LockstepError, match="tensors.npz is altered: its sha256 is [0-9a-f]{64}, "
                                            "recorded is [0-9a-f]{64}"):
        Program.load(directory)
    document = json.loads((directory / "program.json").read_text())
    document["program"]["name"] = "other"
    (directory / "program.json").write_text(json.dumps(document))
    with pytest.raises(LockstepError, match=f"program.json is altered: .*{document['sha256']}"):
        Program.load(directory)


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_missing_files(tmp_path, name):
    directory = residual_program().save(tmp_path / "p")
    data = (directory / name).read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 3):
        (directory / name).write_bytes(data[:length])
        with pytest.raises(LockstepError, match=name):
            Program.load(directory)
    (directory / name).unlink()
    with pytest.raises(LockstepError, match=f"{name} cannot be read: No such file"):
        Program.load(directory)


@pytest.mark.parametrize(("text", "message"), [
    ("[1, 2]", "is not a Lockstep program"),
    ('{"format": "onnx"}', "is not a Lockstep program"),
    ('{"format": "lockstep-program", "version": 99}', "must have format version 1 or 2, not 99"),
    ('{"format": "lockstep-program", "version": 1, "x": NaN}', "is damaged"),
    ('{"format": "lockstep-program", "version": 1}', "is altered"),
    ("[" * 100000, "is damaged"),
])
def test_foreign_files(tmp_path, text, message):
    (tmp_path / "program.json").write_text(text)
    with pytest.raises(LockstepError, match=f"program.json {message}"):
        Program.load(tmp_path)


def test_a_consistent_file_with_invalid_contents(tmp_path):
    from golden.program import encoding
    directory = residual_program().save(tmp_path / "p")
    original = json.loads((directory / "program.json").read_text())

    def damage(change, message):
        document = json.loads(json.dumps(original))
        change(document["program"])
        document["sha256"] = encoding.digest(encoding.canonical(document["program"]))
        (directory / "program.json").write_text(json.dumps(document))
        with pytest.raises(LockstepError, match=message):
            Program.load(directory)

    damage(lambda body: body.pop("nodes"), "program.json lacks 'nodes'")
    damage(lambda body: body["nodes"][0]["op"].update({"class": "Exec"}), "lacks 'Exec'")
    damage(lambda body: body["nodes"][0]["op"]["fields"].update(groups=4), "Groups must divide")
    damage(lambda body: body["nodes"][0]["op"]["fields"].update(extra=4), "is invalid: .*extra")
    damage(lambda body: body["nodes"][0]["op"]["fields"]["weights"].update(sha256="0"),
           "array a00000 has sha256")
    damage(lambda body: body.update(nodes=5), "is invalid")
    damage(lambda body: body["tensors"]["x"].update(scale="a"), "Scale must be a real number")


def test_input_quantization():
    program = residual_program()
    x = images()
    codes = program.quantize_input(x)
    assert codes.dtype == np.int8
    assert (codes == np.clip(np.floor(x.astype(np.float64) / 0.03 + 0.5) + 3, -128, 127)).all()
    assert (program.quantize_input(codes) == codes).all()
    nhwc = residual_program(layout="NHWC")
    assert nhwc.input_shape == (8, 8, 3)
    assert (nhwc.quantize_input(images(layout="NHWC")) == codes).all()
    for bad, message in ((x[:, :2], r"shape \(N, 3, 8, 8\) in NCHW, not \(2, 2, 8, 8\)"),
                         (x[0], "must have shape"),
                         (x.astype(np.int32), "float or int8, not int32"),
                         (np.float32(1), "must have shape"), (x * np.nan, "NaN")):
        with pytest.raises(LockstepError, match=message):
            program.quantize_input(bad)


def test_fields_are_checked():
    q = Quantization(scale=0.1, zero_point=0)
    tensor = Tensor(name="x", shape=(2,), quantization=q)
    fields = dict(name="p", nodes=(), tensors={"x": tensor}, inputs=("x",), outputs=("x",))
    Program(**fields)
    for change, error, message in (
            ({"inputs": "x"}, TypeError, "Inputs must be a sequence of names"),
            ({"inputs": ("x", "x")}, ValueError, "Inputs must be one or more different names"),
            ({"outputs": ("z",)}, ValueError, "Tensor z must be in tensors"),
            ({"tensors": {"y": tensor}}, ValueError, "must be stored under its name, not y"),
            ({"input_layout": "CHWN"}, ValueError, "Input layout must be NCHW or NHWC"),
            ({"name": ""}, ValueError, "Program name must not be empty")):
        with pytest.raises(error, match=message):
            Program(**{**fields, **change})
    with pytest.raises(ValueError, match="Scale must be finite and above 0, not -1"):
        Quantization(scale=-1, zero_point=0)
    with pytest.raises(ValueError, match="Dtype must be int8, int16 or int32, not 'int4'"):
        Quantization(scale=1.0, zero_point=0, dtype="int4")
    with pytest.raises(TypeError, match="Op of node n must be an operator"):
        Node(name="n", op=5, inputs=("x",), outputs=("x",))


def test_the_interpreter_names_the_node():
    program = residual_program()
    reversed_program = Program(name="p", nodes=program.nodes[::-1], tensors=program.tensors,
                               inputs=("x",), outputs=("y",))
    with pytest.raises(LockstepError, match="Node logits reads tensor 'f' before it is written"):
        interpreter.run(reversed_program, images())


def test_a_missing_key_inside_an_operator_is_not_taken_for_a_tensor(monkeypatch):
    def fail(self, x):
        return {}["inside"]
    monkeypatch.setattr(type(residual_program().nodes[0].op), "__call__", fail)
    with pytest.raises(KeyError, match="inside"):
        interpreter.run(residual_program(), images())


def test_the_hash_of_an_array_holds_its_dtype_and_shape():
    arrays = [np.zeros(shape, dtype) for shape, dtype in (
        ((2, 3), np.int8), ((3, 2), np.int8), (6, np.int8), (3, np.int16))]
    assert len({array_hash(array) for array in arrays}) == 4
    assert array_hash(arrays[0]) == array_hash(np.zeros((3, 2), np.int8).T)
