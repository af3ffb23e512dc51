"""What can be learnt from finished runs."""
