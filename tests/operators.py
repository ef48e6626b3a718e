"""Operators for tests: Django's test client, logged in to the admin."""

import re
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where it is missing


class Operator:
    """Opens pages by model and row, and runs actions."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.client = Client()
        self.client.force_login(user)

    def list(self, model: str, **query: Any) -> Any:
        return self.client.get(reverse(f"admin:{model}_changelist"), query)

    def page(self, model: str, pk: Any) -> Any:
        return self.client.get(reverse(f"admin:{model}_change", args=[pk]))

    def text(self, model: str, pk: Any) -> str:
        """The page's visible words, without tags and with single spaces."""
        answer = self.page(model, pk)
        assert answer.status_code == 200, answer.status_code
        return words(answer)

    def run(self, model: str, action: str, *pks: Any, **data: Any) -> Any:
        """Run a list's action on rows, confirmed unless told otherwise."""
        data = {"action": action, "_selected_action": list(pks), "confirm": "yes"} | data
        return self.client.post(reverse(f"admin:{model}_changelist"), {k: v for k, v in data.items() if v is not None})

    def press(self, model: str, action: str, pk: Any, **data: Any) -> Any:
        """Press a button on a row's page."""
        return self.client.post(reverse(f"admin:{model}_act", args=[pk, action]), data)


def superuser() -> Operator:
    return Operator(User.objects.create(username="root", is_staff=True, is_superuser=True))


def operator(*permissions: str) -> Operator:
    """A member of staff with these permissions, such as "delivery.view_event", and no others."""
    user = User.objects.create(username="staff", is_staff=True)
    for permission in permissions:
        app, _, codename = permission.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return Operator(user)


def said(answer: Any) -> list[str]:
    """The messages that an action left."""
    return [str(message) for message in get_messages(answer.wsgi_request)]


def words(answer: Any) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", answer.content.decode(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))
