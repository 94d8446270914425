"""Random programs for the compiler's tests."""

from hypothesis import strategies as st

from golden.arith import Rounding
from tests import programs

SIZES = st.integers(1, 9)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    """One convolution; the window always fits the padded input."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    channels, outputs = (groups * draw(st.integers(1, 40 // groups)) for _ in range(2))
    if draw(st.booleans()):
        groups = outputs = channels
    kernel, dilation = draw(pairs(1, 5)), draw(pairs(1, 3))
    padding = (*draw(pairs(0, 4)), *draw(pairs(0, 4)))
    span = [(k - 1) * d + 1 - padding[i] - padding[i + 2]
            for i, (k, d) in enumerate(zip(kernel, dilation))]
    size = tuple(max(1, s) + draw(st.integers(0, 8)) for s in span)
    make = programs.Maker("conv", (channels, *size), draw(st.integers(0, 99)),
                          draw(st.sampled_from(Rounding)))
    return make.program(make.conv(make.input, outputs, kernel=kernel, padding=padding,
                                  groups=groups, stride=draw(pairs(1, 4)), dilation=dilation,
                                  relu=draw(st.booleans())))


@st.composite
def networks(draw):
    """A few nodes of every kind, branches, joins and reused tensors among them."""
    make = programs.Maker("net", (draw(st.integers(1, 20)), draw(SIZES), draw(SIZES)),
                          draw(st.integers(0, 99)), draw(st.sampled_from(Rounding)))
    tensors = [make.input]
    for _ in range(draw(st.integers(1, 6))):
        x = draw(st.sampled_from(tensors[-3:]))
        channels, *size = make.tensors[x].shape
        alike = [y for y in tensors if make.tensors[y].shape == make.tensors[x].shape]
        beside = [y for y in tensors if make.tensors[y].shape[1:] == make.tensors[x].shape[1:]
                  and make.tensors[y].quantization == make.tensors[x].quantization]
        kind = draw(st.sampled_from(["conv", "depthwise", "pointwise", "max", "average", "codes",
                                     "global", "add", "concat", "clamp", "rescaling"]))
        kernel = tuple(min(n, draw(st.integers(1, 3))) for n in size)
        stride = draw(pairs(1, 2))
        if kind == "conv":
            y = make.conv(x, draw(st.integers(1, 24)), stride=stride)
        elif kind == "depthwise":
            y = make.conv(x, channels, groups=channels, stride=stride, relu=True)
        elif kind == "pointwise":
            y = make.conv(x, draw(st.integers(1, 40)), kernel=(1, 1), padding=(0, 0, 0, 0))
        elif kind == "max":
            y = make.max_pool(x, kernel, stride)
        elif kind == "average":
            y = make.average_pool(x, kernel, stride)
        elif kind == "codes":
            padding = tuple(draw(st.integers(0, kernel[k % 2] - 1)) for k in range(4))
            y = make.code_average_pool(x, kernel, stride, padding)
        elif kind == "global":
            y = make.global_average_pool(x)
        elif kind == "add":
            y = make.add(x, draw(st.sampled_from(alike)))
        elif kind == "concat":
            y = make.concat(x, *draw(st.lists(st.sampled_from(beside), min_size=1, max_size=2)))
        elif kind == "clamp":
            y = make.clamp(x, -90, 100)
        else:
            y = make.rescaling(x, draw(st.sampled_from([0.7, 1.3])))
        tensors.append(y)
    x = tensors[-1]
    if draw(st.booleans()):
        x = make.linear(make.flatten(x, draw(st.booleans())), draw(st.integers(1, 40)))
    return make.program(x)
