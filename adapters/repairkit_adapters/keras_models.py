"""The name under which the Keras adapter was first published; see `repairkit_adapters.keras`."""

from repairkit_adapters.keras import ADAPTER, KerasAdapter, apply_patch, wrap

__all__ = ["ADAPTER", "KerasAdapter", "apply_patch", "wrap"]
