"""A whole integer training step as a Program: proven, saved, run by both executors; it learns."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from golden.errors import LockstepError
from golden.ops import step as ops
from golden.ops.step.update import rate_code
from golden.program import Program, encoding
from golden.program.interpreter import run as golden_run
from golden.program.sources import renewed_state, run_steps
from golden.program.verify import verify
from sw.executor import run as torch_run
from sw.formats.onnx.exporter.integer import export_integer
from tests.golden.ops.step import literal_norm, tiny_step
from tests.golden.ops.step.common import cosine, relative_error

N_IMAGES = 8


def batch(step, n_images=N_IMAGES, learning_rate=0.05):
    """Images of classes that differ in colour and in one corner."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, tiny_step.N_CLASSES, (n_images, 1)).astype(np.int8)
    x = rng.normal(0, 25, (n_images, *tiny_step.IMAGE))
    x += 60 * np.cos(label[:, :, None, None] * 1.3 + np.arange(3).reshape(1, 3, 1, 1))
    pairs = *rate_code(learning_rate / n_images), *rate_code(learning_rate * 1e-4)
    names = "rate", "rate shift", "decay", "decay shift"
    return {"x": np.clip(np.rint(x), -128, 127).astype(np.int8), "label": label,
            "seed": np.array([11], np.int32), "step": np.array([step], np.int32),
            **{name: np.array([value], np.int32) for name, value in zip(names, pairs)}}


def settled(n_images=N_IMAGES, activation="relu"):
    """The state after the first batch has been run 24 times."""
    program = tiny_step.tiny_step(n_images, settle=True, activation=activation)
    *_, last = run_steps(golden_run, program, [batch(0, n_images)] * 24)
    return renewed_state(program, last)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_three_steps_are_the_same_on_numpy_and_torch(activation, tmp_path):
    program = tiny_step.tiny_step(N_IMAGES, activation=activation)
    loaded = Program.load(program.save(tmp_path / "step"))
    assert loaded.sha256 == program.sha256
    report = verify(loaded)
    assert report.macs == sum(entry.macs for entry in report.nodes) > 0
    inputs = [batch(step) for step in range(3)]
    state = settled(activation=activation)
    moved = set()
    for one, other in zip(run_steps(golden_run, program, inputs, state),
                          run_steps(torch_run, loaded, inputs, state), strict=True):
        assert one.keys() == other.keys() == program.tensors.keys()
        for name, values in one.items():
            assert values.dtype == other[name].dtype == program.tensors[name].dtype
            np.testing.assert_array_equal(values, other[name], err_msg=name)
        for name in program.state:
            if (one[name] != one[program.state[name].renewed_by]).any():
                moved.add(name)
    assert {"stem m", "stem v", "head m", "gamma", "beta", "bias", "mean"} <= moved
    for name, report_ranges in zip(program.nodes, report.nodes, strict=True):
        for output, (low, high) in zip(name.outputs, report_ranges.output_ranges):
            assert low <= one[output].min() and one[output].max() <= high, output


def test_it_learns():
    n_images, n_steps = 32, 40
    program = tiny_step.tiny_step(n_images)
    state, losses = settled(n_images), []
    for trace in run_steps(golden_run, program,
                           [batch(step, n_images) for step in range(n_steps)], state):
        losses.append(trace[program.outputs[1]].mean() / 65536)
        assert (trace["x"] != 0).any()
    assert losses[0] > 1.2 and np.mean(losses[-5:]) < 0.5 * losses[0]


def real_gradients(trace):
    """The loss and gradients of the same network in float64, by torch: of real values."""
    def real(name, exponent):
        return torch.tensor(trace[name][0] * 2.0 ** exponent, requires_grad=True)

    e = {name: int(trace[name][0, 0]) for name in ("stem e", "head e")}
    leaves = {"stem": real("stem w", e["stem e"]), "gamma": real("gamma", -28),
              "beta": real("beta", -28), "head": real("head w", e["head e"]),
              "bias": real("bias", -24)}
    x = torch.tensor(trace["x"] * 2.0 ** tiny_step.IMAGE_EXPONENT)
    codes = functional.conv2d(x, leaves["stem"], padding=1).transpose(0, 1).flatten(1)
    length, number, factor, *_ = literal_norm.constant(codes.shape[1])
    spread = sum(chunk.amax(1) - chunk.amin(1) for chunk in codes.split(length, 1))
    y = (codes - codes.mean(1, keepdim=True)) * (leaves["gamma"] * factor / spread)[:, None]
    y = (y + leaves["beta"][:, None]).relu().reshape(-1, len(x), tiny_step.PIXELS).mean(2).t()
    logits = y @ leaves["head"].t() + leaves["bias"]
    loss = functional.cross_entropy(logits, torch.tensor(trace["label"][:, 0]).long(),
                                    reduction="sum")
    loss.backward()
    return loss.item(), {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def test_gradients_are_those_of_the_network_in_float64():
    n_images = 32
    program = tiny_step.tiny_step(n_images)
    inputs = [batch(step, n_images) for step in range(12)]
    for trace in run_steps(golden_run, program, inputs, settled(n_images)):
        loss, exact = real_gradients(trace)
        e = {name: int(trace[name][0, 0]) for name in ("stem e", "head e", "e_ga", "e_gl", "e_p",
                                                       "e_gh", "gamma exponent")}
        dw = {name: trace[f"{name} dw"].astype(int) << 8 for name in ("stem", "head")}
        found = {"stem": dw["stem"] * 2.0 ** (e["e_ga"] - e["stem e"]),
                 "head": dw["head"] * 2.0 ** (e["e_gl"] + e["e_p"]),
                 "gamma": trace["between/2"] * 2.0 ** e["gamma exponent"],
                 "beta": trace["between/3"] * 2.0 ** e["e_gh"],
                 "bias": trace["db"] * 2.0 ** e["e_gl"]}
        assert abs(trace["loss/1"].sum() / 65536 - loss) < 0.01 * loss + 0.05
        for name, gradient in exact.items():
            assert cosine(found[name], gradient) > 0.99, name
            assert relative_error(found[name], gradient) < 0.15, name


WINDOW = {"stride": (2, 1), "padding": (1, 0, 1, 0)}
POOL = {"kernel": (3, 2), "padding": (1, 0, 0, 1)}
EXAMPLES = [
    ops.ExponentRule(bits=7, settle=True), ops.ShiftSum(signs=(1, -1), dtypes=("int8", "int32"),
                                                        offset=-3),
    ops.LaneCodes(low=-3, high=9), ops.LaneCodes(low=0, high=9, width=16, per_channel=True,
                                                 tensor_id=4),
    ops.GradientDigits(), ops.GradientCodes(tensor_id=7),
    ops.PreNormCodes(groups=2, **WINDOW), ops.CodesGradient(size=(4, 5), tensor_id=1, **WINDOW),
    ops.CodesGradient(pixels=5, width=8, tensor_id=1),
    ops.KernelGradient(n_images=3, kernel=(3, 2), **WINDOW), ops.BiasGradient(n_images=3),
    ops.NormStatistics(count=50), ops.NormParameters(count=50, running=True),
    ops.NormApply(activation="relu6"), ops.NormGradientSums(count=50, activation="relu"),
    ops.NormGradientParameters(count=50), ops.NormInputGradient(count=50, tensor_id=9),
    ops.NormStatistics(count=50, squares=True), ops.DeviationGradientParameters(count=50),
    ops.DeviationInputGradient(count=50, tensor_id=9, activation="relu"),
    ops.ResidualAddition(activation="none"), ops.GradientAddition(tensor_id=3, activation="relu"),
    ops.AverageCodes(low=0, **POOL), ops.AverageGradient(size=(7, 8), tensor_id=1, **POOL),
    ops.MaximumCodes(**POOL), ops.MaximumGradient(size=(7, 8), stride=(1, 2), tensor_id=1, **POOL),
    ops.GlobalAverageCodes(low=-128), ops.SpreadGradient(size=(3, 4)),
    ops.MaskedGradient(activation="relu6"), ops.ReshapedGradient(shape=(2, 3)),
    ops.Dropout(drop=51, tensor_id=4), ops.DropoutGradient(drop=51, tensor_id=4, rounding_id=5),
    ops.LogitSums(), ops.CrossEntropy(), ops.WeightCodes(), ops.WeightUpdate(tensor_id=13),
    ops.VectorUpdate(fraction=28), ops.RunningStatistics(count=50, settle=True)]


@pytest.mark.parametrize("op", EXAMPLES, ids=lambda op: type(op).__name__)
def test_every_operator_is_a_record_that_can_be_stored(op):
    stored = json.loads(json.dumps(encoding.encode(op, {})))
    loaded = encoding.decode(stored, {})
    assert type(loaded) is type(op) is encoding.CLASSES[type(op).__name__]
    assert {field.name: getattr(loaded, field.name) for field in fields(op)} == {
        field.name: getattr(op, field.name) for field in fields(op)}
    assert op.n_inputs == len(op.input_dtypes) and op.n_outputs == len(op.output_dtypes)
    assert op.__doc__ and op.input_rows(0, 1) is None
    with pytest.raises(ValueError, match=f"must get {op.n_inputs} inputs, not {op.n_inputs + 1}"):
        op.output_shape(*[(1,)] * (op.n_inputs + 1))


def test_every_operator_has_an_example():
    assert {type(op) for op in EXAMPLES} == {*ops.STEP_OPERATORS}


def rewired(program, node, **changes):
    nodes = tuple(replace(n, **changes) if n.name == node else n for n in program.nodes)
    return replace(program, nodes=nodes)


def test_what_is_wired_wrongly_is_refused():
    program = tiny_step.tiny_step(N_IMAGES)
    node = {node.name: node for node in program.nodes}
    for name, changes, message in (
            ("norm", {"op": ops.NormParameters(count=100)},
             "Total must be one of 100 codes, not -36864..36576"),
            ("between", {"op": ops.NormGradientParameters(count=100)},
             "sum_g high must be one of 100 codes"),
            ("running statistics", {"op": ops.RunningStatistics(count=287)},
             "Total must be one of 287 codes"),
            ("y", {"inputs": (node["y"].inputs[0], "e_q", *node["y"].inputs[2:])},
             "Sign must fit 2 bits, not -128"),
            ("ga", {"inputs": (*node["ga"].inputs[:5], "gamma", *node["ga"].inputs[6:])},
             "z must fit 32 bits"),
            ("stem w", {"inputs": ("head m",)}, "must have shape"),
            ("acc", {"inputs": ("pool/0", "head w", "e_q", "bias shift")},
             r"must get bias of shape \(5,\), not \(4,\)"),
            ("s", {"inputs": ("e_q", "stem v")}, "ShiftSum"),
            ("gl", {"inputs": ("loss/0", "gl shift", "seed", "label")},
             "must get step without a batch")):
        with pytest.raises(LockstepError, match=message):
            verify(rewired(program, name, **changes))
    with pytest.raises(LockstepError, match="runs batches of 8, not 7"):
        golden_run(program, batch(0, 7))




def test_there_is_no_onnx_form():
    with pytest.raises(LockstepError, match="Node stem w: WeightCodes has no ONNX form"):
        export_integer(tiny_step.tiny_step(N_IMAGES))
