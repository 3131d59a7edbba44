"""Results where people look at them: in a line, in a notebook's cell, as a table, as a picture."""
