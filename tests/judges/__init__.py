"""Requests to vendors, judged by what the vendors themselves publish: `python -m tests.judges FOLDER` (README.md)."""
