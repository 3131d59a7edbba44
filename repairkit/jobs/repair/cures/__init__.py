"""The ways to change a model that compete in a repair."""
