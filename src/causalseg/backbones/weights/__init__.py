"""Weight files of backbones: where they are, what is in them."""
