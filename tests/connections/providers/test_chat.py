import pytest

from connections.providers.base import Unsendable
from connections.providers.chat import escaped, few
from connections.providers.markup import escape_slack


def test_a_text_is_as_long_as_it_is_when_it_is_escaped():
    assert escaped("a & b", escape_slack, 9, "Slack") == "a &amp; b"
    with pytest.raises(Unsendable, match=r"has 9 characters; Slack takes at most 8\. Cut it\.$"):
        escaped("a & b", escape_slack, 8, "Slack", " Cut it.")


def test_a_text_that_is_too_long_already_is_not_escaped():
    with pytest.raises(Unsendable, match=r"has 5 characters; Slack takes at most 4\.$"):
        escaped("&&&&&", escape_slack, 4, "Slack")


def test_more_parts_than_a_vendor_takes_are_refused():
    assert few("blocks", [1, 2], 2, "Slack") == [1, 2]
    with pytest.raises(Unsendable, match="has 3 blocks; Slack takes at most 2"):
        few("blocks", [1, 2, 3], 2, "Slack")
