"""What pages and cards say, taken from finished results."""
