"""`manage.py evaluator FD`: a worker's process for heavy events (`delivery.rules.heavy`). Nobody else runs it."""

from argparse import ArgumentParser
from multiprocessing.connection import Connection
from typing import Any

from django.core.management.base import BaseCommand

from delivery.rules import heavy


class Command(BaseCommand):
    help = "Evaluates heavy events for the worker that has started it."
    requires_system_checks: Any = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("fd", type=int, help="the worker's end of a pipe")

    def handle(self, *args: Any, fd: int, **options: Any) -> None:
        heavy.serve(Connection(fd))
