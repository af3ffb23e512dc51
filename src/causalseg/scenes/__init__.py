"""Synthetic street scenes with exact labels and depth, in five domains; needs no download."""

from causalseg.scenes.ground import SKY_DEPTH
from causalseg.scenes.street import DOMAINS, Scene, render

__all__ = ["DOMAINS", "SKY_DEPTH", "Scene", "render"]
