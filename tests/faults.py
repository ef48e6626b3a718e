"""Faults of PostgreSQL, raised by PostgreSQL."""

from django.db import connection


def raise_sqlstate(state: str) -> None:
    """Run a statement that the server refuses by this SQLSTATE."""
    with connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'a test' USING ERRCODE = '{state}'; END $$")
