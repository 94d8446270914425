"""The torch executor gives golden's bits, tensor by tensor."""

import numpy as np
import pytest
import torch

from golden import ops
from golden.errors import LockstepError
from golden.program.compare import compare
from golden.program.interpreter import run as golden_run
from golden.program.verify import verify
from sw import executor
from tests.programs import batch_norm_net, random_codes, residual_net, small_programs

torch.set_num_threads(1)
PROGRAMS = small_programs()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here"))]


def assert_same(program, x, device):
    expected = golden_run(program, x)
    actual = executor.run(program, x, device=device)
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == np.int8
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)
    assert compare({"golden": expected, "torch": actual}, program) == []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_matches_golden(name, device):
    verify(PROGRAMS[name])
    assert_same(PROGRAMS[name], random_codes(PROGRAMS[name], 5), device)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_images(name):
    assert_same(PROGRAMS[name], random_codes(PROGRAMS[name], 0), "cpu")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_images", [1, 3])
def test_batch_statistics(n_images, device):
    program = batch_norm_net(n_images)
    assert_same(program, random_codes(program, n_images), device)


@pytest.mark.parametrize("device", DEVICES)
def test_other_seeds_and_float_inputs(device):
    for seed in range(1, 4):
        program = residual_net(seed)
        x = np.random.default_rng(seed).normal(0, 2, (3, *program.input_shape))
        assert_same(program, x.astype(np.float32), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (17, 64, 8), (5, 1024, 3), (40, 1153, 9)])
def test_int_matmul_is_exact_at_the_extremes(shape, device):
    rows, depth, columns = shape
    rng = np.random.default_rng(0)
    for draw in (lambda size: rng.choice([-128, 127], size), lambda size: np.full(size, -128),
                 lambda size: rng.integers(-128, 128, size)):
        a, b = draw((rows, depth)), draw((depth, columns))
        product = executor.int_matmul(torch.tensor(a, dtype=torch.int8, device=device),
                                      torch.tensor(b, dtype=torch.int8, device=device))
        assert product.dtype == torch.int32
        np.testing.assert_array_equal(product.cpu().numpy(), a.astype(np.int64) @ b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_float64_replaces_a_kernel_that_is_not_exact(monkeypatch):
    program = PROGRAMS["residual_net"]
    monkeypatch.setattr(executor, "_int_mm_is_exact", lambda: False)
    assert_same(program, random_codes(program), "cuda")


@pytest.mark.parametrize("groups", [None, 1, 2], ids=["matrices", "convolution", "grouped"])
def test_float32_is_not_exact_beyond_1024_addends(groups, monkeypatch):
    codes = torch.full((groups or 1, 1025), -128, dtype=torch.int8)
    codes[:, 0] = -127  # 127^2 is odd: the sum needs 25 bits

    def sums():
        if groups is None:
            return executor.int_matmul(codes, codes.t())
        return executor._convolve(codes.reshape(1, -1, 1, 1), codes.reshape(groups, -1, 1, 1),
                                  (1, 1), (0, 0, 0, 0), (1, 1), groups, 0)
    expected = 1024 * 128**2 + 127**2
    assert sums().flatten().tolist() == [expected] * len(codes)
    monkeypatch.setattr(executor, "FLOAT32_DEPTH", 1025)
    assert expected not in sums()


def test_large_batches_go_in_parts(monkeypatch):
    program = PROGRAMS["conv_shapes_net"]
    monkeypatch.setattr(executor, "PATCH_LIMIT", 2000)
    assert_same(program, random_codes(program, 7), "cpu")


def test_one_wrong_zero_point_is_found():
    program = residual_net()
    x = random_codes(program)
    expected = golden_run(program, x)
    wrong = residual_net()
    node = next(node for node in wrong.nodes if isinstance(node.op, ops.Conv2d))
    object.__setattr__(node.op, "input_zero_point", node.op.input_zero_point + 1)
    differences = compare({"golden": expected, "torch": executor.run(wrong, x)}, program)
    assert differences[0].node == node.name
    assert differences[0].backend == "torch"
    index = tuple(differences[0].index)
    assert differences[0].expected == expected[node.outputs[0]][index] != differences[0].actual


def test_input_errors():
    program = PROGRAMS["linear_net"]
    with pytest.raises(LockstepError, match="must have shape"):
        executor.run(program, np.zeros((2, 5), np.int8))
    with pytest.raises(LockstepError, match="must be float or int8, not int32"):
        executor.run(program, np.zeros((2, 37), np.int32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_absent_device():
    program = PROGRAMS["linear_net"]
    with pytest.raises(LockstepError, match="cuda is not available"):
        executor.run(program, random_codes(program), device="cuda")


@pytest.mark.parametrize("device", ["gpu0", "mps"])
def test_unknown_device(device):
    program = PROGRAMS["linear_net"]
    with pytest.raises(LockstepError, match=f"must be cpu, cuda or cuda:N, not {device}"):
        executor.run(program, random_codes(program), device=device)


def test_unknown_operator():
    with pytest.raises(LockstepError, match="has no object"):
        executor.execute(object())
