"""A server that predicts images, and the page it brings."""
