"""What is no API: pages, health, assets, redirects."""

import re

from tests.frozen.servers import eventually
from tests.frozen.world import World


def pages_are_there(world: World) -> None:
    texts = {
        "/": ("<title>Meshes</title>", "/api/docs", "/admin/", "/readyz"),
        "/api/docs": ("swagger-ui", "/api/schema"),
        "/admin/login/": ("username", "password", "csrfmiddlewaretoken"),
    }
    for path, expected in texts.items():
        text = world.page(path).text
        assert [part for part in expected if part not in text] == []
        for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', text):
            assert world.send("GET", asset).status_code == 200, asset
    assert world.page("/healthz").json() == {"status": "ok"}
    ready = eventually(lambda: (now := world.send("GET", "/readyz").json())["status"] == "ok" and now)
    assert set(ready["checks"].values()) == {"ok"}
    world.page("/readyz")
    world.kept[world.story].append(
        ["readyz", {"": sorted(ready)} | {name: sorted(ready[name]) for name in ready if isinstance(ready[name], dict)}]
    )
    world.page("/api/schema")
    for path in ("/api/schema/", "/api/docs/", "/admin", "/favicon.ico", "/admin/"):
        world.page(path, 302)
    for path in ("/oauth/callback", "/oauth/callback/hubspot"):
        world.page(path, 303)
    for path in ("/oauth/start/nothing", "/oauth/outcome/nothing", "/connect/nothing", "/nowhere", "/api/v1/nowhere"):
        world.page(path, 404)
    world.page("/healthz", 405, method="POST")
    world.ask("GET /nowhere", status=404)
