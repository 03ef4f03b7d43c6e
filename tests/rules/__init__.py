"""The rules of the semantics, row by row: against torch and ONNX, under growth, and under mutation."""
