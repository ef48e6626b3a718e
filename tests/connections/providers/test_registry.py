import json
import re
from pathlib import Path
from typing import Any

import pytest

from connections import providers
from tests.connections.providers.shipments import as_secrets, shipment


def test_a_provider_is_found_by_its_slug():
    assert providers.get("webhook") in providers.all()


def test_an_unknown_slug_is_refused():
    with pytest.raises(KeyError):
        providers.get("carrier-pigeon")


def test_the_example_of_the_readme_is_a_provider():
    text = Path(providers.__path__[0], "README.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec"), namespace)  # noqa: S102 - our own example
    provider = namespace["PROVIDER"]
    config = provider.clean_config({"loft": "north-1"})
    credentials = as_secrets(provider.clean_credentials({"api_key": "k3y"}))
    sent = provider.prepare(shipment(body='{"text":"hi"}', config=config, credentials=credentials))
    assert (sent.method, sent.url) == ("POST", "https://api.example.com/lofts/north-1/messages")
    assert json.loads(sent.body) == {"message": "hi", "idempotency_key": shipment().delivery_id}
    assert dict(sent.headers)["authorization"] == "Bearer k3y"
