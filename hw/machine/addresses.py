"""The addresses of an instruction's words, as numpy arrays: what the engines' counters walk over.

Everything here takes the fields of one instruction (hw.isa.decode). It serves the instruction-set
model (hw.machine) and the check of a program's order (hw.machine.hazards).
"""

from __future__ import annotations

import numpy as np

from hw.isa import FORMAT_OF, MAX_NIBBLE_SHIFT, Feed, Format, LocalMemory, Opcode
from hw.targets import N_BANKS

__all__ = ["DEPTHWISE_KERNEL", "WORD_MASK", "emitted_groups", "is_refused", "local_depths",
           "local_words",
           "parameter_words", "pixel_words", "port_lanes", "reduction_steps", "transfer_lines",
           "vector_kernel", "vector_outputs", "walk", "window_positions", "wrap"]

DEPTHWISE_KERNEL = 3
#: Addresses of words have 16 bits, except those of the array's walkers.
WORD_MASK = 0xFFFF
_WALK_WIDTH, _POSITION_WIDTH = 24, 16
_ENDLESS = 1 << 40  # a counter that is never equal to its end, which is 0


def wrap(values, width):
    """values modulo 2^width, signed."""
    half = 1 << width - 1
    return (values + half & (1 << width) - 1) - half


def local_depths(target):
    """Depth of each LocalMemory in its own words."""
    return [*target.bank_words, 4 * target.parameter_words * target.lanes,
            target.instruction_words]


def is_refused(f, target):
    """Whether the engine refuses the instruction with ErrorCode.FIELD before it begins."""
    opcode = f["opcode"]
    if opcode not in FORMAT_OF:
        return False
    format_ = FORMAT_OF[opcode]
    if format_ is Format.ARRAY:
        counts = "slots", "period_count", "inner_count", "outer_count"
        return not all(f[name] for name in counts) or f["slots"] < 2 or any(
            f[f"{port}_feed"] == Feed.TRANSPOSING and f["slots"] < port_lanes(port, target)
            for port in "ab")
    if format_ is Format.VECTOR:
        counts = ["n_chunks"]
        if opcode in (Opcode.DEPTHWISE, Opcode.WINDOW, Opcode.MAXPOOL):
            counts += ["out_width", "out_height"]
        if opcode in (Opcode.WINDOW, Opcode.MAXPOOL):
            counts += ["kernel_width", "kernel_height"]
        counts += {Opcode.ADD: ["out_width"], Opcode.DEPTHWISE: ["stride_x"],
                   Opcode.LINEAR: ["n_inputs"]}.get(opcode, [])
        return not all(f[name] for name in counts) or (
            opcode == Opcode.LINEAR and bool(f["n_inputs"] % 2 or f["w_base"] % 2))
    n_memories = len(LocalMemory) if opcode == Opcode.LOAD else N_BANKS
    if f["nibbles"] and (opcode == Opcode.STORE or f["local_memory"] >= N_BANKS
                         or f["nibble_shift"] > MAX_NIBBLE_SHIFT):
        return True
    step = f["external_step"] if f["n_lines"] != 1 else 0
    return (not (f["n_lines"] and f["line_words"]) or f["local_memory"] >= n_memories
            or bool((f["external_base"] | step) % target.word_bytes))


# MATMUL


def port_lanes(port, target):
    """Lanes that port "a" or "b" feeds."""
    return target.rows if port == "a" else target.columns


def walk(f, port, target, tiles):
    """Where a port of a MATMUL reads in some of its own tiles.

    tiles : int64 (T,), numbers of tiles: pixels for port a, channels for b.
    Returns address (bytes for a, words for b) and inside, (T, period_count, slots that name a
    word) each; where inside is False nothing is read and `pad` takes its place.
    """
    def field(name):
        return f[f"{port}_{name}"]

    n_named = f["slots"] if field("feed") == Feed.DIRECT else port_lanes(port, target)
    group = field("group") or _ENDLESS
    restarts, periods = np.divmod(np.arange(f["period_count"]), group)
    position = periods[:, None] * n_named + np.arange(n_named)
    tiles = np.asarray(tiles, np.int64)[:, None, None]
    if field("fixed"):
        base = field("base") + tiles * field("tile_step")
        position = np.broadcast_to(position, (len(tiles), *position.shape))
    else:
        base = field("base")
        position = position + tiles * ((f["period_count"] - 1) % group + 1) * n_named
    x_count = field("x_count") or _ENDLESS
    line, x = np.divmod(position, x_count)
    line_step = (x_count - 1) * field("x_step") + field("y_step")

    # Every restart of the slot walk makes one step of the period walk.
    k0_count, k1_count = field("k0_count") or _ENDLESS, field("k1_count") or _ENDLESS
    k0_ends = restarts // k0_count
    k1_ends = k0_ends // k1_count
    n_steps = restarts - k0_ends, k0_ends - k1_ends, k1_ends

    def tap(name, width):
        total = sum(n * field(f"k{level}_{name}") for level, n in enumerate(n_steps))
        return wrap(total, width)[:, None]

    address = wrap(base + line * line_step + x * field("x_step") + tap("step", _WALK_WIDTH),
                   _WALK_WIDTH)
    if not field("bounded"):
        return address, np.ones(address.shape, bool)
    ix = wrap(field("ix") + x * field("ix_step"), _POSITION_WIDTH) + tap("dx", _POSITION_WIDTH)
    iy = wrap(field("iy") + line * field("iy_step"), _POSITION_WIDTH) + tap("dy", _POSITION_WIDTH)
    return address, ((0 <= ix) & (ix < field("width")) & (0 <= iy) & (iy < field("height")))


def reduction_steps(f, target):
    """Slots of a period in which a product can differ from zero."""
    direct = f["a_feed"] == Feed.DIRECT and f["b_feed"] == Feed.DIRECT
    return f["slots"] if direct else min(f["slots"], target.columns)


def pixel_words(f, target):
    """First word of each output pixel, of all tiles' rows: int64 (outer_count * rows,)."""
    n = np.arange(f["outer_count"] * target.rows)
    x_count = f["out_x_count"] or _ENDLESS
    line, x = np.divmod(n, x_count)
    line_step = (x_count - 1) * f["out_step"] + f["out_line_step"]
    return f["out_base"] + line * line_step + x * f["out_step"] & WORD_MASK


# What array and vector engine share


def emitted_groups(f, target, n_chunks):
    """How many groups of lanes pass the lanes, for each word of channels: int64 (n_chunks,)."""
    left = f["n_channels"] - np.arange(n_chunks) * target.columns
    return np.clip(-(-left // target.lanes), 1, target.columns // target.lanes)


def parameter_words(f, target, n_chunks):
    """Parameter word of each group of lanes: int64 (n_chunks, groups)."""
    n_groups = target.columns // target.lanes
    return (f["parameter_base"] + np.arange(n_chunks * n_groups).reshape(n_chunks, n_groups)
            & WORD_MASK)


# Vector engine


def vector_outputs(f):
    """(lines, pixels of a line) of the output; a line is a unit of the chase."""
    if f["opcode"] == Opcode.ADD:
        return f["out_width"], 1
    if f["opcode"] == Opcode.LINEAR:
        return 1, 1
    return f["out_height"], f["out_width"]


def vector_kernel(f):
    """(height, width, dilation of rows, of columns) of a window."""
    if f["opcode"] == Opcode.DEPTHWISE:
        return DEPTHWISE_KERNEL, DEPTHWISE_KERNEL, 1, 1
    return f["kernel_height"], f["kernel_width"], f["dilation_y"], f["dilation_x"]


def window_positions(f):
    """Input rows (lines, kernel rows) and columns (pixels, kernel columns) of the windows."""
    height, width, dilation_y, dilation_x = vector_kernel(f)
    rows = (np.arange(f["out_height"])[:, None] * f["stride_y"] - f["top"]
            + np.arange(height) * dilation_y)
    columns = (np.arange(f["out_width"])[:, None] * f["stride_x"] - f["left"]
               + np.arange(width) * dilation_x)
    return rows, columns


# Load, store


def local_words(f, target):
    """Words on the chip in a line of a transfer."""
    if f["local_memory"] >= N_BANKS:
        return f["line_words"] * target.word_bytes // 4
    return f["line_words"] << f["nibbles"]


def transfer_lines(f):
    """First external byte and first local word of each line: int64 (n_lines,) each."""
    lines = np.arange(f["n_lines"], dtype=np.int64)
    return (f["external_base"] + lines * f["external_step"],
            f["local_base"] + lines * f["local_step"])
