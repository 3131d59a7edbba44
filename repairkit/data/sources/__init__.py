"""Where images, rows and labels are read from: folders, manifests, tables and arrays."""
