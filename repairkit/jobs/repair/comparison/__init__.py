"""Simpler ways to choose filters, to compare a repair with."""
