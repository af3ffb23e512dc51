"""The report of runs: one HTML file that needs nothing but itself, and its numbers as text."""

from causalseg.report.page import write_report
from causalseg.report.tables import DomainTable, domain_table
from causalseg.report.text import to_latex, to_markdown

__all__ = ["DomainTable", "domain_table", "to_latex", "to_markdown", "write_report"]
