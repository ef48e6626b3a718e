import copy
import json
import pickle

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from rest_framework.utils.encoders import JSONEncoder

from workspaces.vault.secret import Secret

TEXT = "whsec_abcdefgh1234"


@pytest.mark.parametrize("printed", [str(Secret(TEXT)), repr(Secret(TEXT)), f"{Secret(TEXT)}", "%s" % Secret(TEXT)])  # noqa: UP031
def test_every_way_of_printing_gives_the_mask(printed):
    assert printed == "••••"


def test_a_width_in_the_format_pads_the_mask():
    assert f"{Secret(TEXT):>6}" == "  ••••"


def test_a_secret_inside_other_things_stays_masked():
    assert repr({"token": Secret(TEXT), "all": [Secret(TEXT)]}) == "{'token': ••••, 'all': [••••]}"


def test_reveal_gives_the_text():
    assert Secret(TEXT).reveal() == TEXT


@pytest.mark.parametrize(
    ("text", "hint"), [("", "••••"), ("abcdefgh123", "••••"), ("abcdefgh1234", "••••1234"), (TEXT, "••••1234")]
)
def test_the_hint_shows_four_characters_of_twelve_or_more(text, hint):
    assert Secret(text).masked_hint() == hint


def test_equality_holds_between_secrets_only():
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert Secret("\ud800é") == Secret("\ud800é")


def test_a_secret_is_not_hashable():
    with pytest.raises(TypeError):
        hash(Secret(TEXT))


def test_a_secret_has_no_attributes_to_list():
    with pytest.raises(TypeError):
        vars(Secret(TEXT))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol):
    with pytest.raises(TypeError, match=r"^a Secret is not pickled$"):
        pickle.dumps({"token": Secret(TEXT)}, protocol)


@pytest.mark.parametrize("encoder", [json.JSONEncoder, DjangoJSONEncoder, JSONEncoder])
def test_json_refuses_a_secret(encoder):
    with pytest.raises(TypeError):
        json.dumps({"token": Secret(TEXT)}, cls=encoder)


def test_copies_are_the_same_object():
    secret = Secret(TEXT)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": secret})["a"] is secret


def test_an_empty_secret_is_false():
    assert not Secret("")
    assert Secret(TEXT)


def test_what_is_not_text_is_refused_without_being_shown():
    with pytest.raises(TypeError, match=r"^a Secret holds a str$"):
        Secret(b"bytes")
