"""Kinds of site: how each is found, masked, frozen and read back; and the layers of outputs."""
