"""The report: a run directory as one HTML page that opens without a server."""

from rence_lightning.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
