"""The commands: parse, call one function of `repairkit.api`, print.

A command imports what it prints with when it runs, and `repairkit.api` loads what it needs then, so
that `--help` loads neither numpy nor onnx.
"""
