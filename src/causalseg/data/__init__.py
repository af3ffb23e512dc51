"""Images, labels, classes, augmentation and the scene generator."""
