"""report.json: one record per synthesized design, whatever the device."""

from pathlib import Path

from hw.targets import DEVICES, Device
from synthesis import ecp5, xilinx
from synthesis.design import Design
from synthesis.tools import NEXTPNR, read_json

__all__ = ["FLOWS", "RESOURCES", "excess", "implement", "names_of"]

RESOURCES = ("luts", "ffs", "dsps", "brams")
#: The modules of the tool flows, by hw.targets.Device.flow.
FLOWS = {"ecp5": ecp5, "xilinx": xilinx}


def names_of(report: dict) -> dict[str, str]:
    """What the tools of a report's device call its resources."""
    return FLOWS[DEVICES[report["device"]].flow].NAMES


def excess(report: dict) -> list[str]:
    """One line for each resource of which the design needs more than the device has."""
    names = names_of(report)
    return [f"{report['name']} needs {report[key]} {names[key]} of the {report['available'][key]} "
            f"of {report['device']}"
            for key in RESOURCES if report[key] > report["available"][key]]


def implement(design: Design, device: Device, *, seeds: list[int], frequency_mhz: float,
              cache: Path, jobs: int = 1, nextpnr: str = NEXTPNR,
              progress=lambda text: None) -> tuple[dict, list[Path]]:
    """Synthesize for a device, place and route every seed; returns the report and the logs.

    A design that is larger than the device is not placed: it has no fmax_mhz. Nor has one without
    ``seeds``, or whose device has no place and route, where they are of no use.
    """
    if not device.places:
        return _synthesis_only(design, device, cache)
    folder = ecp5.synthesize(design, cache)
    figures = read_json(folder / "figures.json", "yosys", ecp5.LOG)
    progress(f"synthesized {design.name} in {figures['synthesis_s']} s")
    common = _common(design, device, figures) | {
        "package": device.package, "speed_grade": device.speed_grade, "aimed_at_mhz": frequency_mhz}
    used = ecp5.netlist_resources(figures["cells"]["unit"])
    report = _filled(common, used, device.available) | {
        "fmax_mhz": None, "seeds": [], "units": figures["units"],
        "registers_in_block_ram": figures["registers_in_block_ram"],
        "fixed_multipliers": figures["fixed_multipliers"],
        "fixed_block_rams": figures["fixed_block_rams"]}
    if not report["fits"]:
        return report, [folder / ecp5.LOG]
    if not seeds:
        note = "not placed: resources alone were asked for"
        return report | {"fmax_note": note}, [folder / ecp5.LOG]
    routes = ecp5.place_seeds(
        folder, design, device, seeds=seeds, frequency_mhz=frequency_mhz, jobs=jobs, cache=cache,
        nextpnr=nextpnr, progress=lambda route: progress(
            f"seed {route['seed']}: {route['fmax_mhz']} MHz in {route['place_route_s']} s"))
    median = ecp5.median_of(routes)
    report |= _filled(common, median["used"], median["available"]) | {
        "fmax_mhz": median["fmax_mhz"], "seed": median["seed"], "ports": median["ports"],
        "critical_path": median["critical_path"],
        "seeds": [_seed(route) for route in routes],
        "place_route_s": round(sum(route["place_route_s"] for route in routes), 1)}
    report["tools"] |= {"nextpnr": median["version"]}
    return report, [folder / ecp5.LOG, *(Path(route["log"]) for route in routes)]


def _synthesis_only(design: Design, device: Device, cache: Path) -> tuple[dict, list[Path]]:
    """Resources, no clock; returns the report and the log."""
    folder = xilinx.synthesize(design, device, cache)
    figures = read_json(folder / "figures.json", "yosys", xilinx.LOG)
    report = _filled(_common(design, device, figures),
                     xilinx.used_resources(figures["cells"]), device.available)
    return report | {"fmax_mhz": None, "fmax_note": xilinx.NO_CLOCK,
                     "cells": figures["cells"]}, [folder / xilinx.LOG]


def _common(design: Design, device: Device, figures: dict) -> dict:
    return {"name": design.name, "device": device.name, "verilog_sha256": design.sha256,
            "synthesis_s": figures["synthesis_s"], "tools": {"yosys": figures["version"]}}


def _filled(common: dict, used: dict, available: dict) -> dict:
    percent = {key: round(100 * used[key] / available[key], 1) for key in used}
    return {**common, **used, "available": {key: available[key] for key in used},
            "percent": percent, "fits": all(used[key] <= available[key] for key in used)}


def _seed(route: dict) -> dict:
    path = route["critical_path"]
    return {"seed": route["seed"], "fmax_mhz": route["fmax_mhz"],
            "critical_path": {key: path[key] for key in ("from", "to", "ns")},
            "ports": route["ports"], "place_route_s": route["place_route_s"]}
