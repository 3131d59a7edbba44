"""Dissection: which concepts the filters of a model detect, and whether valued filters do."""
