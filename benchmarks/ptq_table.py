"""The rows and the page of the ptq suite: a block per pair of widths, a row per method, a column
per network; goals computed from what the integer programs give."""

import textwrap

import numpy as np

from benchmarks.ptq_methods import BLOCKS, METHODS, schemes
from benchmarks.ptq_networks import NETWORKS
from benchmarks.rows import row

__all__ = ["page", "recovered_share", "rows_of"]

PEERS = {
    "onnxruntime": "ONNX Runtime, quantize_static: QDQ, min/max, weights per channel",
    "brevitas": "Brevitas, its defaults: weights per channel, activations at 99.999 %",
    "brevitas_all": "Brevitas, equalisation, least squared error, GPTQ, bias correction",
}
RECOVERED, WITHIN = 80.0, 0.1  # goals: percent, points
SETTINGS = (
    "First layer, classifier and the classifier's input have 8 bits, and so have activations that "
    "only additions and pools read, in Lockstep and Brevitas alike; ONNX Runtime has 8 bits "
    "everywhere. Weights are per output channel, activations per tensor where hardware runs them. "
    "Every quantizer calibrates on the same images.")


def recovered_share(reference: float, naive: float, best: float) -> float | None:
    """Percent of what naive loses against the reference that best does not lose; None where naive
    loses nothing."""
    lost = reference - naive
    return 100 * (best - naive) / lost if lost > 0 else None


def rows_of(network: str, results: dict[str, list[dict]], context: str, command: str
            ) -> list[dict]:
    """Rows of one network. results: of every table row, what each seed gave in percent."""
    rows, means = [], {}

    def add(name, value, unit, words=context, **goal):
        rows.append(row(f"ptq.{network}.{name}", float(value), unit, command, context=words,
                        **goal))

    for name, runs in results.items():
        block, _, method = name.partition(".")
        config = schemes(block)[method].config if method in METHODS else None
        words = context if config is None or not config.simulation_only \
            else f"{context}; simulation only: {config.simulation_only}"
        for kind in runs[0]:
            key = name if kind == "simulated" else f"{name}.{kind}"
            values = [run[kind] for run in runs]
            means[key] = np.mean(values)
            add(key, means[key], "%", words)
            if len(values) > 1:
                add(f"{key}.standard_deviation", np.std(values, ddof=1), "points", words)
    for method in ("naive", "all"):
        key = f"w8a8.{method}.integer"
        if key in means:
            difference = means[key] - means["float"]
            add(f"{key}_minus_float", difference, "points", goal=f"within {WITHIN}",
                met=bool(abs(difference) <= WITHIN + 1e-9))
    if "w4a4.all.integer" in means:
        share = recovered_share(means["float"], means["w4a4.naive.integer"],
                                means["w4a4.all.integer"])
        if share is not None:
            add("w4a4.recovered", share, "%", goal=f">= {RECOVERED:g}",
                met=bool(share >= RECOVERED))
    return rows


def _cells(values: dict[str, dict], networks: list[str], key: str) -> str:
    cells = [f"{values[network][key]['value']:.2f}" if key in values[network] else ""
             for network in networks]
    return " | ".join(cells)


def page(suite: str, rows: list[dict]) -> str:
    """The rows as a Markdown page: the table, the goals, what the figures are of."""
    values: dict[str, dict] = {}
    for item in rows:
        _, network, key = item["name"].split(".", 2)
        values.setdefault(network, {})[key] = item
    networks, there = list(values), {key for found in values.values() for key in found}
    titles = [NETWORKS[name].words if name in NETWORKS else name for name in networks]
    lines = [f"# {suite}", "", f"`{rows[0]['command']}`", "",
             "Test accuracy in percent. W8A4 is 8 bits for weights and 4 for activations.", "",
             f"| method | runs as | {' | '.join(titles)} |",
             f"| --- | --- | {' | '.join(['---:'] * len(networks))} |",
             f"| float | | {_cells(values, networks, 'float')} |"]
    for block in BLOCKS:
        if f"{block}.naive" not in there:
            continue
        lines.append(f"| **{block.upper()}** | | {' | '.join([''] * len(networks))} |")
        for name, scheme in schemes(block).items():
            kind = "simulation" if scheme.config.simulation_only else "hardware"
            lines.append(f"| {scheme.method.words} | {kind} "
                         f"| {_cells(values, networks, f'{block}.{name}')} |")
            if f"{block}.{name}.integer" in there:
                lines.append(f"| its integer program | hardware "
                             f"| {_cells(values, networks, f'{block}.{name}.integer')} |")
        for name, words in PEERS.items():
            if f"{block}.{name}" in there:
                lines.append(f"| {words} | | {_cells(values, networks, f'{block}.{name}')} |")
    lines += ["", "| goal | figure | unit | goal | met |", "| --- | ---: | --- | --- | --- |"]
    for item in rows:
        if item["goal"] is not None:
            lines.append(f"| {item['name']} | {item['value']:.2f} | {item['unit']} "
                         f"| {item['goal']} | {'yes' if item['met'] else 'no'} |")
    contexts = dict.fromkeys(found["float"]["context"] for found in values.values())
    for text in (*contexts, SETTINGS):
        lines += ["", textwrap.fill(text, 100, break_long_words=False)]
    return "\n".join(lines) + "\n"
