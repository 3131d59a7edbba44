"""ONNX Runtime: sessions, values and who owns their memory."""
