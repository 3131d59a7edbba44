"""Estimators that fit a value per player to many outcomes."""
