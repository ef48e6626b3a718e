"""Judging by a description that the vendor publishes: OpenAPI 3, JSON Schema, or the types of its SDK."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.judges.sending import Sent

NOT_COVERED = None
"""What a judge says of a request that its vendor's publication does not speak of."""
Judge = Callable[[Sent], list[str] | None]


class OpenApi:
    """A request must be an operation of the description, at one of its servers, with the headers and the body that it
    declares; a field that an object with declared properties does not declare is refused too.

    `open_at` are pointers to objects that take fields of the customer's own although the description lists some.
    """

    def __init__(self, path: Path, servers: Mapping[str, str] | None = None, open_at: tuple[str, ...] = ()) -> None:
        text = path.read_text()
        self.document = json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.CSafeLoader)
        self.servers = dict(servers or {})
        self.open_at = open_at

    def __call__(self, sent: Sent) -> list[str] | None:
        base = next((each for each in self._urls(sent) if sent.url.startswith(each + "/")), None)
        if base is None:
            return [f"the host {sent.host} is none of {self._urls(sent)}"]
        path = sent.url[len(base) :].partition("?")[0]
        found = self._operation(sent.method.lower(), path)
        if found is None:
            return NOT_COVERED
        operation, parameters = found
        return [*self._headers(sent, parameters), *self._body(sent, operation)]

    def _urls(self, sent: Sent) -> list[str]:
        """The servers that fit: the one of the region that was wanted, where the description says which that is."""
        if wanted := self.servers.get(sent.wanted.get("region", "")):
            return [wanted]
        return sorted(self.servers.values()) or [each["url"].rstrip("/") for each in self.document["servers"]]

    def _operation(self, method: str, path: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        for template, item in self.document["paths"].items():
            pattern = re.sub(r"\\\{[^}]+\\\}", "[^/]+", re.escape(template.partition("#")[0]))
            if method in item and re.fullmatch(pattern, path):
                operation = item[method]
                return operation, [
                    self._at(each) for each in [*item.get("parameters", ()), *operation.get("parameters", ())]
                ]
        return None

    def _headers(self, sent: Sent, parameters: list[dict[str, Any]]) -> Iterator[str]:
        for each in parameters:
            if each.get("in") == "header" and each.get("required") and each["name"].lower() not in sent.headers:
                yield f"the header {each['name']} is missing"

    def _body(self, sent: Sent, operation: dict[str, Any]) -> Iterator[str]:
        declared = self._at(operation.get("requestBody", {}))
        if not declared:
            if sent.body:
                yield "the operation takes no body"
            return
        kind = sent.headers.get("content-type", "").partition(";")[0]
        content = declared["content"].get(kind)
        if content is None:
            yield f"the content type is {kind}, not one of {sorted(declared['content'])}"
            return
        schema = content.get("schema", {})
        for error in self._validator(schema).iter_errors(sent.document):
            yield f"/{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        yield from self._undeclared(schema, sent.document, "")

    def _validator(self, schema: Any) -> Any:
        wrapped = {"$ref": "urn:described" + schema["$ref"]} if "$ref" in schema else schema
        kind = OAS30Validator if self.document["openapi"].startswith("3.0") else Draft202012Validator
        if wrapped is schema:
            wrapped = _absolute(schema)
        return kind(wrapped, registry=self._registry)

    @cached_property
    def _registry(self) -> Any:
        resource = Resource.from_contents(_absolute(self.document), default_specification=DRAFT202012)
        registry: Any = Registry
        return registry(retrieve=_anything).with_resource("urn:described", resource)

    def _undeclared(self, schema: Any, value: Any, pointer: str) -> Iterator[str]:
        schema = self._at(schema)
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._undeclared(schema.get("items", {}), item, f"{pointer}/{index}")
        if not isinstance(value, dict) or "additionalProperties" in schema or pointer in self.open_at:
            return
        properties = self._properties(schema)
        for key, item in value.items():
            if key in properties:
                yield from self._undeclared(properties[key], item, f"{pointer}/{key}")
            elif properties:
                yield f"{pointer}/{key} is declared nowhere"

    def _properties(self, schema: Any) -> dict[str, Any]:
        found = dict(schema.get("properties", {}))
        for each in (part for word in ("allOf", "oneOf", "anyOf") for part in schema.get(word, ())):
            found |= self._properties(self._at(each))
        return found

    def _at(self, schema: Any) -> Any:
        while "$ref" in schema:
            if not schema["$ref"].startswith("#/"):
                return {}
            found = self.document
            for part in schema["$ref"][2:].split("/"):
                found = found[unquote(part).replace("~1", "/").replace("~0", "~")]
            schema = found
        return schema


def _absolute(value: Any) -> Any:
    """The document with its own references under a name, so that a part of it can be validated alone."""
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "urn:described" + item
        if key == "$ref" and isinstance(item, str) and item.startswith("#")
        else _absolute(item)
        for key, item in value.items()
    }


def _anything(uri: str) -> Resource[Any]:
    """Another file of the description, of which nothing is sent: it takes all."""
    return Resource.from_contents(
        {"components": {"schemas": {}}} if "#" in uri else {}, default_specification=DRAFT202012
    )


def json_schema(path: Path, part: Callable[[Sent], Any], optional: str = "") -> Judge:
    """The document, or the part of it, must fit a published JSON Schema.

    `optional` is a pattern of pointers below which nothing is required, although the schema says so.
    """
    validator = Draft7Validator(json.loads(path.read_text(encoding="utf-8-sig")))

    def judge(sent: Sent) -> list[str]:
        errors = [("/" + "/".join(map(str, each.absolute_path)), each) for each in validator.iter_errors(part(sent))]
        return [
            f"{pointer}: {each.message[:200]}"
            for pointer, each in errors
            if each.validator != "required" or not re.fullmatch(optional, pointer)
        ]

    return judge


_MEMBER = re.compile(r"^\s*'(\w+)'\??: ([^;]+);", re.MULTILINE)


class Interfaces:
    """The TypeScript interfaces of an SDK's models, each in its own file: which members a body has, and their types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def problems(self, name: str, value: Any, pointer: str = "") -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{pointer} is {json.dumps(value)[:80]}, not {name}"
            return
        members = self._members(name)
        for key, item in value.items():
            if key not in members:
                yield f"{pointer}/{key} is declared nowhere"
            else:
                yield from self._typed(members[key], item, f"{pointer}/{key}")

    def _members(self, name: str) -> dict[str, str]:
        file = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
        return dict(_MEMBER.findall((self.folder / f"{file}.ts").read_text()))

    def _typed(self, kind: str, value: Any, pointer: str) -> Iterator[str]:
        plain = {"string": str, "number": int | float, "boolean": bool}
        if inner := re.fullmatch(r"Array<(\w+)>", kind):
            if not isinstance(value, list):
                yield f"{pointer} is no array"
            else:
                for index, item in enumerate(value):
                    yield from self._typed(inner[1], item, f"{pointer}/{index}")
        elif kind in plain:
            if not isinstance(value, plain[kind]) or (kind == "number" and isinstance(value, bool)):
                yield f"{pointer} is {json.dumps(value)[:80]}, not a {kind}"
        elif not kind.startswith("{") and not kind.endswith("Const"):
            yield from self.problems(kind, value, pointer)
