"""A report for people: one folder that opens from disk and over HTTP, with nothing fetched from anywhere else."""

from pipelines.pages.site import check as check
from pipelines.pages.site import write as write
