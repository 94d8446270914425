"""RangeBN of the integer training step for one channel, on Python integers, and in float64."""

import math

import numpy as np
import torch

from tests.golden.ops.step.common import limit, literal_lanes

INT32 = -(1 << 31), (1 << 31) - 1


def constant(count):
    """(chunk length, chunks, K / C(L), ck, xk)."""
    length = -(-count // 16)
    number = -(-count // length)
    factor = number * math.sqrt(2 * math.log(length)) / (
        0.35 / 2 * (1 + math.sqrt(math.pi * math.log(4))))
    xk = 13 - math.ceil(math.log2(factor))
    return length, number, factor, math.floor(factor * 2 ** xk + 0.5), xk


def statistics(q):
    """(S, D, largest, rows of the first maxima, of the first minima)."""
    length = constant(len(q))[0]
    chunks = [q[i:i + length] for i in range(0, len(q), length)]
    return (sum(q), sum(max(c) - min(c) for c in chunks), max(v if v >= 0 else -1 - v for v in q),
            [c.index(max(c)) for c in chunks], [c.index(min(c)) for c in chunks])


def parameters(gamma, beta, total, spread, count, n, fraction=0):
    """(sign, bias, M, shift); count chooses the constant, n divides."""
    *_, ck, xk = constant(count)
    g, b = (limit((m + (1 << 15)) >> 16, -32768, 32767) for m in (gamma, beta))
    sign = 0 if g == 0 or spread <= 0 else g // abs(g)
    spread = limit(spread, 16 << fraction, 4080 << fraction)
    a = min(max(abs(g), 1), 32767) * ck
    q = (a << 22) // spread
    x = q.bit_length() - 31
    m = q >> x if x >= 0 else q << -x
    mean = ((total << 10) + (n >> 1)) // n
    centre = (abs(b) * spread << (10 + xk - fraction)) // a
    bias = limit((centre if b > 0 else -centre) - sign * mean, *INT32)
    return sign, bias, m, 10 + 22 + 12 + xk - x - fraction


def apply(q, sign, bias, m, shift):
    """Results of the lanes."""
    return [literal_lanes((sign * v << 10) + bias, m, shift) for v in q]


def gradients(g, q, sign, total, spread):
    """(mean_g, spike, dgamma, dbeta)."""
    n, (*_, ck, _) = len(q), constant(len(q))
    spread = max(spread, 16)
    sum_g, sum_gq = sum(g), sum(a * b for a, b in zip(g, q))
    product = sum_gq - (sum_g * total + (n >> 1)) // n
    spike = limit((product << 10) // spread, -(1 << 30), (1 << 30) - 1) * sign
    return (((sum_g << 10) + (n >> 1)) // n, spike,
            limit(((product + 8) >> 4) * ck // spread, *INT32), limit(sum_g, *INT32))


def slope_of(product, variance):
    """(slope, k): product / variance = slope 2^-(k + 3), of at most 15 bits."""
    size, p, v = abs(product), abs(product).bit_length(), variance.bit_length()
    dividend = size << 45 - p if p <= 45 else size >> p - 45
    quotient = dividend // (variance << 29 - v if v <= 29 else variance >> v - 29)
    length = quotient.bit_length()
    if length > 15:
        slope = min((quotient + (1 << length - 16)) >> length - 15, 32767)
    else:
        assert product == 0
        slope = 0
    k = 28 + v - p - length
    if k < 0:
        slope = 32767
    return (slope if product > 0 else -slope), limit(k, 0, 62)


def deviation_gradients(g, q, total, spread):
    """(centre, slope, k, dgamma, dbeta)."""
    n = len(q)
    mean_g, _, dgamma, dbeta = gradients(g, q, 1, total, spread)
    product = sum(a * b for a, b in zip(g, q)) - (sum(g) * total + (n >> 1)) // n
    variance = max(sum(v * v for v in q) - (total * total + (n >> 1)) // n, n // 32, 1)
    slope, k = slope_of(product, variance)
    middle = ((total << 10) + (n >> 1)) // n
    centre = mean_g - (((slope * middle << 7) + (1 << k + 9)) >> k + 10)
    return centre, slope, k, dgamma, dbeta


def deviation_z(g, q, sign, centre, slope, k):
    """What pass 2 gives the lanes."""
    return [sign * ((v << 10) - (((slope * c << 7) + ((1 << k) >> 1)) >> k) - centre)
            for v, c in zip(g, q)]


def z_of(g, sign, mean_g, spike, at_high, at_low, length):
    """What pass 2 gives the lanes."""
    z = [(sign * v << 10) - sign * mean_g for v in g]
    for chunk, (high, low) in enumerate(zip(at_high, at_low)):
        z[chunk * length + high] -= spike
        z[chunk * length + low] += spike
    return z


def reference(q, gamma, beta, g=None, deviation=False):
    """Float64 RangeBN of codes (C, n), its gradient by torch for g (C, n): (y, dq, dgamma).

    gamma, beta: (C,) real. A channel without range gives beta; the smallest spread is 16.
    deviation: the spread has the gradient of a constant times the standard deviation
    """
    length, number, factor, *_ = constant(q.shape[1])
    q = torch.tensor(q, dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor(gamma, dtype=torch.float64, requires_grad=True)
    spread = 0
    for chunk in q.split(length, dim=1):
        # The first extreme alone has the gradient; torch's maximum of a dimension is not the first.
        numbers = chunk.detach().numpy()
        spread = spread + (chunk.gather(1, torch.from_numpy(numbers.argmax(1))[:, None])
                           - chunk.gather(1, torch.from_numpy(numbers.argmin(1))[:, None]))
    if deviation:
        sigma = ((q - q.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True).sqrt()
        spread = spread.detach() * sigma / sigma.detach()
    scale = gamma[:, None] * factor / spread.clamp(min=16) * (spread.detach() > 0)
    y = (q - q.mean(1, keepdim=True)) * scale + torch.tensor(beta)[:, None]
    if g is None:
        return y.detach().numpy()
    y.backward(torch.tensor(np.asarray(g, np.float64)))
    return y.detach().numpy(), q.grad.numpy(), gamma.grad.numpy()
