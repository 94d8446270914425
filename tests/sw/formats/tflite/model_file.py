"""Writes small .tflite files with the schema's own builders, field by field."""

from importlib import import_module

import flatbuffers
import numpy as np
import tflite

TYPES = {np.dtype(kind): getattr(tflite.TensorType, name) for kind, name in (
    ("int8", "INT8"), ("int16", "INT16"), ("int32", "INT32"), ("uint8", "UINT8"),
    ("uint16", "UINT16"), ("float16", "FLOAT16"), ("float32", "FLOAT32"))}
OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions",
    "RESHAPE": None, "CONCATENATION": "ConcatenationOptions", "PAD": "PadOptions", "RELU": None,
    "RELU6": None, "SOFTMAX": "SoftmaxOptions", "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions", "SQUEEZE": "SqueezeOptions", "TANH": None,
    "EXPAND_DIMS": "ExpandDimsOptions", "MUL": "MulOptions", "LOGISTIC": None,
    "HARD_SWISH": None, "LEAKY_RELU": "LeakyReluOptions", "RELU_N1_TO_1": None, "ELU": None,
}


class ModelFile:
    """Collects tensors and operators of one subgraph; every tensor is a number.

    `bytes(inputs, outputs)` is the file.
    """

    def __init__(self):
        self._builder = flatbuffers.Builder(1 << 16)
        self._tensors, self._operators, self._codes = [], [], []
        self._buffers = [self.table("Buffer")]
        self.shapes, self.names = [], []

    def table(self, kind, **fields):
        """A table; fields are numbers, and vectors and tables made before."""
        module = import_module(f"tflite.{kind}")
        module.Start(self._builder)
        for name, value in fields.items():
            if value is not None:
                getattr(module, f"Add{name}")(self._builder, value)
        return module.End(self._builder)

    def numbers(self, values, dtype):
        """A vector, as a field of a table."""
        return self._builder.CreateNumpyVector(np.asarray(values, dtype))

    def text(self, value):
        """A text, as a field of a table."""
        return self._builder.CreateString(value)

    def _offsets(self, items):
        self._builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            self._builder.PrependUOffsetTRelative(item)
        return self._builder.EndVector()

    def tensor(self, shape, scale=None, zero_point=0, *, dtype="int8", data=None, axis=0,
               name=None, signature=None):
        """An activation, or with ``data`` a constant; scale and zero point may be lists."""
        name = name if name is not None else f"tensor{len(self._tensors)}"
        buffer = 0
        if data is not None:
            data = np.asarray(data, dtype)
            content = self.numbers(np.frombuffer(data.tobytes(), np.uint8), np.uint8)
            self._buffers.append(self.table("Buffer", Data=content))
            buffer = len(self._buffers) - 1
        quantization = None
        if scale is not None:
            scales = self.numbers(np.atleast_1d(scale), np.float32)
            zero_points = self.numbers(np.broadcast_to(zero_point, np.shape(np.atleast_1d(scale))),
                                        np.int64)
            quantization = self.table("QuantizationParameters", Scale=scales,
                                       ZeroPoint=zero_points, QuantizedDimension=axis)
        text = self.text(name)
        dims = self.numbers(shape, np.int32)
        if signature is not None:
            signature = self.numbers(signature, np.int32)
        self._tensors.append(self.table(
            "Tensor", Shape=dims, Type=TYPES[np.dtype(dtype)], Buffer=buffer, Name=text,
            Quantization=quantization, ShapeSignature=signature))
        self.shapes.append(tuple(shape))
        self.names.append(name)
        return len(self._tensors) - 1

    def constant(self, data, scale=None, zero_point=0, **fields):
        """A constant tensor of the array's own type."""
        data = np.asarray(data)
        return self.tensor(data.shape, scale, zero_point, dtype=data.dtype, data=data, **fields)

    def operator(self, kind, inputs, outputs, **fields):
        """An operator; fields are those of its options table."""
        code = getattr(tflite.BuiltinOperator, kind)
        if code not in self._codes:
            self._codes.append(code)
        options, options_type = None, None
        if OPTIONS[kind]:
            options = self.table(OPTIONS[kind], **fields)
            options_type = getattr(tflite.BuiltinOptions, OPTIONS[kind])
        inputs, outputs = (self.numbers(values, np.int32) for values in (inputs, outputs))
        self._operators.append(self.table(
            "Operator", OpcodeIndex=self._codes.index(code), Inputs=inputs, Outputs=outputs,
            BuiltinOptionsType=options_type, BuiltinOptions=options))

    def repeat(self, kind, n, **fields):
        """n tables "Tensor" or "Operator" that share the vectors of their fields."""
        tables = {"Tensor": self._tensors, "Operator": self._operators}[kind]
        tables += [self.table(kind, **fields) for _ in range(n)]

    def bytes(self, inputs, outputs):
        """The finished file; nothing can be added behind it."""
        tensors, operators = self._offsets(self._tensors), self._offsets(self._operators)
        inputs, outputs = (self.numbers(values, np.int32) for values in (inputs, outputs))
        graph = self.table("SubGraph", Tensors=tensors, Inputs=inputs, Outputs=outputs,
                            Operators=operators)
        codes = [self.table("OperatorCode", DeprecatedBuiltinCode=min(code, 127),
                             BuiltinCode=code, Version=1) for code in self._codes]
        model = self.table("Model", Version=3, OperatorCodes=self._offsets(codes),
                            Subgraphs=self._offsets([graph]), Buffers=self._offsets(self._buffers))
        self._builder.Finish(model, b"TFL3")
        return bytes(self._builder.Output())
