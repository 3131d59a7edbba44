"""Freeze filters inside the model, undo it, and tell what was frozen."""
