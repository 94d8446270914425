"""LiteRT's reference kernels, which imported TFLite programs are compared with."""

import numpy as np

from golden.errors import LockstepError


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

    def output(self, x: np.ndarray) -> np.ndarray:
        """The model's output, of every image of x by itself."""
        results = []
        for image in x:
            self._run(image)
            results.append(self._interpreter.get_tensor(self._output)[0])
        return np.stack(results)

    def trace(self, x: np.ndarray, names) -> dict[str, np.ndarray]:
        """The tensors of these names, channels first as in a Program, (N, ...).

        Names that the model lacks are left out: tensors inside a converted operator.
        """
        kept = {name: [] for name in names if name in self._indices}
        for image in x:
            self._run(image)
            for name, values in kept.items():
                values.append(self._interpreter.get_tensor(self._indices[name])[0].copy())
        return {name: np.ascontiguousarray(np.moveaxis(np.stack(values), -1, 1))
                for name, values in kept.items()}
