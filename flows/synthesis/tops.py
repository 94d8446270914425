"""What `--top` names: the accelerator of a target, or one of its parts."""

from collections.abc import Callable

from flows.synthesis.design import Design, design_of

__all__ = ["TOPS", "top_design"]


def _array(target):
    from hw.array import MacArray
    return MacArray(rows=target.rows, columns=target.columns, multiplier=target.multiplier)


def _rescaler(target):
    from hw.multiplier import MULTIPLIERS
    from hw.rescaler import RescalerPipeline
    return RescalerPipeline(multiplier_class=MULTIPLIERS[target.multiplier])


def _accelerator(target):
    from hw.accelerator import Accelerator
    return Accelerator(target)


TOPS: dict[str, Callable] = {"accelerator": _accelerator, "array": _array, "rescaler": _rescaler}


def top_design(top: str, target) -> Design:
    """The design to synthesize; the accelerator's Verilog is the very text that is simulated."""
    from hw.verilog import to_verilog

    component = TOPS[top](target)
    return design_of(component, top, to_verilog(component, top) if top == "accelerator" else None)
