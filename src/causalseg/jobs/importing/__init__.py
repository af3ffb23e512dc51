"""Checkpoints of other code as run folders of our own."""
