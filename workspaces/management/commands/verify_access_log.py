"""`manage.py verify_access_log`: whether the records of who opened which credential are those that were written."""

import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from meshes.kit import clock
from workspaces.vault import verifying
from workspaces.vault.verifying import Report

PROGRESS_SECONDS = 1.0
MOST_TOLD = 100


class Command(BaseCommand):
    help = (
        "Checks the access log against its seals, and says which record was removed, changed or inserted since it was"
        " sealed; exit code 1 where one was. Reads only; safe at any time. See docs/access-log.md."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--log",
            action="append",
            default=[],
            metavar="FILE",
            help="MESHES_SEAL_HEADS or a log of the sweeper, whose heads the seals must have; - is standard input;"
            " may be repeated",
        )

    def handle(self, *args: Any, log: list[str], **options: Any) -> None:
        heads, restores = verifying.read_heads([read_lines(name) for name in log])
        if log:
            self.stdout.write(f"heads in the log: {len(heads):,}")
        for line in restores:
            self.stdout.write(f"the log tells of a restore at {line.at}, after segment {line.segment}")
        report, told_at = Report(), time.monotonic()
        for report in verifying.verify(clock.database_now(), heads, restores):
            if time.monotonic() - told_at > PROGRESS_SECONDS:
                told_at = time.monotonic()
                looked_at = report.segments + report.expired_segments
                self.stdout.write(f"{looked_at:,} of {report.total:,} segments, {report.records:,} records")
                self.stdout.flush()
        self.stdout.write(f"As they were sealed: {report.segments:,} segments, {report.records:,} records.")
        if report.expired_segments:
            self.stdout.write(
                f"Past their retention, known by their count only: {report.expired_segments:,} segments,"
                f" {report.expired_records:,} records."
            )
        self.stdout.write(
            f"Not sealed yet: {report.unsealed:,} records. The sweeper seals every minute; until then a change or a"
            " removal is not seen."
        )
        if report.findings:
            for words in report.findings[:MOST_TOLD]:
                self.stdout.write(self.style.ERROR(words))
            raise CommandError(f"The access log is not whole. Findings: {len(report.findings):,}")
        self.stdout.write(self.style.SUCCESS("The sealed access log is whole."))


def read_lines(name: str) -> list[str]:
    """The lines of a file. Raises CommandError where it cannot be read."""
    if name == "-":
        return sys.stdin.readlines()
    try:
        return Path(name).read_text(errors="replace").splitlines()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
