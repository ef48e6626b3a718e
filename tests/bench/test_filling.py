import uuid

import pytest
from django.db import connection

from bench.filling import copies, copy_id


def test_a_copy_takes_every_column_but_the_changed_ones():
    assert copies("t", ["id", "name"], {"id": "n"}) == (
        "INSERT INTO t (id, name) SELECT n, base.name FROM (SELECT * FROM t WHERE {condition}) AS base"
        " CROSS JOIN generate_series(%(first)s, %(last)s) AS n"
    )


@pytest.mark.django_db
def test_an_id_of_a_copy_is_a_uuid7_that_much_younger_and_always_the_same():
    of = uuid.UUID("01a2002c-2f9d-7e00-bd9a-7342f1e5b503")
    copied = [copy_id(f"'{of}'::uuid", number, "-3") for number in ("5", "5", "6")]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(copied)}")
        first, again, other = cursor.fetchone()
    assert first == again != other
    assert (first.version, first.int >> 80) == (7, (of.int >> 80) - 3)
