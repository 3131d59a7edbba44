"""Bridges to frameworks and clusters, found by entry points."""
