"""Moves registers behind block RAM into the block RAM, which yosys does not do.

A DP16KD has an output register of its own. Without it a word needs 5.8 ns to leave the RAM, and
the register that follows has to lie next to it; with it 1 ns. The hardware puts nothing between
a RAM and its register (hw.rtl.memory.scratchpad), so the register's cells can be replaced by the
RAM's own without any change of what the netlist computes.
"""

from collections import Counter

__all__ = ["absorb_output_registers"]

_WIDTH = 18
_PORTS = "AB"


def absorb_output_registers(module: dict) -> int:
    """Use the output registers of block RAMs in a mapped module, as yosys writes it in JSON.

    A port changes if each of its outputs that is used at all feeds one register and nothing else,
    without enable and reset, of the RAM's own clock, and if nothing disturbs the RAM's register.
    Returns the number of registers removed.
    """
    cells = module["cells"]
    n_loads, register_of = Counter(), {}
    for port in module.get("ports", {}).values():
        n_loads.update(port["bits"])
    for name, cell in cells.items():
        for pin, bits in cell["connections"].items():
            if cell.get("port_directions", {}).get(pin) != "output":
                n_loads.update(bits)
        if cell["type"] == "TRELLIS_FF" and _is_plain(cell):
            register_of[cell["connections"]["DI"][0]] = name
    n_absorbed = 0
    for ram in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        for port in _PORTS:
            pins = [pin for pin in (f"DO{port}{k}" for k in range(_WIDTH))
                    if n_loads[_bit(ram, pin)]]
            names = [register_of.get(_bit(ram, pin)) for pin in pins]
            if not names or not _is_free(ram, port) or any(
                    name is None or n_loads[_bit(ram, pin)] != 1
                    or _bit(cells[name], "CLK") != _bit(ram, f"CLK{port}")
                    for pin, name in zip(pins, names)):
                continue
            for pin, name in zip(pins, names):
                ram["connections"][pin] = cells.pop(name)["connections"]["Q"]
            ram["parameters"][f"REGMODE_{port}"] = "OUTREG"
            n_absorbed += len(names)
    return n_absorbed


def _bit(cell: dict, pin: str):
    """What a pin of one bit is connected to; None for nothing."""
    return next(iter(cell["connections"].get(pin, [])), None)


def _is_plain(register: dict) -> bool:
    """Loads in every clock, begins at 0, is never reset."""
    options = {key: str(value).strip() for key, value in register["parameters"].items()}
    return (options.get("CEMUX") == "1" and options.get("CLKMUX") == "CLK"
            and options.get("REGSET") == "RESET" and options.get("GSR") == "DISABLED"
            and _bit(register, "LSR") in ("0", None) and _bit(register, "M") is None)


def _is_free(ram: dict, port: str) -> bool:
    """The port's output register is not in use, always enabled, never reset."""
    options = ram["parameters"]
    return (options[f"REGMODE_{port}"] == "NOREG" and options[f"CLK{port}MUX"] == f"CLK{port}"
            and options["GSR"] == "DISABLED" and _bit(ram, f"OCE{port}") == "1"
            and _bit(ram, f"CE{port}") == "1" and _bit(ram, f"RST{port}") == "0")
