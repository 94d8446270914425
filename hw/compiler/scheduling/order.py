"""Orders in which the nodes of a Program may run."""

from __future__ import annotations

__all__ = ["orders"]


def orders(program) -> list[tuple]:
    """The Program's own order, and the one that computes short branches first.

    What joins branches can then follow the longest of them, pixel by pixel, while it runs.
    """
    own = tuple(program.nodes)
    return list(dict.fromkeys((own, _short_branches_first(program))))


def _short_branches_first(program):
    producer = {name: node for node in program.nodes for name in node.outputs}
    depth = {}
    for node in program.nodes:
        macs = node.op.macs(*(program.tensors[name].shape for name in node.inputs))
        depth[node.name] = 1 + macs + max((depth[producer[name].name] for name in node.inputs
                                           if name in producer), default=0)
    done, result = set(), []

    def visit(last):
        stack = [(last, False)]
        while stack:
            node, ready = stack.pop()
            if node.name in done:
                continue
            if ready:
                done.add(node.name)
                result.append(node)
                continue
            stack.append((node, True))
            before = [producer[name] for name in node.inputs if name in producer]
            stack += [(n, False) for n in sorted(before, key=lambda n: -depth[n.name])]

    for node in program.nodes:
        if program.outputs[0] in node.outputs:
            visit(node)
    for node in program.nodes:  # whatever else it computes
        visit(node)
    return tuple(result)
