"""What others read to learn where a patched model comes from."""
