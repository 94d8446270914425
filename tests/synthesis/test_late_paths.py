"""Late paths of a placed netlist: distances, tables, carries, memories, and what is alike."""

import json

import pytest

from golden.errors import LockstepError
from synthesis.late_paths import (
    CARRY_NS,
    CONTROL_NS,
    INTO_CARRY_NS,
    LUT_NS,
    NET_NS,
    OUT_OF_CARRY_NS,
    SOURCE_NS,
    TILE_NS,
    late_paths,
    main,
)

FF_NS = SOURCE_NS["TRELLIS_FF"]


def cell(kind, bel, outputs, inputs, **parameters):
    ports = {**outputs, **inputs}
    directions = {port: "output" if port in outputs else "input" for port in ports}
    return {"type": kind, "attributes": {"NEXTPNR_BEL": bel}, "parameters": parameters,
            "port_directions": directions,
            "connections": {port: [bit] for port, bit in ports.items()}}


def module(**changes):
    """a[0], a[1] -> table -> b, enabled by a[0]; a[0] -> two carries -> c."""
    cells = {
        "u.a_TRELLIS_FF_Q": cell("TRELLIS_FF", "X10/Y10/0", {"Q": 1}, {"DI": 9, "CLK": 8}),
        "u.a_TRELLIS_FF_Q_1": cell("TRELLIS_FF", "X10/Y10/1", {"Q": 2}, {"DI": 9, "CLK": 8}),
        "u.b_LUT4": cell("TRELLIS_COMB", "X30/Y10/0", {"F": 3}, {"A": 1, "B": 2}, MODE="LOGIC"),
        "u.b_TRELLIS_FF_Q": cell("TRELLIS_FF", "X30/Y15/0", {"Q": 4},
                                 {"DI": 3, "CE": 1, "CLK": 8}),
        "c0": cell("TRELLIS_COMB", "X10/Y20/0", {"FCO": 5}, {"A": 1}, MODE="CCU2"),
        "c1": cell("TRELLIS_COMB", "X10/Y20/1", {"FCO": 6}, {"FCI": 5}, MODE="CCU2"),
        "c2": cell("TRELLIS_COMB", "X10/Y20/2", {"F": 7}, {"FCI": 6}, MODE="CCU2"),
        "u.c_TRELLIS_FF_Q": cell("TRELLIS_FF", "X10/Y20/3", {"Q": 10}, {"DI": 7, "CLK": 8}),
        "$PACKER_GND": cell("TRELLIS_COMB", "X0/Y0/0", {"F": 9}, {}, MODE="LOGIC"),
    }
    for name, bel in changes.items():
        cells[name]["attributes"]["NEXTPNR_BEL"] = bel
    names = {"u.a[0]": 1, "u.a[1]": 2, "u.b": 4, "u.c": 10}
    return {"cells": cells, "netnames": {name: {"bits": [bit]} for name, bit in names.items()}}


def found(netlist, limit=0.0):
    return {(kind.source, kind.end): kind for kind in late_paths(netlist, limit)}


def test_a_path_is_its_logic_and_the_ways_between_it():
    paths = found(module())
    assert set(paths) == {("u.a", "u.b"), ("u.a", "u.b.CE"), ("u.a", "u.c")}
    through_table = FF_NS + NET_NS + 20 * TILE_NS + LUT_NS + NET_NS + 5 * TILE_NS
    assert paths["u.a", "u.b"].ns == pytest.approx(through_table)
    assert (paths["u.a", "u.b"].levels, paths["u.a", "u.b"].n_ends) == (1, 1)
    assert paths["u.a", "u.b.CE"].ns == pytest.approx(FF_NS + NET_NS + 25 * TILE_NS + CONTROL_NS)
    carries = NET_NS + 10 * TILE_NS + INTO_CARRY_NS + CARRY_NS + OUT_OF_CARRY_NS
    assert paths["u.a", "u.c"].ns == pytest.approx(FF_NS + carries + NET_NS)
    assert paths["u.a", "u.c"].levels == 3


def test_the_latest_input_counts_and_constants_do_not():
    far = module(**{"u.a_TRELLIS_FF_Q_1": "X90/Y10/1"})
    assert found(far)["u.a", "u.b"].ns > found(module())["u.a", "u.b"].ns + 30 * TILE_NS


def test_bits_of_a_signal_are_one_kind_and_only_late_ones_count():
    netlist = module()
    netlist["cells"]["u.b_TRELLIS_FF_Q_1"] = cell(
        "TRELLIS_FF", "X30/Y80/0", {"Q": 11}, {"DI": 3, "CLK": 8})
    netlist["netnames"]["u.b[7]"] = {"bits": [11]}
    assert found(netlist)["u.a", "u.b"].n_ends == 2
    latest = late_paths(netlist, 5.0)
    assert [(kind.end, kind.n_ends) for kind in latest] == [("u.b", 1)]


def test_the_command_prints_kinds_and_refuses_what_is_no_placed_netlist(tmp_path, capsys):
    placed = tmp_path / "placed.json"
    placed.write_text(json.dumps({"modules": {"top": module()}}))
    assert main([str(placed), "--limit", "2.6"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split() == "2.8 ns 1 ends 1 levels u.a -> u.b".split()
    assert told.err == "1 ends later than 2.6 ns\n"
    for text, message in (("{", "is no netlist"), ('{"modules": {}}', "is no netlist"),
                          ('{"modules": {"top": {"cells": {}, "netnames": {}}}}',
                           "nothing in this netlist is placed")):
        placed.write_text(text)
        with pytest.raises(LockstepError, match=message):
            main([str(placed)])
    with pytest.raises(LockstepError, match="No such file"):
        main([str(tmp_path / "missing.json")])
