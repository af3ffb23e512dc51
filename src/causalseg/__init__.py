"""causalseg: fine-tune a frozen vision foundation model for segmentation on unseen domains."""

__version__ = "0.1.0"
