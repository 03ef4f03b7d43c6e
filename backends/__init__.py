"""Applying edit scripts: programs, trainable modules, ONNX files."""
