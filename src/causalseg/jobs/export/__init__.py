"""Export a trained model as a file that runs without this package, checked before it is kept."""

from causalseg.jobs.export.job import Exported, export_run

__all__ = ["Exported", "export_run"]
