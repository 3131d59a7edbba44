"""Triggered images for `patch --backdoor`, and channels that look like a backdoor's."""
