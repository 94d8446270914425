"""The results page of the accelerator suite, made of its rows alone.

Two tables stand in front of the rows: every target beside the published designs, and the cycles
beside their floors.
"""

from benchmarks.peers import PEERS
from benchmarks.rows import results_page

__all__ = ["page", "summary"]

_RESOURCES = {"array": "array", "lanes": "lanes", "vector": "vector engine",
              "weight_banks": "weights, all banks", "weight_ports": "weights, ports used",
              "external": "external memory"}


def page(suite: str, rows: list[dict]) -> str:
    """Ours beside the published ones, cycles beside their floors, then every measured row."""
    values = {item["name"]: item["value"] for item in rows}
    measured = [item for item in rows if not item["name"].startswith("published.")]
    text = results_page(suite, measured)
    designs = _designs(values)
    if not designs:
        return text  # training products alone
    head, _, rest = text.partition("\n\n")
    return "\n".join([head, "", *_beside_peers(designs, values), "", *_floors(designs, values), "",
                      rest])


def summary(rows: list[dict]) -> str:
    """A short table of the same rows: networks, every target's cycles and multipliers, peers."""
    values = {item["name"]: item["value"] for item in rows}
    designs = _designs(values)
    targets = list(dict.fromkeys(target for names in designs.values() for target in names))
    lines = [_row("network", *(f"`{target}`" for target in targets), "bound by",
                  "published, at most"),
             _row("---", *("---" for _ in targets), "---", "---")]
    for network, own in designs.items():
        peers = [value for name, value in values.items()
                 if name.startswith("published.mac_per_dsp_cycle.")
                 and name.endswith(f".{network}")]
        bounds = [_RESOURCES[bound] for target in own
                  if (bound := _bound(values, f"{target}.{network}"))]
        lines.append(_row(
            network, *(_in_short(values, f"{target}.{network}") if target in own else ""
                       for target in targets),
            ", ".join(dict.fromkeys(bounds)), _cell(max(peers, default=None), ".2f")))
    return "\n".join(lines) + "\n"


def _in_short(values, label) -> str:
    """Cycles, MAC per DSP and cycle, and images per second, as far as they are known."""
    figures = (_cell(values[f"cycles.{label}"], ",.0f") + " cycles",
               _cell(values.get(f"mac_per_dsp_cycle.{label}"), ".2f"),
               _cell(values.get(f"inferences_per_second.{label}"), ",.0f") + "/s")
    return ", ".join(text for text in figures if text not in ("", "/s"))


def _designs(values) -> dict[str, list[str]]:
    """The targets that each network has run on."""
    designs: dict[str, list[str]] = {}
    for figure, *rest in (name.split(".") for name in values):
        if figure == "cycles":
            target, network = rest
            designs.setdefault(network, []).append(target)
    return designs


def _bound(values, label) -> str | None:
    """The resource with the largest floor."""
    floors = {what: values[f"floor.{what}.{label}"] for what in _RESOURCES
              if f"floor.{what}.{label}" in values}
    return max(floors, key=floors.get) if floors else None


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
            lines.append(_row(
                network, target, _cell(values[f"cycles.{label}"], ",.0f"),
                *(_cell(values.get(f"floor.{what}.{label}"), ",.0f") for what in shown),
                _RESOURCES.get(_bound(values, label), ""),
                _cell(values.get(f"cycles_over_floor.{label}"), ".3f"),
                _cell(values.get(f"cycles_per_image.{label}"), ",.0f")))
    return lines


def _cell(value, form: str) -> str:
    return "" if value is None else format(value, form)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
