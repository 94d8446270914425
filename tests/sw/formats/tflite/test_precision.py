"""The precision in which each kernel computes its factor, with scales that lie near ties.

Half-way between two codes one bit of the factor changes the code; random scales miss that. So
scales are drawn whose quotient is near (2 k + 1) / (2 n), of which codes of the input make ties,
until both precisions give other codes. LiteRT must then agree with the registered one.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.litert import Reference
from golden.program.interpreter import run
from sw.formats.tflite.registry import KINDS
from tests.sw.formats.tflite.networks import Network, imported

ALL_CODES = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)
MOST_DRAWS = 1000
OTHER = {np.float32: np.float64, np.float64: np.float32}


def scales_near_a_tie(rng):
    """(scale of the input, of the output), float32."""
    output = np.float32(rng.uniform(0.01, 0.2))
    quotient = (2 * rng.integers(0, 100) + 1) / (2 * rng.integers(1, 100))
    return np.float32(output * quotient), output


class OneOperator(Network):
    """An operator from (1, 16, 16, 1) to the same shape, or from (1, 1, 1, 256) for MEAN."""

    def __init__(self, rng, shape=(1, 16, 16, 1)):
        super().__init__(shape)
        self.scale, self.output_scale = scales_near_a_tie(rng)
        self.input = self.tensor(shape, self.scale, 3)

    def output(self, shape=(1, 16, 16, 1)):
        return self.tensor(shape, self.output_scale, -4)

    def unary(self, kind, rng, **options):
        y = self.output()
        self.operator(kind, [self.input], [y], **options)
        return self.finish(y)

    def weighted(self, kind, rng, **options):
        """A weight of 1 whose scale takes part in the quotient."""
        part = np.float32(rng.uniform(0.01, 0.2))
        x = self.input = self.tensor((1, 16, 16, 1), np.float32(self.scale / part), 3)
        one = np.ones((1, 1) if kind == "FULLY_CONNECTED" else (1, 1, 1, 1), np.int8)
        bias, y = self.constant(np.zeros(1, np.int32), self.scale), self.output()
        self.operator(kind, [x, self.constant(one, part), bias], [y], **options)
        return self.finish(y)

    def doubled(self, kind, rng):
        y = self.output()
        self.operator(kind, [self.input, self.input], [y])
        return self.finish(y)

    def mean(self, kind, rng):
        x, y = self.tensor((1, 1, 1, 256), self.scale, 3), self.output((1, 1, 1, 256))
        self.input = x
        self.operator(kind, [x, self.constant(np.array([1, 2], np.int32))], [y], KeepDims=True)
        return self.finish(y)


    def squared(self, kind, rng):
        root = np.sqrt(np.float64(self.scale) * rng.uniform(0.5, 2))
        other = np.float64(self.scale) / np.float32(root)
        x, second = (self.tensor((1, 16, 16, 1), scale, 3) for scale in (root, other))
        self.operator("QUANTIZE", [x], [second])
        self.input, y = x, self.output()
        self.operator(kind, [x, second], [y])
        return self.finish(y)

    def gated(self, kind, rng):
        """The factor's nearest 15 bits: a quotient half way between two of those."""
        quotient = (rng.integers(1 << 14, 1 << 15) + 0.5) / (1 << 15)
        x = self.input = self.tensor((1, 16, 16, 1), self.output_scale * quotient, 3)
        y = self.output()
        self.operator(kind, [x], [y])
        return self.finish(y)


WINDOW = {"StrideH": 1, "StrideW": 1}
CASES = {
    "RELU": (OneOperator.unary, {}), "RELU6": (OneOperator.unary, {}),
    "RELU_N1_TO_1": (OneOperator.unary, {}), "LEAKY_RELU": (OneOperator.unary, {"Alpha": 0.5}),
    "MUL": (OneOperator.squared, {}), "HARD_SWISH": (OneOperator.gated, {}),
    "QUANTIZE": (OneOperator.unary, {}), "ADD": (OneOperator.doubled, {}),
    "MEAN": (OneOperator.mean, {}), "CONV_2D": (OneOperator.weighted, WINDOW),
    "DEPTHWISE_CONV_2D": (OneOperator.weighted, {**WINDOW, "DepthMultiplier": 1}),
    "FULLY_CONNECTED": (OneOperator.weighted, {"KeepNumDims": True}),
}


def codes_of(program):
    return run(program, ALL_CODES.reshape(1, *program.input_shape))[program.outputs[0]]


def test_every_kernel_with_a_factor_has_a_case():
    assert set(CASES) == {name for name, kind in KINDS.items() if kind.precision}


@pytest.mark.parametrize("kind", CASES)
def test_litert_agrees_with_the_registered_precision_alone(kind, tmp_path, monkeypatch):
    build, options = CASES[kind]
    rng, registered = np.random.default_rng(0), KINDS[kind]
    other = replace(registered, precision=OTHER[registered.precision])
    n_found = 0
    for _ in range(MOST_DRAWS):
        content = build(OneOperator(rng), kind, rng, **options)
        right = imported(content, tmp_path)
        monkeypatch.setitem(KINDS, kind, other)
        wrong = imported(content, tmp_path)
        monkeypatch.setitem(KINDS, kind, registered)
        if (codes_of(right) == codes_of(wrong)).all():
            continue
        name = right.outputs[0]
        expected = Reference(content).trace(ALL_CODES.reshape(1, *right.input_shape), [name])[name]
        np.testing.assert_array_equal(codes_of(right), expected)
        assert (codes_of(wrong) != expected).any()
        n_found += 1
        if n_found == 3:
            return
    pytest.fail(f"{n_found} of {MOST_DRAWS} pairs of scales tell the precisions apart")
