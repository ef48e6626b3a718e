"""The demo asks as a customer's backend should: it waits where it is told to."""

import pytest

from meshes.dev.demo.client import Api, ApiError
from tests.receivers import Answer, receiver


@pytest.mark.parametrize(("refusals", "is_answered"), [(1, True), (2, False)])
def test_a_429_is_waited_for_once(refusals, is_answered):
    with receiver() as here:
        here.answers = lambda got: (
            Answer(429, {"Retry-After": "0"}) if len(here.got) <= refusals else Answer(200, body=b"")
        )
        api = Api(here.url.removesuffix("/hook"), "a key")
        if is_answered:
            assert api.get("/workspaces") is None
        else:
            with pytest.raises(ApiError, match="429"):
                api.get("/workspaces")
        assert len(here.got) == 2
