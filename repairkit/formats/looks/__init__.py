"""Records of looks at filters."""
