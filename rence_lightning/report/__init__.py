"""The report: run directories as one HTML page that opens without a server, and the model card of a policy."""

from rence_lightning.report.page import write_report

__all__ = ["write_report"]
