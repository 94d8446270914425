"""What `--top` names: the accelerator of a target, or one of its parts."""

from importlib import import_module

from synthesis.design import Design, design_of

__all__ = ["TOPS", "top_design"]

TOPS = {  # module and class, made from the target alone
    "accelerator": ("hw.rtl.accelerator", "Accelerator"),
    "array": ("hw.rtl.array.engine", "ArrayEngine"),
    "vector": ("hw.rtl.vector.engine", "VectorEngine"),
    "lanes": ("hw.rtl.lanes.lanes", "Lanes"),
    "crossbar": ("hw.rtl.memory.crossbar", "Crossbar"),
}


def top_design(top: str, target) -> Design:
    """The design to synthesize; the accelerator's Verilog is the very text that is simulated."""
    from hw.rtl.verilog import to_verilog

    module, name = TOPS[top]
    component = getattr(import_module(module), name)(target)
    return design_of(component, top, to_verilog(component, top) if top == "accelerator" else None)
