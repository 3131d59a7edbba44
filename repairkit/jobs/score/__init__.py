"""Score the filters of a model."""
