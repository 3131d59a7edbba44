"""Compare two ONNX files: graphs, tensors, frozen filters, and answers on images."""
