"""Heads: feature maps to per-pixel class logits."""
