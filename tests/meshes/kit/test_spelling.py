"""A refusal names the nearest of what is possible."""

import pytest

from meshes.kit.spelling import nearest, none_of, suggested


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("exausted", ["exhausted", "rejected"], "exhausted"),
        ("HubSpot", ["hubspot"], "hubspot"),
        ("token", ["access_token", "refresh_token_of_app"], "access_token"),
        ("my_write_key_of_segment", ["write_key"], "write_key"),
        ("key", ["write_key_of_all"], None),
        ("zzz", ["access_token"], None),
        ("x" * 100, ["x" * 99], None),
    ],
)
def test_the_nearest_word_is_suggested(word, known, meant):
    assert suggested(word, known) == (f" Did you mean {meant}?" if meant else "")
    assert none_of(word, known).endswith(f" Did you mean {meant}?") is (meant is not None)


def test_a_word_inside_another_one_is_not_near():
    assert nearest("token", ["access_token"]) is None
