"""The designs of tests: `make test` compiles ON_CHIP and AXI, `make test-all` the others too.

A design costs about a minute of a core.
"""

from dataclasses import replace

import hw
from hw.isa import N_WORDS
from hw.targets import N_BANKS, get_target
from sim.cache import sources_key

__all__ = ["AXI", "ON_CHIP", "ROTATING", "SHAPES"]

ON_CHIP = get_target("sim-4x4")
#: Memories that a fuzz quickly compares, and an instruction memory that programs go round.
AXI = replace(get_target("sim-8x8-axi"), bank_words=(256, 256, 128, 128), parameter_words=64,
              instruction_words=10 * N_WORDS)
#: Few and many rows and lanes, sides that divide nothing, the vendor's multipliers, one for two.
SHAPES = ("array-3x4", "array-2x4", "array-3x8", "array-7x8x8", "array-2x16x8", "ecp5-85k",
          "ecp5-85k-packed")
#: Another of the small shapes whenever the hardware's sources change.
ROTATING = replace(get_target(SHAPES[int(sources_key(hw), 16) % 5]), bank_words=(2048,) * N_BANKS,
                   parameter_words=256)
