"""Dreams: images made to excite filters, and how far they exceed real images."""
