"""Kinds of layer whose outputs hold filters: how each is found and what stores it."""
