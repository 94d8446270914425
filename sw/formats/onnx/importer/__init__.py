"""ONNX models: quantized ones become Programs, float ones networks that can be quantized.

model_file.py reads the file, graph.py holds what was read, folding.py computes constants, walk.py
goes over the nodes and geometry.py reads their windows and shapes. Of a float graph float_graph.py
makes a network.py. Of a quantized one quantized.py makes a Program, with values.py for what waits
for its scale and qdq.py and qlinear.py for the operators; exported.py knows Lockstep's own exports.
convert.py is the way through all of them.
"""

from sw.formats.onnx.importer.convert import import_network, import_onnx, unsupported_operators

__all__ = ["import_network", "import_onnx", "unsupported_operators"]
