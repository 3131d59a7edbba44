"""From image files and arrays to what the model takes."""
