"""Requests, verdicts and declarations are those that were kept in `golden.json`, whatever else a change is for."""

import json

import pytest

from connections import providers
from tests.connections.providers import golden

KEPT = json.loads(golden.FILE.read_text())
SLUGS = [provider.slug for provider in providers.all()]


def test_every_provider_is_kept():
    assert sorted(KEPT) == sorted(SLUGS)


@pytest.mark.parametrize("slug", SLUGS)
def test_calls_give_what_they_gave(slug):
    provider, parts = providers.get(slug), KEPT[slug]["parts"]
    for number, call in enumerate(KEPT[slug]["calls"]):
        given = golden.called(provider, call, parts)
        assert golden.short(given) == call[2], f"call {number}, {call[0]}: {given}"


@pytest.mark.parametrize("slug", SLUGS)
def test_answers_mean_what_they_meant(slug):
    kept = {name: iter(values.split(" ")) for name, values in KEPT[slug]["judged"].items()}
    for name, given in golden.judged(providers.get(slug), KEPT[slug]["bodies"]):
        text = golden.text_of_result(given)
        assert golden.digest(text) == next(kept[name]), f"{name}: {text}"
    assert [name for name, values in kept.items() if next(values, None)] == []
