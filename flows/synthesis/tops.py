"""What `--top` names: the accelerator of a target, or one of its parts."""

from importlib import import_module

from flows.synthesis.design import Design, design_of

__all__ = ["TOPS", "top_design"]

TOPS = {  # module and class, made from the target alone
    "accelerator": ("hw.accelerator", "Accelerator"),
    "array": ("hw.array_engine", "ArrayEngine"),
    "vector": ("hw.vector.engine", "VectorEngine"),
    "lanes": ("hw.lanes", "Lanes"),
    "crossbar": ("hw.crossbar", "Crossbar"),
}


def top_design(top: str, target) -> Design:
    """The design to synthesize; the accelerator's Verilog is the very text that is simulated."""
    from hw.verilog import to_verilog

    module, name = TOPS[top]
    component = getattr(import_module(module), name)(target)
    return design_of(component, top, to_verilog(component, top) if top == "accelerator" else None)
