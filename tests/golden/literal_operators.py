"""Every operator once more, in Python ints and loops over elements: what golden is checked against.

Each function takes an operator and its inputs of one image as integer arrays, and gives one code
per index of the output. Nothing of golden is called but the fields of the operator, and its shape.
"""

import itertools

import numpy as np

from tests.golden import literal


def _rescaled(rescale, acc, channel):
    requantize = literal.gemmlowp if rescale.rounding == "gemmlowp" else literal.half_up
    channel = channel if len(rescale.multiplier) > 1 else 0
    return requantize(int(acc), int(rescale.multiplier[channel]), int(rescale.shift[channel]),
                      rescale.zero_point, rescale.low, rescale.high)


def _window(op, x, index):
    """The codes of a pooling window, without its padding, and how many there are with it."""
    channel, row, column = index
    codes = []
    for a, b in itertools.product(range(op.kernel[0]), range(op.kernel[1])):
        r, c = row * op.stride[0] + a - op.padding[0], column * op.stride[1] + b - op.padding[1]
        if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
            codes.append(int(x[channel, r, c]))
    return codes


def conv2d(op, x):
    acc = literal.conv2d(op, x.tolist())
    return lambda index: _rescaled(op.rescale, acc[index[0]][index[1]][index[2]], index[0])


def linear(op, x):
    return lambda index: _rescaled(op.rescale, int(op.bias[index[0]]) + sum(
        int(w) * (int(q) - op.input_zero_point) for w, q in zip(op.weights[index[0]], x)), index[0])


def add(op, *inputs):
    requantize = literal.gemmlowp if op.rescale.rounding == "gemmlowp" else literal.half_up

    def code(index):
        terms = [requantize((int(x[index]) - z) * 2**op.left_shift, *factor, 0, literal.INT32_MIN,
                            literal.INT32_MAX)
                 for x, z, factor in zip(inputs, op.input_zero_points, op.input_rescales)]
        return _rescaled(op.rescale, sum(terms), 0)
    return code


def mul(op, first, second):
    return lambda index: literal.mul(op, int(first[index]), int(
        second[index if second.shape == first.shape else (index[0], 0, 0)]))


def max_pool(op, x):
    return lambda index: max(_window(op, x, index))


def average_pool(op, x):
    return lambda index: _rescaled(op.rescale, sum(
        q - op.input_zero_point for q in _window(op, x, index)), 0)


def code_average_pool(op, x):
    def code(index):
        codes = _window(op, x, index)
        return max(op.low, min(op.high, literal.divide_half_away(sum(codes), len(codes))))
    return code


def global_average_pool(op, x):
    return lambda index: _rescaled(op.rescale, sum(
        q - op.input_zero_point for q in x[index[0]].ravel().tolist()), 0)


def concat(op, *inputs):
    axis = op.axis - 1

    def code(index):
        position = index[axis]
        for x in inputs:
            if position < x.shape[axis]:
                return int(x[(*index[:axis], position, *index[axis + 1:])])
            position -= x.shape[axis]
    return code


def _order(shape, channels_last):
    """The indices of a shape in the order of its elements."""
    axes = [*range(1, len(shape)), 0] if channels_last else [*range(len(shape))]
    for values in itertools.product(*(range(shape[axis]) for axis in axes)):
        yield tuple(value for _, value in sorted(zip(axes, values)))


def reshape(op, x):
    codes = dict(zip(_order(op.shape, op.channels_last),
                     (int(x[index]) for index in _order(x.shape, op.channels_last))))
    return lambda index: codes[index]


def clamp(op, x):
    return lambda index: max(op.low, min(op.high, int(x[index])))


def rescaling(op, x):
    return lambda index: _rescaled(op.rescale, int(x[index]) - op.input_zero_point, index[0])


def lookup(op, x):
    return lambda index: int(op.table[int(x[index]) + 128])


def range_norm(op, x):
    def code(index):
        m, b, shift = (int(values[index[0]]) for values in (op.multiplier, op.bias, op.shift))
        y = (int(x[index]) * m + b + (2**shift // 2)) // 2**shift
        return max(op.low, min(op.high, y))
    return code


BY_CLASS = {"Conv2d": conv2d, "Linear": linear, "Add": add, "Mul": mul, "MaxPool": max_pool,
            "AveragePool": average_pool, "CodeAveragePool": code_average_pool,
            "GlobalAveragePool": global_average_pool, "Concat": concat, "Reshape": reshape,
            "Clamp": clamp, "Rescaling": rescaling, "Lookup": lookup, "RangeNorm": range_norm}


def run(op, *inputs):
    """int8 arrays with a batch axis to int8, image by image."""
    shape = op.output_shape(*(x.shape[1:] for x in inputs))
    result = np.empty((len(inputs[0]), *shape), np.int8)
    for image, codes in zip(result, zip(*inputs)):
        code = BY_CLASS[type(op).__name__](op, *codes)
        for index in np.ndindex(shape):
            image[index] = code(index)
    return result
