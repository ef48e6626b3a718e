"""A process full of threads that all need a token at the same moment, as workers do.

`python -m tests.connections.oauth.storm '{…}'` prints as a JSON list what its threads got: access
tokens, or the verdicts that they met.
"""

import json
import os
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any


def main() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")
    django.setup()
    plan = json.loads(sys.argv[1])
    prepare(plan)
    outcomes: list[str] = []
    ready = threading.Barrier(plan["threads"])
    threads = [threading.Thread(target=need_token, args=(plan, ready, outcomes)) for _ in range(plan["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(outcomes), flush=True)


def prepare(plan: dict[str, Any]) -> None:
    """What fixtures do in the process of the test."""
    from django.conf import settings

    from connections import providers
    from connections.apps import install_providers
    from connections.oauth import refresh
    from connections.oauth.tokens import Client
    from workspaces.vault.secret import Secret

    settings.MESHES_PROVIDERS = plan["providers"]
    settings.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    settings.MESHES_OUTBOUND_ALLOW_HTTP = True
    settings.MESHES_OUTBOUND_PORTS = "*"
    settings.MESHES_OAUTH_CLIENTS = {plan["type"]: Client(plan["client"][0], Secret(plan["client"][1]))}
    install_providers()
    providers.get(plan["type"]).override = plan["vendor"]
    refresh.LEASE_SECONDS = plan.get("lease_seconds", refresh.LEASE_SECONDS)


def need_token(plan: dict[str, Any], ready: threading.Barrier, outcomes: list[str]) -> None:
    from connections import providers
    from connections.oauth.refresh import Authorization, Need
    from connections.oauth.tokens import NoTokenError
    from delivery import tasks
    from meshes.kit.clock import Reading
    from workspaces.vault.secret import Secret

    tasks._forbid_database()
    credentials = {key: Secret(value) for key, value in plan["credentials"].items()}
    ids = uuid.UUID(plan["workspace"]), uuid.UUID(plan["connection"])
    need = Need(*ids, plan["version"], f"storm:{os.getpid()}")
    provider, config = providers.get(plan["type"]), plan["config"]
    authorization = Authorization(need, provider, config, credentials, Reading(datetime.now(UTC)), tasks.GROUPED)
    ready.wait()
    try:
        authorization.prepare(time.monotonic() + 30)
        outcomes.append(authorization.credentials["access_token"].reveal())
    except NoTokenError as error:
        outcomes.append(error.verdict.error_class)


if __name__ == "__main__":
    main()
