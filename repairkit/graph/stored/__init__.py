"""Models and constant tensors as they are stored: read, checked, edited, written."""
