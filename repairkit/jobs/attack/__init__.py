"""Make adversarial images, and tell how models fare under them."""
