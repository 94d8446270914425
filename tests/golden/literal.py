"""Plain Python-int transcriptions of gemmlowp's C++ and slow loops: what golden is checked against.

Written from google/gemmlowp fixedpoint/fixedpoint.h and tensorflow/lite/kernels/internal/common.h
(MultiplyByQuantizedMultiplier), not from golden.
"""

INT32_MIN, INT32_MAX = -2**31, 2**31 - 1


def truncate_divide(a, b):
    """C++ integer division."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def saturating_rounding_doubling_high_mul(a, b):
    if a == b == INT32_MIN:
        return INT32_MAX
    product = a * b
    nudge = (1 << 30) if product >= 0 else 1 - (1 << 30)
    return truncate_divide(product + nudge, 1 << 31)


def rounding_divide_by_pot(x, exponent):
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def saturate32(x):
    return max(INT32_MIN, min(INT32_MAX, x))


def gemmlowp(acc, multiplier, shift, zero_point, low, high):
    """Double rounding; `shift` counts from the integer multiplier, TFLite's from its fraction."""
    left, right = max(0, 31 - shift), max(0, shift - 31)
    y = saturating_rounding_doubling_high_mul(saturate32(acc * (1 << left)), multiplier)
    return max(low, min(high, rounding_divide_by_pot(y, right) + zero_point))


def half_up(acc, multiplier, shift, zero_point, low, high):
    """One rounding, by exact floor division of Python ints."""
    left, right = max(0, 31 - shift), max(0, shift - 31)
    product = saturate32(acc * 2**left) * multiplier
    y = (2 * product + 2**(31 + right)) // 2**(32 + right)
    return max(low, min(high, y + zero_point))


def divide_half_away(total, count):
    """AVERAGE_POOL_2D of TFLite, reference/integer_ops/pooling.h."""
    half = count // 2
    return truncate_divide(total + half if total > 0 else total - half, count)


def code_average(op, x):
    """One channel of a CodeAveragePool, by loops over its windows; x: [h][w]."""
    _, rows, columns = op.output_shape((1, len(x), len(x[0])))
    result = []
    for r in range(rows):
        line = []
        for c in range(columns):
            top, left = r * op.stride[0] - op.padding[0], c * op.stride[1] - op.padding[1]
            codes = [x[h][w] for h in range(max(0, top), min(len(x), top + op.kernel[0]))
                     for w in range(max(0, left), min(len(x[0]), left + op.kernel[1]))]
            line.append(max(op.low, min(op.high, divide_half_away(sum(codes), len(codes)))))
        result.append(line)
    return result


def conv2d(op, x):
    """Accumulators of a Conv2d for nested loops over everything; x: one image as [c][h][w]."""
    top, left, _, _ = op.padding
    n_outputs, per_group, kh, kw = op.weights.shape
    _, rows, columns = op.output_shape((len(x), len(x[0]), len(x[0][0])))
    result = []
    for o in range(n_outputs):
        first = o // (n_outputs // op.groups) * per_group
        plane = []
        for r in range(rows):
            line = []
            for c in range(columns):
                acc = int(op.bias[o])
                for i in range(per_group):
                    for a in range(kh):
                        for b in range(kw):
                            h = r * op.stride[0] + a * op.dilation[0] - top
                            w = c * op.stride[1] + b * op.dilation[1] - left
                            inside = 0 <= h < len(x[0]) and 0 <= w < len(x[0][0])
                            code = x[first + i][h][w] if inside else op.input_zero_point
                            acc += int(op.weights[o, i, a, b]) * (code - op.input_zero_point)
                line.append(acc)
            plane.append(line)
        result.append(plane)
    return result


def mul(op, first, second):
    """One code of a Mul from two codes, by Python ints."""
    requantize = gemmlowp if op.rescale.rounding == "gemmlowp" else half_up
    z1, z2 = op.input_zero_points
    return requantize((first - z1) * (second - z2), int(op.rescale.multiplier[0]),
                      int(op.rescale.shift[0]), op.rescale.zero_point, op.rescale.low,
                      op.rescale.high)
