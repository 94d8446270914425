"""What the simulated accelerator measured, as the fields of R.json and as a table.

Every op is run alone, by single steps. Its roofline is the least number of cycles that the machine
could take: the largest of MACs over the array's rows * columns, bytes read over two words a cycle
(both ports of the array, or a pair of weight words), bytes written over one word a cycle, and bytes
moved over the external bus, each direction by itself. attainment = that bound / the cycles taken.
Every cycle of the whole run, at full speed, is counted under one cause.
"""

from dataclasses import asdict

import numpy as np

from hw.isa import Counter

__all__ = ["hardware_fields", "print_report"]

SHOWN_NAME = 41  # characters of a node's name in the table
#: What the array did in each cycle, in the order of the counters: they add up to the cycles.
CAUSES = tuple(Counter(k).name.lower() for k in range(Counter.ARRAY_BUSY, Counter.ARRAY_FETCH + 1))


def hardware_fields(program, target, report) -> dict:
    """The fields of R.json that a `sim.rtl.RtlReport` gives, in total and per op.

    bytes_moved counts the operands, weights, biases and results of an op once each.
    """
    nodes = {node.name: node for node in program.nodes}
    ops = [_op(program, nodes.get(step.node) or nodes[step.node.rpartition("#")[0]], target, step)
           for step in report.steps]
    fields = {name: getattr(report, name) for name in (
        "configuration_id", "simulator", "batch", "macs", "vector_macs", "cycles", "utilisation",
        "array_utilisation", "vector_utilisation", "counters", "unexplained", "traced_images",
        "simulated_cycles", "wall_seconds", "build_seconds", "cycles_per_second")}
    moved = sum(sum(_bytes(program, node)) for node in program.nodes)
    return {**fields, "bytes_moved": report.batch * moved, "ops": ops}


def _bytes(program, node):
    """(read, written) of a node, each operand once."""
    sizes = [int(np.prod(program.tensors[name].shape)) for name in (*node.inputs, *node.outputs)]
    constants = sum(value.nbytes for value in vars(node.op).values()
                    if isinstance(value, np.ndarray))
    return sum(sizes[:len(node.inputs)]) + constants, sum(sizes[len(node.inputs):])


def _op(program, node, target, step):
    read, written = _bytes(program, node)
    bounds = {"macs": step.macs / target.n_macs, "reads": read / (2 * target.word_bytes),
              "writes": written / target.word_bytes}
    if target.bus_bits:
        bounds["bus"] = max(step.counters["load_bytes"], step.counters["store_bytes"]) / (
            target.bus_bits / 8)
    bound = max(bounds, key=bounds.get)
    return {**asdict(step), "bytes_moved": read + written, "bound_by": bound,
            "bound_cycles": bounds[bound],
            "attainment": bounds[bound] / step.cycles if step.cycles else None}


def _shown(name: str) -> str:
    """A node's name, of a long one its two ends."""
    half = (SHOWN_NAME - 3) // 2
    return name if len(name) <= SHOWN_NAME else f"{name[:half]}...{name[-half:]}"


def print_report(fields: dict) -> None:
    """The table of `hardware_fields`."""
    if fields["ops"]:
        width = max(4, *(len(_shown(op["node"])) for op in fields["ops"]))
        print(f"{'node':<{width}} {'MACs':>13} {'cycles':>10} {'array':>6} {'vector':>6} "
              f"{'busy':>10} {'drain':>7} {'v. busy':>8} {'bytes':>10} {'roofline':>8} bound")
    for op in fields["ops"]:
        counters = op["counters"]
        attained = "" if op["attainment"] is None else f"{op['attainment']:.1%}"
        print(f"{_shown(op['node']):<{width}} {op['macs']:>13,} {op['cycles']:>10,} "
              f"{op['array_utilisation']:>6.1%} {op['vector_utilisation']:>6.1%} "
              f"{counters['array_busy']:>10,} "
              f"{counters['array_drain']:>7,} {counters['vector_busy']:>8,} "
              f"{op['bytes_moved']:>10,} {attained:>8} {op['bound_by']}")
    counters = fields["counters"]
    parts = [f"{counters[cause]:,} {cause.removeprefix('array_')}" for cause in CAUSES
             if counters[cause]]
    if fields["unexplained"]:
        parts.append(f"{fields['unexplained']:,} unexplained")
    print(f"at full speed {fields['cycles']:,} cycles = {' + '.join(parts)}")
    others = [f"{name.replace('_', ' ')} {counters[name]:,}" for name in
              ("vector_busy", "lanes_busy", "load_bytes", "store_bytes") if counters[name]]
    if others:
        print(f"besides       {', '.join(others)}")
