"""AXI4 master: the engine cores that move words between external memory and the chip.

    words -> LineWalker -> BurstIssuer -> AR ... R -> LoadEngine  -> banks, small memories
                                       -> AW, W, B <- StoreEngine <- banks
"""

from hw.rtl.dma.axi import BusSignature, ReadSignature, WriteSignature, connect_master
from hw.rtl.dma.load import LoadEngine
from hw.rtl.dma.store import StoreEngine

__all__ = ["BusSignature", "LoadEngine", "ReadSignature", "StoreEngine", "WriteSignature",
           "connect_master"]
