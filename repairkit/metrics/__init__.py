"""Model outputs and annotations to figures; pure."""
