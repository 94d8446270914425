"""Windows of Conv and the pools as the attributes give them: strides, padding, kept rows.

Source: onnx/docs/Operators.md, Conv, MaxPool and AveragePool.
"""

from dataclasses import dataclass

from golden.ops import windows

__all__ = ["WindowGeometry", "check_pool", "flattened", "joined", "new_shape",
           "output_size", "pad_sides",
           "pixel_axes", "reshaped", "window_of", "with_ones", "without_ones"]


@dataclass(frozen=True, kw_only=True)
class WindowGeometry:
    """kernel, stride, dilation: (rows, columns); padding: (top, left, bottom, right);
    grown: the padding holds rows or columns that ceil_mode added below or on the right
    bare: it holds no others."""

    kernel: tuple
    stride: tuple
    padding: tuple
    dilation: tuple = (1, 1)
    grown: bool = False
    bare: bool = False

    @property
    def count(self) -> int:
        """Pixels of the kernel."""
        return self.kernel[0] * self.kernel[1]


def window_of(node, shape, kernel=None) -> WindowGeometry:
    """The WindowGeometry of a Conv or pool on an input of `shape` (C, H, W).

    kernel: that of the weights, where there are some
    Raises LockstepError naming the node for anything that is not two-dimensional.
    """
    if len(shape) != 3:
        node.refuse(f"must have an input of 4 dimensions, not {len(shape) + 1}")
    given = node.integers("kernel_shape", kernel, 2)
    if kernel is not None and given != tuple(kernel):
        node.refuse(f"kernel_shape {given} must be that of the weights, {tuple(kernel)}")
    stride = node.integers("strides", (1, 1), 2)
    dilation = node.integers("dilations", (1, 1), 2)
    if min(*given, *stride, *dilation) < 1:
        node.refuse("kernel, strides and dilations must be at least 1")
    padding = _padding(node, shape[1:], given, stride, dilation)
    bare, grown = not any(padding), False
    if node.attributes.get("ceil_mode", 0):
        padding, grown = _ceiled(shape[1:], given, stride, padding, dilation)
    return WindowGeometry(kernel=given, stride=stride, padding=padding, dilation=dilation,
                          grown=grown, bare=bare)


def _padding(node, size, kernel, stride, dilation):
    """(top, left, bottom, right); SAME_UPPER puts the larger half below and on the right."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        padding = node.integers("pads", (0, 0, 0, 0), 4)
        if min(padding) < 0:
            node.refuse(f"pads must not be negative, not {padding}")
        return padding
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        node.refuse(f"auto_pad {mode!r} is not supported; supported are NOTSET, VALID, SAME_UPPER, "
                    f"SAME_LOWER")
    before, after = [], []
    for length, k, s, d in zip(size, kernel, stride, dilation):
        total = max(0, (-(-length // s) - 1) * s + (k - 1) * d + 1 - length)
        halves = total // 2, total - total // 2
        small, large = halves if mode == "SAME_UPPER" else halves[::-1]
        before.append(small)
        after.append(large)
    return (*before, *after)


def _ceiled(size, kernel, stride, padding, dilation):
    """The padding with what a last, partial window needs; it must begin on the map or its front
    padding."""
    padding, grown = list(padding), False
    for axis, (length, k, s, d) in enumerate(zip(size, kernel, stride, dilation)):
        span, padded = (k - 1) * d + 1, length + padding[axis] + padding[axis + 2]
        last = -(-(padded - span) // s)
        if last * s >= length + padding[axis]:
            last -= 1
        extra = last * s + span - padded
        if extra > 0:
            padding[axis + 2] += extra
            grown = True
    return tuple(padding), grown


def reshaped(node, shape, target, batch, allow_zero=False) -> tuple:
    """The shape without the batch that a Reshape to `target` gives.

    shape: of the input without the batch; target: numbers with the batch in front
    """
    given = (batch, *shape)
    if len(target) > 8:
        node.refuse(f"shape must have at most 8 dimensions, not {len(target)}")
    sizes = [given[i] if size == 0 and not allow_zero and i < len(given) else size
             for i, size in enumerate(int(value) for value in target)]
    total, known = 1, 1
    for size in given:
        total *= size
    for size in sizes:
        known *= size if size != -1 else 1
    if sizes.count(-1) == 1 and known and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    result, product = tuple(sizes), 1
    for size in result:
        product *= size
    if len(result) < 2 or result[0] != batch or min(result) < 1 or product != total:
        node.refuse(f"shape {list(target)} must keep the batch and the {total // batch} elements "
                    f"of shape {list(given)}")
    return result[1:]


def flattened(node, shape) -> tuple:
    """The shape without the batch that a Flatten gives."""
    axis = node.attributes.get("axis", 1)
    if axis != 1 and axis != -len(shape):
        node.refuse(f"axis must be 1, which keeps the batch, not {axis}")
    size = 1
    for length in shape:
        size *= length
    return (size,)


def without_ones(node, shape, axes) -> tuple:
    """The shape without the batch after a Squeeze of `axes`, None for all of length 1."""
    rank = len(shape) + 1
    if axes is None:
        axes = [i + 1 for i, size in enumerate(shape) if size == 1]
    axes = {int(axis) % rank for axis in axes}
    if 0 in axes or any(shape[axis - 1] != 1 for axis in axes):
        node.refuse(f"axes {sorted(axes)} must have length 1 and leave the batch")
    kept = tuple(size for i, size in enumerate(shape) if i + 1 not in axes)
    return kept or (1,)


def with_ones(node, shape, axes) -> tuple:
    """The shape without the batch after an Unsqueeze of `axes`."""
    rank = len(shape) + 1 + len(axes)
    axes = sorted(int(axis) % rank for axis in axes)
    if 0 in axes:
        node.refuse("the batch must stay the first axis")
    sizes = [0, *shape]
    for axis in axes:
        sizes.insert(axis, 1)
    return tuple(sizes[1:])


def pixel_axes(node, axes, shape) -> bool:
    """True where axes name height and width of (C, H, W); LockstepError otherwise."""
    if len(shape) != 3 or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        node.refuse(f"the mean is taken over height and width (axes 2 and 3), "
                    f"not over axes {[int(axis) for axis in axes]}")
    return True


def output_size(node, size, window) -> tuple:
    """(H, W) that a window makes of an input of `size`; LockstepError where none fits."""
    try:
        return windows.output_size(size, window.kernel, window.stride, window.padding,
                                   window.dilation)
    except ValueError as error:
        node.refuse(error)


def check_pool(node, window) -> bool:
    """LockstepError for what pools lack. Returns whether padding counts in an average.

    ONNX does not say what a window of padding alone gives (onnx/onnx issue 1922), and ONNX Runtime
    refuses pads that make one.
    """
    if window.dilation != (1, 1):
        node.refuse(f"dilations must be 1, not {window.dilation}")
    if any(side >= window.kernel[i % 2] for i, side in enumerate(window.padding)):
        node.refuse(f"pads must be less than the kernel {window.kernel}, not {window.padding}")
    included = bool(node.attributes.get("count_include_pad", 0)) and not window.bare
    if included and window.grown:
        node.refuse("count_include_pad must be 0 where ceil_mode adds to the padding")
    return included or not any(window.padding)


def new_shape(walk, node, shape) -> tuple:
    """What Reshape, Flatten, Squeeze or Unsqueeze make of a shape, all without the batch."""
    if node.kind == "Flatten":
        return flattened(node, shape)
    if node.kind == "Squeeze":
        return without_ones(node, shape, walk.option(node, "axes", 1))
    if node.kind == "Unsqueeze":
        return with_ones(node, shape, walk.option(node, "axes", 1, []))
    target = walk.option(node, "shape", 1, [])
    return reshaped(node, shape, target, walk.batch, node.attributes.get("allowzero", 0))


def joined(node, shapes) -> tuple:
    """The shape of tensors joined along the channels."""
    axis = node.attributes.get("axis", 1)
    if axis != 1 and axis != -len(shapes[0]):
        node.refuse(f"tensors are joined along the channels, axis 1, not {axis}")
    if len({shape[1:] for shape in shapes}) != 1:
        node.refuse(f"inputs must differ in channels alone, not {[list(s) for s in shapes]}")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def pad_sides(walk, node, shape) -> tuple:
    """(top, left, bottom, right) of a Pad with zeros around an image."""
    mode = node.attributes.get("mode", "constant")
    value = float(node.attributes.get("value", 0.0))
    if walk.has(node, 2):
        value = float(walk.constant(node, 2, "value").reshape(-1)[0])
    values = walk.option(node, "pads", 1, [])
    if walk.has(node, 3):
        axes = [int(axis) % 4 for axis in walk.constant(node, 3, "axes").reshape(-1)]
        if len(values) != 2 * len(axes):
            node.refuse(f"pads must have {2 * len(axes)} entries, not {len(values)}")
        full = [0] * 8
        for index, axis in enumerate(axes):
            full[axis], full[axis + 4] = values[index], values[index + len(axes)]
        values = full
    if mode != "constant" or value != 0 or len(shape) != 3 or len(values) != 8:
        node.refuse("must pad an image with the constant 0")
    if min(values) < 0 or any(values[axis] for axis in (0, 1, 4, 5)):
        node.refuse(f"height and width alone are padded, not {values}")
    return values[2], values[3], values[6], values[7]
