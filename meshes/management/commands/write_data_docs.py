"""`manage.py write_data_docs`: docs/data.md, from the class of every column."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from meshes import data_classes

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


class Command(BaseCommand):
    help = "Write docs/data.md from the classes of all columns; --check only compares."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not up to date")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        if problems := data_classes.problems():
            raise CommandError("\n".join(problems))
        text = data_classes.page()
        if PAGE.exists() and PAGE.read_text() == text:
            return
        if check:
            raise CommandError("docs/data.md is not up to date: run manage.py write_data_docs")
        PAGE.write_text(text)
        self.stdout.write("docs/data.md: written")
