"""TFLite int8 models become Programs that give LiteRT's reference kernels' codes at every tensor.

schema.py reads the file, graph.py holds what was read and checks it, builder.py collects the
Program. products.py, pools.py, pointwise.py, tables.py and layout.py convert the operators
and enter them in registry.py; convert.py walks the graph.
"""

from sw.formats.tflite.convert import import_tflite

__all__ = ["import_tflite"]
