"""The commands: parse, call one function of `repairkit.api`, print.

A command imports the API and what it prints with when it runs: `--help` loads neither numpy nor
onnx.
"""
