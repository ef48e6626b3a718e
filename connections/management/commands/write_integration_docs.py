"""`manage.py write_integration_docs`: docs/integrations, from what the providers declare."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from connections import catalogue, providers

FOLDER = Path(__file__).parents[3] / "docs" / "integrations"


class Command(BaseCommand):
    help = "Write docs/integrations from the providers' declarations; --check only compares."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        pages = {"README.md": catalogue.index(providers.all())}
        pages |= {f"{provider.slug}.md": catalogue.page(provider) for provider in providers.all()}
        stale = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
        stale += [path.name for path in FOLDER.glob("*.md") if path.name not in pages]
        if check and stale:
            raise CommandError(f"not up to date: {', '.join(sorted(stale))}; run manage.py write_integration_docs")
        for name in stale:
            if name in pages:
                FOLDER.mkdir(exist_ok=True)
                (FOLDER / name).write_text(pages[name])
            else:
                (FOLDER / name).unlink()
            self.stdout.write(f"{name}: {'written' if name in pages else 'removed'}")


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text
