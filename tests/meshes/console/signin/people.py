"""Operators for tests of the sign-in: made with a password, signed in step by step through the pages."""

import re
from typing import Any

import pyotp
from django.contrib.auth.models import Permission, User
from django.test import Client

from meshes.console.signin import factors

PASSWORD = "violet harbour lantern"
OTHER = "granite meadow whistle"


def grant(target: Any, *permissions: str) -> None:
    for permission in permissions:
        app, _, codename = permission.partition(".")
        target.add(Permission.objects.get(content_type__app_label=app, codename=codename))


def make_user(name: str = "ada", *permissions: str, **flags: Any) -> User:
    user = User.objects.create_user(name, f"{name}@example.com", PASSWORD, **({"is_staff": True} | flags))
    grant(user.user_permissions, *permissions)
    return user


def make_superuser(name: str = "root") -> User:
    return make_user(name, is_superuser=True)


def give_password(
    user: User, client: Client | None = None, password: str = PASSWORD, **extra: Any
) -> tuple[Client, Any]:
    """A browser in which the password was given, and the answer to it."""
    client = client or Client()
    return client, client.post("/admin/login/", {"username": user.username, "password": password}, **extra)


class App:
    """An authenticator app that none of us wrote."""

    def __init__(self, secret: str) -> None:
        self.totp = pyotp.TOTP(secret)

    def code(self, steps_ago: int = 0) -> str:
        present = factors.present_step()
        return self.totp.at((present - steps_ago) * 30)


def scan(page: Any) -> App:
    """The app after it was given the secret on a page."""
    found = re.search(r'<code class="secret">([A-Z2-7 ]+)</code>', page.content.decode())
    assert found is not None
    return App(found[1].replace(" ", ""))


def shown_codes(page: Any) -> list[str]:
    return re.findall(r"<li><code>([a-z2-7-]+)</code></li>", page.content.decode())


def set_up(user: User) -> tuple[App, list[str]]:
    """A second factor for a user, whose app's present code is still unused; and the recovery codes."""
    secret = factors.new_secret()
    codes = factors.add(user, secret, step=0)
    assert codes is not None
    return App(factors.secret_text(secret).replace(" ", "")), codes


def is_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def sign_in(user: User, app: App | None = None, **extra: Any) -> Client:
    client, _ = give_password(user, **extra)
    if app is not None:
        client.post("/admin/second-factor/", {"code": app.code()}, **extra)
    assert is_in(client)
    return client
