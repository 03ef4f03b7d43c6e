"""Native access to the programs that are edited: torch.export and ONNX."""
