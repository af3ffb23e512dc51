"""Training, inference and scoring."""
