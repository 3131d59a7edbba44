"""Keras models: exported to ONNX, patched in their own framework."""

from repairkit_adapters.keras.adapter import ADAPTER, KerasAdapter, apply_patch, wrap

__all__ = ["ADAPTER", "KerasAdapter", "apply_patch", "wrap"]
