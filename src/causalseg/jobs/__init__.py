"""What the commands do: `causalseg X` is `jobs/X.py`."""
