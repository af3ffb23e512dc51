"""Frozen vision foundation models."""
