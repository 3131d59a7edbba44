"""Patch files, and the proof that a model is the original with just the claimed changes."""
