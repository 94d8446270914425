"""Programs as ONNX models: integer operators, or quantize and dequantize pairs."""
