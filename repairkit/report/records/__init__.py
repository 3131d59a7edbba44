"""Records of a repair for those who must answer for a model."""
