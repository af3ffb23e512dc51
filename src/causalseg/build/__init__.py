"""From a configuration to model and data."""
