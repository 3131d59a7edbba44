"""Intervals, paired tests and limits: what a figure is worth."""
