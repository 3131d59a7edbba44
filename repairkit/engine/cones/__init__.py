"""Coalitions by a compiled model, of which only what a change reaches runs again."""
