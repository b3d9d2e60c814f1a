"""What a source may hold, checkpoints or an ONNX model, and what is done with each."""
