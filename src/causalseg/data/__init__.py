"""Images with labels: reading, classes, augmentation and the stream of batches."""
