"""Plays the game in ONNX Runtime."""
