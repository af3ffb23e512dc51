"""Ablations of Causal-Tune: for comparison, nobody should pick them."""
