"""A report for people: one folder that opens from disk and over HTTP, with nothing fetched from anywhere else."""

from pipelines.report.report import check as check
from pipelines.report.report import write as write
