"""Rows by the million: copies of rows that the API made, written in SQL, since to post them would take hours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg2
import psycopg2.extensions

CHUNK = 200_000


def copy_id(of: str, number: str, milliseconds: str = "0") -> str:
    """SQL of a UUIDv7 that is the same for the same number: as old as the UUID `of`, plus some milliseconds."""
    time = (
        f"lpad(to_hex(('x' || substr(replace({of}::text, '-', ''), 1, 12))::bit(48)::bigint + {milliseconds}), 12, '0')"
    )
    digits = f"md5({number}::text || {of}::text)"
    return f"({time} || '7' || substr({digits}, 1, 3) || '8' || substr({digits}, 4, 15))::uuid"


def copies(table: str, columns: Sequence[str], changed: Mapping[str, str]) -> str:
    """SQL that copies the row `base` once for each n from %(first)s up to %(last)s, some columns changed."""
    values = ", ".join(changed.get(column, f"base.{column}") for column in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values}"
        f" FROM (SELECT * FROM {table} WHERE {{condition}}) AS base"
        " CROSS JOIN generate_series(%(first)s, %(last)s) AS n"
    )


class Filler:
    """A connection that copies rows without asking triggers: what is copied refers to what is there."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._say = say
        self._connection: psycopg2.extensions.connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self.run("SET session_replication_role = replica")
        self.run("SET synchronous_commit = off")

    def run(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def copy(
        self, table: str, condition: str, changed: Mapping[str, str], last: int, parameters: Mapping[str, Any]
    ) -> None:
        """Copy each row that the condition selects `last` times, a chunk at a time."""
        columns = [row[0] for row in self.run(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %(t)s",
            {"t": table},
        )]  # fmt: skip
        statement = copies(table, columns, changed).format(condition=condition)
        for first in range(1, last + 1, CHUNK):
            span = {"first": first, "last": min(last, first + CHUNK - 1)}
            self.run(statement, {**parameters, **span})
            self._say(f"{table}: each row copied {span['last']:,} of {last:,} times")

    def analyze(self, *tables: str) -> None:
        for table in tables:
            self.run(f"VACUUM ANALYZE {table}")

    def close(self) -> None:
        self._connection.close()
