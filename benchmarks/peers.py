"""Published figures of other accelerators on the networks of MLPerf Tiny."""

from dataclasses import dataclass

__all__ = ["PEERS", "Peer"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One published result; mac_per_dsp_cycle follows from the other figures and the MACs.

    inferences_per_second at `mhz` on `dsps` multipliers.
    """

    design: str
    board: str
    dsps: int | None = None
    mhz: int | None = None
    inferences_per_second: int

    def mac_per_dsp_cycle(self, macs: int) -> float | None:
        """Useful multiplications per multiplier and clock cycle; None where DSPs are unknown."""
        if self.dsps is None:
            return None
        return macs * self.inferences_per_second / (self.mhz * 1e6 * self.dsps)


def _streaming(board, dsps, mhz, inferences_per_second):
    """MLPerf Tiny, closed division (the reference int8 models): one circuit per network."""
    return Peer(design="fpgaConvNet v1.1", board=board, dsps=dsps, mhz=mhz,
                inferences_per_second=inferences_per_second)


PEERS = {
    "resnet8": [_streaming("ZyBo", 78, 125, 317), _streaming("ZedBoard", 211, 143, 2431),
                _streaming("ZC706", 525, 187, 6790),
                Peer(design="hls4ml (open division)", board="Pynq-Z2",
                     inferences_per_second=131)],
    "ds_cnn": [_streaming("ZyBo", 60, 125, 465), _streaming("ZedBoard", 188, 143, 3087)],
    "mobilenet_v1_025": [_streaming("ZedBoard", 189, 111, 105),
                         _streaming("ZC706", 564, 200, 1388)],
}
