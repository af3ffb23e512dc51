"""Where in the spectrum of features classes and domain shift are, and what a model does there."""

from causalseg.jobs.spectrum.job import measure_model
from causalseg.jobs.spectrum.sets import Plan

__all__ = ["Plan", "measure_model"]
