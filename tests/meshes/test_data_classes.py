"""Every column of the database has a class, and docs/data.md says so."""

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from delivery.models import Payload
from meshes import data_classes
from meshes.data_classes import TABLES, Table
from meshes.management.commands import write_data_docs


def test_every_column_has_one_class():
    assert data_classes.problems() == []


def test_the_page_is_what_would_be_written():
    call_command("write_data_docs", "--check")


@pytest.fixture
def declare(monkeypatch):
    """Declare the columns of payloads otherwise."""

    def put(table):
        kept = {label: each for label, each in TABLES.items() if label != "delivery.Payload"}
        monkeypatch.setattr(data_classes, "TABLES", kept | ({"delivery.Payload": table} if table else {}))

    return put


def test_a_column_without_a_class_is_named_with_what_to_do(declare):
    declare(Table(kept="x", payload="body", internal="event_id workspace_id"))
    (problem,) = data_classes.problems()
    assert problem == (
        "delivery.Payload.erased_at has no class: name it in TABLES of meshes/data_classes.py, under one of credential,"
        " payload, tenant, operator, internal; then run manage.py write_data_docs"
    )
    with pytest.raises(CommandError, match=r"Payload\.erased_at has no class"):
        call_command("write_data_docs", "--check")


def test_a_model_without_classes_is_named_by_its_columns(declare):
    declare(None)
    named = [problem.split()[0] for problem in data_classes.problems()]
    assert named == [f"delivery.Payload.{column}" for column in data_classes.columns_of(Payload)]


def test_what_is_named_twice_or_is_not_there_any_more_is_told(declare):
    declare(Table(kept="x", payload="body gone", internal="event_id workspace_id erased_at body"))
    first, second = data_classes.problems()
    assert first.startswith("delivery.Payload.body has two classes")
    assert second == "delivery.Payload.gone in TABLES is no column any more"


def test_a_page_that_is_not_up_to_date_is_told_and_written(monkeypatch, tmp_path):
    page = tmp_path / "data.md"
    page.write_text("old")
    monkeypatch.setattr(write_data_docs, "PAGE", page)
    with pytest.raises(CommandError, match=r"run manage\.py write_data_docs"):
        call_command("write_data_docs", "--check")
    assert page.read_text() == "old"
    call_command("write_data_docs")
    assert page.read_text() == data_classes.page()


@pytest.mark.django_db
def test_every_table_of_the_database_and_each_of_its_columns_is_a_model_s():
    """What SQL alone has made would not be found among the models. Partitions have the columns of their table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped"
            " AND c.relnamespace = 'public'::regnamespace GROUP BY 1"
        )
        tables = {name: set(columns) for name, columns in cursor.fetchall()}
    assert tables == {model._meta.db_table: set(data_classes.columns_of(model)) for model in data_classes.models()}


def test_nothing_of_another_package_is_left_out():
    labels = {model._meta.label for model in data_classes.models()}
    assert {"auth.User", "auth.User_groups", "signin.Authenticator", "admin.LogEntry"} <= labels
    assert MigrationRecorder.Migration in set(data_classes.models())
