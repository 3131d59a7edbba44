"""Repair a model: choose what to change, confirm it, bake it, tell it."""
