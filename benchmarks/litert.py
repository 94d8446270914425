"""LiteRT's reference kernels, which imported TFLite programs are compared with."""

import numpy as np

from golden.errors import LockstepError
from golden.program.layout import from_file

__all__ = ["Reference"]


class Reference:
    """An interpreter of one model with LiteRT's reference kernels.

    model: the content of a .tflite file; its input must be int8 or what the model itself takes
    Raises LockstepError where the package ai-edge-litert is missing.
    """

    def __init__(self, model: bytes):
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise LockstepError("LiteRT's kernels need the package ai-edge-litert: "
                                "pip install 'lockstep[bench]'") from None
        self._interpreter = Interpreter(
            model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._indices = {}
        for details in self._interpreter.get_tensor_details():
            self._indices.setdefault(details["name"], details["index"])

    def _run(self, image):
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()

    def in_file_order(self, x: np.ndarray, names: dict) -> dict[str, np.ndarray]:
        """Tensors by the keys of ``names``, (N, ...) as the model has them.

        x: likewise; names: the model's name of each, None for the model's output.
        """
        indices = {key: self._output if name is None else self._indices[name]
                   for key, name in names.items()}
        kept = {key: [] for key in indices}
        for image in x:
            self._run(image)
            for key, index in indices.items():
                kept[key].append(self._interpreter.get_tensor(index)[0])
        return {key: np.stack(values) for key, values in kept.items()}

    def results(self, x: np.ndarray, names: dict) -> dict[str, np.ndarray]:
        """The same, channels first as in a Program."""
        return {key: np.ascontiguousarray(from_file(codes, "NHWC"))
                for key, codes in self.in_file_order(x, names).items()}

    def trace(self, x: np.ndarray, names) -> dict[str, np.ndarray]:
        """The tensors of these names; those that the model lacks, inside a converted operator,
        are left out."""
        return self.results(x, {name: name for name in names if name in self._indices})
