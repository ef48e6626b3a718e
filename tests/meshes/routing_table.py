"""All routes of Meshes as paths that can be asked for, found in `urlpatterns`: a new one is in the tests by itself."""

import re
from collections.abc import Iterator

from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RegexPattern

SAMPLES = {"uuid": "0198c0de-0000-7000-8000-000000000000", "int": "1"}
"""By the converter of an argument; all others take `x`."""


def paths() -> list[str]:
    return sorted({f"/{path}" for path in _walk(get_resolver().url_patterns, "")})


def _walk(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for each in patterns:
        here = before + _sample(each)
        if isinstance(each, URLResolver):
            yield from _walk(each.url_patterns, here)
        else:
            yield here


def _sample(each: URLPattern | URLResolver) -> str:
    text = str(each.pattern)
    if isinstance(each.pattern, RegexPattern):
        named = re.sub(r"\(\?P<\w+>(\w*)[^)]*\)", lambda found: found[1] or "x", text)
        return named.strip("^$").removesuffix("\\Z").replace("\\", "")
    return re.sub(r"<(?:(\w+):)?\w+>", lambda found: SAMPLES.get(found[1] or "", "x"), text)
