"""The fused passes on a CPU against golden, in every bit, with int8 and with float products."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from golden.errors import LockstepError
from golden.ops import Add, Conv2d, Rescale
from golden.ops import step as ops
from golden.ops.range_norm import chunking
from models import build_model
from sw.executor import Torch
from sw.integer import passes
from sw.integer.passes import FusedPasses
from sw.integer.runner import Runner
from sw.integer.step import integer_step
from sw.integer.train import state_hash
from sw.train.distributed import World
from tests.sw.integer.networks import NETWORKS, batch, step_program

SEED, STEP = np.array([[7]], np.int32), np.array([[-3]], np.int32)
KINDS = pytest.mark.parametrize("int8", [True, False], ids=["int8", "float"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    result = tmp_path_factory.mktemp("passes")
    passes.build(result)
    return result


@pytest.fixture
def fused(folder, int8):
    if int8 and not FusedPasses(folder)._int8:
        pytest.skip("this processor has no exact products of int8")
    return FusedPasses(folder, int8)


def assert_equal(fused, op, *inputs):
    wanted = op(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = fused(op, [torch.from_numpy(np.array(x)) for x in inputs])
    assert found is not None
    for one, other in zip(found, wanted, strict=True):
        assert str(one.dtype) == f"torch.{other.dtype}"
        np.testing.assert_array_equal(one.numpy(), other)
    return wanted


def one(value, dtype="int32"):
    return np.array([[value]], dtype)


def channels(rng, low, high, n, dtype="int32"):
    return rng.integers(low, high, (1, n)).astype(dtype)


def gradients(rng, shape):
    g = (rng.normal(0, 1, shape) * 10.0 ** rng.uniform(0, 5, (1, shape[1], 1, 1)))
    g = g.clip(-32768, 32767).astype(np.int16)
    g.flat[:4] = 32767, -32768, 32639, -32640
    return g


# (images, channels, outputs, (H, W), kernel, stride, padding)
CONVOLUTIONS = [(6, 3, 5, (9, 7), (3, 3), (1, 1), (1, 1, 1, 1)),
                (4, 5, 4, (8, 8), (3, 3), (2, 2), (1, 1, 1, 1)),
                (5, 4, 6, (7, 9), (1, 1), (2, 2), (0, 0, 0, 0)),
                (3, 2, 7, (6, 5), (1, 1), (1, 1), (0, 0, 0, 0)),
                (2, 3, 2, (11, 6), (5, 2), (3, 1), (2, 0, 1, 3)),
                (2, 1, 1, (4, 4), (3, 3), (3, 4), (4, 4, 4, 4)),
                (7, 64, 32, (4, 4), (4, 4), (1, 2), (0, 1, 2, 0)),
                # Axes of length 1, whose strides mean nothing.
                (6, 1, 6, (5, 4), (1, 1), (1, 1), (0, 0, 0, 0)),
                (6, 6, 1, (5, 4), (1, 1), (1, 1), (0, 0, 0, 0)),
                (1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
                (1, 5, 4, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
                # More padding than a kernel reaches, and taps that see nothing.
                (2, 2, 3, (5, 6), (2, 2), (1, 1), (3, 2, 2, 3)),
                (2, 2, 3, (3, 2), (3, 5), (1, 1), (1, 2, 1, 2)),
                # A number of images that no group divides.
                (31, 3, 4, (32, 32), (1, 1), (1, 1), (0, 0, 0, 0))]


@KINDS
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_products(fused, case):
    n, c, o, size, kernel, stride, padding = case
    rng = np.random.default_rng(sum(size))
    x = rng.integers(-128, 128, (n, c, *size)).astype(np.int8)
    w = rng.integers(-127, 128, (1, o, c, *kernel)).astype(np.int8)
    window = {"stride": stride, "padding": padding}
    q, = assert_equal(fused, ops.PreNormCodes(**window), x, w, channels(rng, -40, 90, o))
    assert_equal(fused, ops.PreNormCodes(**window), x, w, channels(rng, 6, 12, o))
    g8 = rng.integers(-127, 128, q.shape).astype(np.int8)
    for shift, pixels in ((-31, 1), (-3, 1), (0, 1), (2, 9), (9, 1), (33, 1), (80, 5)):
        op = ops.CodesGradient(size=size, tensor_id=9, pixels=pixels, **window)
        assert_equal(fused, op, g8, w, one(shift), SEED, STEP)
    g16 = gradients(rng, q.shape)
    assert_equal(fused, ops.KernelGradient(n_images=n, kernel=kernel, **window), x, g16)


@KINDS
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_kernel_for_each_channel(fused, case):
    n, c, _, size, kernel, stride, padding = case
    rng = np.random.default_rng(n)
    x = rng.integers(-128, 128, (n, c, *size)).astype(np.int8)
    w = rng.integers(-127, 128, (1, c, 1, *kernel)).astype(np.int8)
    window = {"stride": stride, "padding": padding, "groups": c}
    for low, high in ((-40, 90), (2, 9)):
        q, = assert_equal(fused, ops.PreNormCodes(**window), x, w, channels(rng, low, high, c))
    g8 = rng.integers(-127, 128, q.shape).astype(np.int8)
    for shift in (-31, -3, 0, 5, 33):
        assert_equal(fused, ops.CodesGradient(size=size, tensor_id=9, **window), g8, w, one(shift),
                     SEED, STEP)
    op = ops.KernelGradient(n_images=n, kernel=kernel, **window)
    assert_equal(fused, op, x, gradients(rng, q.shape))
    row = np.full((1, 1, 1, 512), -128, np.int8)
    wide = ops.KernelGradient(n_images=1, groups=1)
    assert_equal(fused, wide, row, np.full(row.shape, -32639, np.int16))


@KINDS
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_inference(fused, case, depthwise):
    n, c, o, size, kernel, stride, padding = case
    o = c if depthwise else o
    rng = np.random.default_rng(n)
    x = rng.integers(-128, 128, (n, c, *size)).astype(np.int8)
    w = rng.integers(-127, 128, (o, 1 if depthwise else c, *kernel)).astype(np.int8)
    bias = rng.integers(-2**29, 2**29, o).astype(np.int32) >> rng.integers(0, 25, o)
    for channels_of, fields in ((o, {}), (1, {"zero_point": -7, "low": -7, "high": 100})):
        rescale = Rescale(multiplier=rng.integers(0, 2**31, channels_of)
                          >> rng.integers(0, 31, channels_of),
                          shift=rng.integers(0, 63, channels_of), **{"zero_point": 0, **fields})
        assert_equal(fused, Conv2d(weights=w, bias=bias, input_zero_point=0, stride=stride,
                                   padding=padding, groups=c if depthwise else 1,
                                   rescale=rescale), x)


def test_addition_of_inference(folder):
    codes = np.arange(-128, 128, dtype=np.int8)
    a, b = (x.reshape(1, 1, 256, 256).copy() for x in np.meshgrid(codes, codes))
    op = Add(input_zero_points=(3, -20), input_rescales=((1 << 30, 31), (1700000000, 34)),
             rescale=Rescale(multiplier=1234567890, shift=50, zero_point=5, low=-9, high=120))
    assert len(np.unique(op(a, b))) > 100
    assert_equal(FusedPasses(folder), op, a, b)


def test_what_one_image_is_added_to_runs_by_its_definition(folder):
    op = Add(input_zero_points=(0, 0), input_rescales=((1 << 30, 31),) * 2,
             rescale=Rescale(multiplier=1 << 30, shift=50, zero_point=0))
    a, b = torch.ones((3, 4), dtype=torch.int8), torch.ones((1, 4), dtype=torch.int8)
    fused = FusedPasses(folder)
    assert fused(op, [a, b]) is None and fused(op, [b, a]) is None
    assert fused(op, [a, a]) is not None


@KINDS
def test_passes_serve_inside_and_outside_of_inference(fused):
    x = torch.ones((2, 3, 4, 4), dtype=torch.int8)
    inputs = [x, torch.ones((1, 2, 3, 1, 1), dtype=torch.int8), torch.zeros((1, 2)).int()]
    with torch.inference_mode():
        first = fused(ops.PreNormCodes(), inputs)
    assert torch.equal(fused(ops.PreNormCodes(), inputs)[0], first[0])


def test_inference_that_runs_by_its_definition(folder):
    rescale = Rescale(multiplier=2**30, shift=34, zero_point=0)
    fields = {"weights": np.ones((2, 2, 1, 1), np.int8), "bias": np.zeros(2, np.int32),
              "input_zero_point": 0, "rescale": rescale}
    x = [torch.ones((1, 2, 4, 4), dtype=torch.int8)]
    fused = FusedPasses(folder)
    assert fused(Conv2d(**fields), x) is not None
    for other in ({"input_zero_point": 3}, {"dilation": (2, 2)},
                  {"rescale": replace(rescale, rounding="gemmlowp")}):
        assert fused(Conv2d(**fields | other), x) is None


@KINDS
def test_the_largest_sums(fused):
    """All codes at their ends: no sum may saturate on the way."""
    x = np.full((2, 16, 8, 8), -128, np.int8)
    w = np.full((1, 3, 16, 8, 8), -127, np.int8)
    assert_equal(fused, ops.PreNormCodes(), x, w, np.array([[18, 18, 18]], np.int32))
    for value in (-32639, 32639, -128, 127):
        g = np.full((2, 3, 8, 8), value, np.int16)
        assert_equal(fused, ops.KernelGradient(n_images=2), x, g)
    g8 = np.full((2, 16, 8, 8), -127, np.int8)
    w = np.full((1, 16, 3, 8, 8), 127, np.int8)
    assert_equal(fused, ops.CodesGradient(size=(15, 15), tensor_id=1), g8, w, one(9), SEED, STEP)


@KINDS
@pytest.mark.parametrize("shape", [(5, 4, 6, 7), (1, 3, 9, 5), (18, 5, 1, 1), (40, 2, 4, 4)])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_norms(fused, shape, activation):
    rng = np.random.default_rng(shape[0])
    n, c = shape[:2]
    count = n * shape[2] * shape[3]
    q = (rng.normal(0, 1, shape) * 2.0 ** rng.integers(0, 8, (1, c, 1, 1))).clip(-128, 127)
    q = q.astype(np.int8)
    q[:, 0] = 5
    total, spread, _, *at = assert_equal(fused, ops.NormStatistics(count=count), q)
    gamma, beta = (channels(rng, -1 << 30, 1 << 30, c) for _ in range(2))
    sign, bias, multiplier, shift = ops.NormParameters(count=count)(gamma, beta, total, spread)
    e = one(-4, "int8")
    limits = (e,) if activation == "relu6" else ()
    for move in (-60, -30, -6, 0, 20):
        y, _ = assert_equal(fused, ops.NormApply(activation=activation), q, sign, bias, multiplier,
                            shift.astype(np.int32) + move, *limits)
    y = rng.integers(0, 128, shape).astype(np.int8) * rng.integers(0, 2, shape).astype(np.int8)
    mask = {"none": (), "relu": (y,), "relu6": (y, e)}[activation]
    g = gradients(rng, shape)
    sums = assert_equal(fused, ops.NormGradientSums(count=count, activation=activation), g, q,
                        *mask)
    mean, spike, _, _ = ops.NormGradientParameters(count=count)(*sums, total, spread, sign)
    op = ops.NormInputGradient(count=count, activation=activation, tensor_id=300)
    for move in (-60, -20, -8, 0, 30):
        assert_equal(fused, op, g, *at, sign, mean, spike, multiplier,
                     shift.astype(np.int32) + move, SEED, STEP, *mask)
    *_, low, high = assert_equal(fused, ops.NormStatistics(count=count, squares=True), q)
    centre, slope, slope_shift, *_ = ops.DeviationGradientParameters(count=count)(
        *sums, total, spread, low, high)
    deviation = ops.DeviationInputGradient(count=count, activation=activation, tensor_id=300)
    for shifts in (slope_shift, slope_shift * 0, slope_shift * 0 + 31, slope_shift * 0 + 62):
        for move in (-60, -20, -8, 0, 30):
            assert_equal(fused, deviation, g, q, sign, centre, slope, shifts, multiplier,
                         shift.astype(np.int32) + move, SEED, STEP, *mask)
        assert_equal(fused, deviation, g, q, sign, centre, slope * 0 + (-32768), shifts, multiplier,
                     shift.astype(np.int32), SEED, STEP, *mask)
    # Extremes of one chunk at one place, as large as they may be.
    length, chunks = chunking(count)
    at = [np.full((1, chunks, c), length // 2, np.int32) for _ in range(2)]
    spike = np.full((1, c), 1 << 30, np.int32)
    assert_equal(fused, op, g, *at, sign, mean, spike, multiplier, shift.astype(np.int32), SEED,
                 STEP, *mask)


@KINDS
@pytest.mark.parametrize("exponents", [(-3, -3, -3), (5, -20, 2), (-64, 63, 0), (0, 15, -15),
                                       (20, 0, -9), (-1, -2, 40)])
def test_additions(fused, exponents):
    rng = np.random.default_rng(1)
    shape = 3, 4, 5, 6
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for _ in range(2))
    given = [one(e, "int8") for e in exponents]
    for activation in ("none", "relu"):
        assert_equal(fused, ops.ResidualAddition(activation=activation), a, b, *given)
    g, h = gradients(rng, shape), gradients(rng, shape)[::-1]
    for activation, mask in (("none", ()), ("relu", (a,)), ("relu6", (a, one(-4, "int8"))),
                             ("relu6", (a, one(2, "int8"))), ("relu6", (a, one(5, "int8")))):
        op = ops.GradientAddition(tensor_id=77, activation=activation)
        assert_equal(fused, op, g, h, *given, SEED, STEP, *mask)


@KINDS
@pytest.mark.parametrize("name", ["digits", "resnet8", "bottlenecks", "ds_cnn", "mobilenet_relu6",
                                  "vgg"])
def test_steps_are_the_same(fused, name):
    _, settle = step_program(name, settle=True)
    _, step = step_program(name)
    pair = [Runner(settle), Runner(settle, passes=fused)]
    for number in range(4):
        if number == 2:
            pair = [Runner(step, state=runner.state, passes=runner._passes) for runner in pair]
        outputs = [runner(batch(step, number)) for runner in pair]
        for key in outputs[0]:
            assert torch.equal(outputs[0][key], outputs[1][key])
        for key, value in pair[0].state.items():
            assert torch.equal(value, pair[1].state[key]), key


def test_threads_do_not_matter(folder):
    _, step = step_program("resnet8")
    fused, states = FusedPasses(folder), []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            runner = Runner(step, passes=fused)
            runner(batch(step))
            states.append(runner.state)
    finally:
        torch.set_num_threads(threads)
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, 2, 7])
def test_products_of_any_shape_and_stride(rows, depth, columns):
    if not passes._int_mm_is_exact():
        pytest.skip("this processor has no exact products of int8")
    generator = torch.Generator().manual_seed(rows)
    a, b, at, bt = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
                    for shape in ((rows, depth), (depth, columns), (depth, rows),
                                  (columns, depth)))
    for left in (a, at.t(), at.t().contiguous()):
        for right in (b, bt.t(), bt.t().contiguous()):
            exact = (left.double() @ right.double()).int()
            assert torch.equal(passes._int8_product(left, right), exact)


def test_the_probe_sees_a_processor_that_saturates(monkeypatch):
    def saturating(a, b):
        """Pairs of products in 16 bits, codes of a made unsigned, as without VNNI."""
        a, b = a.long() + 128, b.long()
        pad = a.shape[1] % 2
        a, b = torch.nn.functional.pad(a, (0, pad)), torch.nn.functional.pad(b, (0, 0, 0, pad))
        pairs = a[:, ::2, None] * b[::2] + a[:, 1::2, None] * b[1::2]
        return (pairs.clamp(-(1 << 15), (1 << 15) - 1).sum(1) - 128 * b.sum(0)).int()

    monkeypatch.setattr(passes, "build_facts", lambda: ("flags : avx512_vnni",))
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not passes._int_mm_is_exact.__wrapped__()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.double() @ b.double()).int())
    assert passes._int_mm_is_exact.__wrapped__()
    monkeypatch.setattr(passes, "build_facts", lambda: ("flags : avx2",))
    assert not passes._int_mm_is_exact.__wrapped__()


class _Part(Torch):
    """The primitives of a part of a batch, in a thread that meets the others."""

    def __init__(self, which, values, barrier):
        self.which, self.values, self.barrier = which, values, barrier

    def part(self):
        return self.which, len(self.values)

    def all_sum(self, value):
        return self._exchange(value).sum(0)

    def all_max(self, value):
        return self._exchange(value).amax(0)

    def _exchange(self, value):
        self.values[self.which] = value
        self.barrier.wait()
        found = torch.stack(self.values)
        self.barrier.wait()
        return found


@KINDS
@pytest.mark.parametrize("n_parts", [2, 3])
@pytest.mark.parametrize(("name", "gradient"), [("digits", "extremes"), ("digits", "deviation"),
                                                ("ds_cnn", "deviation")])
def test_parts_of_a_batch_are_the_whole(fused, folder, name, gradient, n_parts):
    """Chunks cross the parts; every part ends with the state of one process without passes."""
    function, options, *_ = NETWORKS[name]
    torch.manual_seed(0)
    model = build_model(function, options | {"overrides": {"norm.range_gradient": gradient}})
    program = integer_step(model, 6, input_exponent=-6)
    whole = Runner(program)
    values, barrier = [None] * n_parts, threading.Barrier(n_parts, timeout=60)
    runners = [Runner(program, passes=FusedPasses(folder, fused._int8)) for _ in range(n_parts)]
    for which, runner in enumerate(runners):
        runner._primitives = _Part(which, values, barrier)
    for number in range(3):
        inputs, size = batch(program, number), 6 // n_parts
        wanted = whole(inputs)
        cut = [{key: value[which * size:(which + 1) * size] if program.tensors[key].batched
                else value for key, value in inputs.items()} for which in range(n_parts)]
        with ThreadPoolExecutor(n_parts) as pool:
            found = [*pool.map(lambda pair: pair[0](pair[1]), zip(runners, cut))]
        for key, value in wanted.items():
            torch.testing.assert_close(torch.cat([part[key] for part in found]), value, rtol=0,
                                       atol=0)
        for runner in runners:
            assert state_hash(runner.state) == state_hash(whole.state)


def test_what_is_not_exact_runs_as_golden(folder):
    fused = FusedPasses(folder, False)
    x, w = torch.zeros((1, 120, 3, 3), dtype=torch.int8), torch.zeros((1, 2, 120, 3, 3))
    shift = torch.zeros((1, 2), dtype=torch.int32)
    assert fused(ops.PreNormCodes(), [x, w.to(torch.int8), shift]) is None      # 1,080 terms
    assert fused(ops.WeightCodes(), [torch.zeros((1, 2, 2), dtype=torch.int16)]) is None
    groups = ops.PreNormCodes(groups=2)
    assert fused(groups, [x[:, :4], w[:, :, :2].to(torch.int8), shift]) is None


def test_a_compiler_that_is_not_there_or_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "COMMAND", ["no-such-compiler"])
    with pytest.raises(LockstepError, match=r"need g\+\+, which is not there"):
        passes.build(tmp_path)
    monkeypatch.setattr(passes, "COMMAND", ["g++", "--no-such-option"])
    with pytest.raises(LockstepError, match="do not compile: "):
        passes.build(tmp_path)
    monkeypatch.setattr(passes, "COMMAND", ["true"])
    with pytest.raises(LockstepError, match=r"do not compile: g\+\+ wrote nothing"):
        passes.build(tmp_path)
    monkeypatch.setattr(passes, "COMMAND", ["false"])
    with pytest.raises(LockstepError, match=r"do not compile: g\+\+ ended with 1"):
        passes.build(tmp_path)
    (tmp_path / passes.LIBRARY).write_text("no library")
    with pytest.raises(LockstepError, match="cannot be loaded: "):
        FusedPasses(tmp_path)


@pytest.mark.parametrize(("other", "used"), [("same", True), (0, False), (3, False)])
def test_processes_use_passes_of_one_kind_or_none(folder, monkeypatch, other, used):
    """What the processes exchange depends on the kind of their products."""
    fused = FusedPasses(folder, False)
    kind = 1 if other == "same" else other

    def all_reduce(value, how):
        value.copy_(torch.maximum(value, torch.tensor([kind, -kind])))
    monkeypatch.setattr("sw.integer.runner.dist.all_reduce", all_reduce)
    _, program = step_program("digits")
    runner = Runner(program, world=World(rank=0, size=2), passes=fused)
    assert (runner._passes is fused) == used
