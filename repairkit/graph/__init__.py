"""ONNX surgery: a model in, a new model out."""
