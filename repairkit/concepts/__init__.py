"""Concepts: images with masks, and which units detect what they show; pure numbers."""
