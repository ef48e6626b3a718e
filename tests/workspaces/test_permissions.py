"""What a view does not declare is refused, loudly."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from workspaces.authentication import accepted_scopes
from workspaces.endpoints import Endpoint


class Declared(Endpoint):
    required_scope = {"list": ("config", "admin"), "create": "admin"}


class Forgotten(Endpoint):
    def get(self, request):
        raise NotImplementedError


def test_one_scope_or_several():
    assert accepted_scopes(Declared(), "list") == ("config", "admin")
    assert accepted_scopes(Declared(), "create") == ("admin",)


@pytest.mark.parametrize(("view", "action"), [(Declared(), "destroy"), (Forgotten(), "get")])
def test_an_undeclared_action_is_an_error(view, action):
    with pytest.raises(ImproperlyConfigured):
        accepted_scopes(view, action)
