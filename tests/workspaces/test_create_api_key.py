"""`manage.py create_api_key`."""

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from tests.factories import make_workspace
from workspaces import keys
from workspaces.models import ApiKey

pytestmark = pytest.mark.django_db


def test_the_first_key(capsys):
    call_command("create_api_key", "--name", "Operator", "--scopes", "all")
    row = ApiKey.objects.get()
    assert (row.name, row.kind, tuple(row.scopes), row.expires_at) == ("Operator", "account", keys.SCOPES, None)
    printed = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert keys.verify(printed["key"].strip()).id == row.pk
    assert printed["signing secret"].strip().startswith("mesh_sign_")


def test_a_script_gets_the_key_alone(capsys):
    call_command("create_api_key", "--name", "Script", "--scopes", "config,events:read", "--quiet")
    assert set(keys.verify(capsys.readouterr().out.strip()).scopes) == {"config", "events:read"}


def test_a_tenants_key_with_an_expiry():
    workspace = make_workspace(external_id="acme")
    call_command(
        "create_api_key", "--name=k", "--kind=workspace", "--workspace=acme", "--scopes=config",
        "--expires=2999-01-31T00:00:00Z",
    )  # fmt: skip
    row = ApiKey.objects.get()
    assert row.workspace == workspace
    assert row.expires_at == datetime(2999, 1, 31, tzinfo=UTC)


def test_a_publishable_key():
    make_workspace(external_id="acme")
    call_command(
        "create_api_key", "--name=k", "--kind=publishable", "--workspace=acme", "--origin=https://app.example.com"
    )
    row = ApiKey.objects.get()
    assert (row.scopes, row.allowed_origins) == (["events:write"], ["https://app.example.com"])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--scopes="],
        ["--scopes=everything"],
        ["--scopes=config", "--workspace=acme"],
        ["--scopes=config", "--kind=workspace"],
        ["--scopes=config", "--kind=workspace", "--workspace=nobody"],
        ["--scopes=config", "--kind=publishable", "--workspace=acme"],
        ["--scopes=config", "--expires=soon"],
        ["--scopes=config", "--expires=2999-99-99T00:00:00Z"],
        ["--scopes=config", "--expires=2999-01-31T00:00:00"],
        ["--scopes=config", "--expires=2001-01-31T00:00:00Z"],
        ["--scopes=config", "--origin=https://app.example.com"],
        ["--kind=publishable", "--workspace=acme", "--origin=https://app.example.com/"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_makes_no_key(options):
    make_workspace(external_id="acme")
    with pytest.raises(CommandError):
        call_command("create_api_key", "--name=k", *options)
    assert not ApiKey.objects.exists()
