"""Analysis of features on plain tensors: what frequencies hold, and how they change."""
