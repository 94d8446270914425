"""ONNX: models of other tools read in, Programs written out and run by ONNX Runtime."""
