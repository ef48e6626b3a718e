"""Bodies are strict JSON within limits; whatever else arrives is refused by name, and nothing is stored."""

import gzip
import io
import json

import pytest
from django.test import RequestFactory

from meshes.api import views
from meshes.api.problems import Problem
from tests.workspaces.callers import caller
from workspaces.models import Workspace

PATH = "/api/v1/workspaces"

pytestmark = pytest.mark.django_db


def send(body, content_type="application/json", **headers):
    return caller().post(PATH, body, content_type=content_type, headers=headers)


def refused(answer, status):
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    assert not Workspace.objects.exists()
    return answer.json()


@pytest.mark.parametrize(
    ("body", "pointer", "rule"),
    [
        (b"{", "", "syntax"),
        (b"{'name': 'x'}", "", "syntax"),
        (b'{"name": NaN}', "/name", "not_finite"),
        (b'{"ingest_rate": 1e400}', "/ingest_rate", "not_finite"),
        (b'{"backlog_limit": ' + b"9" * 4000 + b"}", "/backlog_limit", "integer_digits"),
        (b'{"name": "\\u0000"}', "/name", "nul"),
        (b'{"name": "\\ud800"}', "/name", "surrogate"),
        (b'{"name": "a", "name": "b"}', "", "duplicate_key"),
        (b'{"name": ' + b"[" * 200 + b"]" * 200 + b"}", None, "depth"),
        (b'{"name": "\xff"}', "", "encoding"),
        ('{"name": "x"}'.encode("utf-16"), "", "encoding"),
        (b'\xef\xbb\xbf{"name": "x"}', "", "encoding"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_json_is_refused_by_name(body, pointer, rule):
    document = refused(send(body), 400)
    assert document["type"] == "urn:meshes:problem:invalid-json"
    (error,) = document["errors"]
    assert error["rule"] == rule
    assert pointer is None or error["pointer"] in {pointer, "/name"}


def test_too_many_keys_are_refused():
    body = json.dumps({f"k{number}": 1 for number in range(1001)})
    assert refused(send(body), 400)["errors"][0]["rule"] == "too_many_keys"


@pytest.mark.parametrize("body", ["[]", '[{"name": "x"}]', '"x"', "1", "null", "true"])
def test_the_whole_must_be_an_object(body):
    assert refused(send(body), 422)["errors"] == [
        {"pointer": "", "detail": "The body must be a JSON object.", "rule": "object"}
    ]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        "nonsense",
    ],
)
def test_other_content_types_are_refused(content_type):
    refused(send(b'{"name": "x"}', content_type), 415)


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_utf8_may_be_said(content_type):
    assert send('{"name": "Zoë"}'.encode(), content_type).status_code == 201


def test_compressed_bodies_are_refused():
    refused(send(gzip.compress(b'{"name": "x"}'), **{"content-encoding": "gzip"}), 415)


def test_a_body_at_the_limit_is_read():
    document = b'{"name": "x"}'
    assert send(document + b" " * (256 * 1024 - len(document))).status_code == 201


def test_a_longer_body_is_refused():
    answer = send(b'{"name": "x"}' + b" " * 256 * 1024)
    refused(answer, 413)


def test_a_longer_body_is_refused_before_it_is_read():
    answer = caller().post(
        PATH, b'{"name": "x"}', content_type="application/json", headers={"content-length": str(10**12)}
    )
    refused(answer, 413)


def test_a_body_that_ends_early_is_refused():
    ending = {"wsgi.input": io.BytesIO(b'{"name": "x"}'), "CONTENT_LENGTH": "500"}
    refused(caller().post(PATH, content_type="application/json", **ending), 400)


def test_no_body_is_no_fields():
    document = refused(caller().post(PATH, content_type="application/json"), 422)
    assert document["errors"][0]["pointer"] == "/name"


# --- chunked --------------------------------------------------------------------------------------------------------


def chunked(body, *, terminated=True, path=PATH):
    request = RequestFactory().post(path, content_type="application/json")
    request.META |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": io.BytesIO(body)}
    request.META["wsgi.input_terminated"] = terminated
    del request.META["CONTENT_LENGTH"]
    return request


def answer_to(request):
    return views.ChunkedBodies(lambda request: request)(request)


def test_a_chunked_body_is_read_to_its_end():
    request = answer_to(chunked(b'{"name": "x"}'))
    assert request.META["CONTENT_LENGTH"] == "13"
    assert request.read() == b'{"name": "x"}'


def test_a_chunked_body_above_every_limit_is_refused(settings):
    settings.MESHES_BULK_BODY_LIMIT = 100
    assert answer_to(chunked(b"x" * 101)).status_code == 413


def test_a_server_that_does_not_mark_the_end_must_be_told_the_length():
    assert answer_to(chunked(b"{}", terminated=False)).status_code == 411


def test_broken_chunks_are_the_callers_fault():
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError("no more data")

    request = chunked(b"")
    request.META["wsgi.input"] = Broken()
    assert answer_to(request).status_code == 400


def test_other_pages_are_left_alone():
    request = chunked(b"{}", path="/admin/")
    assert answer_to(request) is request
    assert "CONTENT_LENGTH" not in request.META


def test_a_problem_names_the_limit():
    with pytest.raises(Problem) as caught:
        raise views._too_large(256 * 1024)
    assert caught.value.detail == "A body here may have 262,144 bytes."
