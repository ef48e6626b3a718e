"""`/api/schema` and `/api/docs`: complete, and readable without the internet."""

import re
from contextlib import closing

import pytest
from django.test import Client


@pytest.fixture(scope="module")
def document():
    return Client().get("/api/schema").json()


def operations(document):
    return {
        f"{verb.upper()} {path}": operation
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    }


def test_it_is_openapi(document):
    assert document["openapi"].startswith("3.")
    assert document["info"]["title"] == "Meshes API"
    assert len(operations(document)) > 40


def test_every_operation_says_how_to_prove_who_you_are(document):
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert all(operation["security"] == [{"key": []}] for operation in operations(document).values())


def test_every_operation_has_a_description(document):
    assert [name for name, operation in operations(document).items() if not operation.get("description")] == []


def test_every_operation_documents_its_problems(document):
    for name, operation in operations(document).items():
        documented = set(operation["responses"])
        needed = {"401", "403", "406", "503"}
        needed |= {"404"} if "{" in name else set()
        needed |= {"400", "413", "415", "422"} if name.startswith(("POST", "PATCH")) else set()
        assert needed <= documented, name
        problem = operation["responses"]["401"]["content"]["application/problem+json"]
        assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_bodies_take_no_unknown_fields(document):
    for name, operation in operations(document).items():
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schema = document["components"]["schemas"][media["schema"]["$ref"].rsplit("/", 1)[1]]
            assert schema["additionalProperties"] is False, name


def test_the_example_of_a_tenant_is_there(document):
    examples = document["paths"]["/api/v1/workspaces"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert examples["ATenant"]["value"] == {"name": "Acme", "external_id": "ws_tenant_abc"}


@pytest.mark.django_db
def test_the_docs_need_no_internet():
    page = Client().get("/api/docs")
    assert page.status_code == 200
    html = page.content.decode()
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(links) >= 4
    assert "/api/schema" in html
    for link in links:
        assert link.startswith("/"), link
        with closing(Client().get(link)) as file:
            assert file.status_code == 200, link
