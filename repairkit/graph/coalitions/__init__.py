"""Graphs that can be run with some filters absent."""
