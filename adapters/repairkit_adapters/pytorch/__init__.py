"""PyTorch models: exported to ONNX, patched in their own framework."""

from repairkit_adapters.pytorch.adapter import ADAPTER, PyTorchAdapter, apply_patch, wrap

__all__ = ["ADAPTER", "PyTorchAdapter", "apply_patch", "wrap"]
