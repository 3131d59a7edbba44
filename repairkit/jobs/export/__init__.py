"""Write a framework's model as ONNX, proven and mapped."""
