"""What a run leaves on disk: weights, log, scores."""
