"""Pure functions of tensors: token layout, transforms, frequency bands."""
