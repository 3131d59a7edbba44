"""Runtimes other than ONNX Runtime on the CPU, in which a patched file can be checked."""
