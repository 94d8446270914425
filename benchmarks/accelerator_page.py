"""The results page of the accelerator suite, made of its rows alone.

Two tables stand in front of the rows: every target beside the published designs, and the cycles
beside their floors.
"""

from benchmarks.peers import PEERS
from benchmarks.rows import results_page

__all__ = ["page"]

_RESOURCES = {"array": "array", "lanes": "lanes", "vector": "vector engine",
              "weight_banks": "weights, all banks", "weight_ports": "weights, ports used",
              "external": "external memory"}


def page(suite: str, rows: list[dict]) -> str:
    """Ours beside the published ones, cycles beside their floors, then every measured row."""
    values = {item["name"]: item["value"] for item in rows}
    measured = [item for item in rows if not item["name"].startswith("published.")]
    text = results_page(suite, measured)
    designs: dict[str, list[str]] = {}  # by network
    for figure, *rest in (name.split(".") for name in values):
        if figure == "cycles":
            target, network = rest
            designs.setdefault(network, []).append(target)
    if not designs:
        return text  # training products alone
    head, _, rest = text.partition("\n\n")
    return "\n".join([head, "", *_beside_peers(designs, values), "", *_floors(designs, values), "",
                      rest])


def _beside_peers(designs, values) -> list[str]:
    lines = ["| network | design | DSPs | MHz | inferences/s | MAC/DSP/cycle |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]
    for network, targets in designs.items():
        lines += [_row(network, f"**Lockstep {target}**", *(
            _cell(values.get(name), form) for name, form in (
                (f"dsps.{target}", ",.0f"), (f"fmax_mhz.{target}", ".1f"),
                (f"inferences_per_second.{target}.{network}", ",.0f"),
                (f"mac_per_dsp_cycle.{target}.{network}", ".2f")))) for target in targets]
        for peer in PEERS.get(network, ()):
            label = f"{peer.board.lower()}.{network}"
            lines.append(_row(
                network, f"{peer.design}, {peer.board} (published)", _cell(peer.dsps, ",.0f"),
                _cell(peer.mhz, ".1f"), _cell(peer.inferences_per_second, ",.0f"),
                _cell(values.get(f"published.mac_per_dsp_cycle.{label}"), ".2f")))
    return lines


def _floors(designs, values) -> list[str]:
    """The largest floor is what bounds a program."""
    shown = [what for what in _RESOURCES
             if any(name.startswith(f"floor.{what}.") for name in values)]
    lines = [_row("network", "target", "cycles", *(_RESOURCES[what] for what in shown), "bound by",
                  "cycles / floor", "cycles per image in a batch"),
             _row("---", "---", "---:", *("---:" for _ in shown), "---", "---:", "---:")]
    for network, targets in designs.items():
        for target in targets:
            label = f"{target}.{network}"
            floors = {what: values[f"floor.{what}.{label}"] for what in shown
                      if f"floor.{what}.{label}" in values}
            bound = max(floors, key=floors.get) if floors else None
            lines.append(_row(
                network, target, _cell(values[f"cycles.{label}"], ",.0f"),
                *(_cell(floors.get(what), ",.0f") for what in shown), _RESOURCES.get(bound, ""),
                _cell(values.get(f"cycles_over_floor.{label}"), ".3f"),
                _cell(values.get(f"cycles_per_image.{label}"), ",.0f")))
    return lines


def _cell(value, form: str) -> str:
    return "" if value is None else format(value, form)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
