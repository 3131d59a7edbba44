"""Find the few filters that make a trained image model fail, and freeze them in the ONNX file."""

from importlib.metadata import version

__version__ = version("repairkit")
