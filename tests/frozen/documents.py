"""JSON documents as the golden files hold them: what varies is replaced, what was renamed is led back, and differences
are told as JSON paths."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REWRITE = "MESHES_FROZEN_REWRITE"
RENAMES: dict[str, dict[str, str]] = json.loads((HERE / "renames.json").read_text())
"""Old → new. `fields` of bodies and answers, `schemas` of the OpenAPI document, `texts` that stand in answers,
`settings` that the stack is started with, `modules` that are run by `python -m`."""
FORMER = {table: {new: old for old, new in names.items()} for table, names in RENAMES.items()}

IDS = re.compile(r"\b(evt|ws|conn|rule|dlv|att|key|rpl|acc|app)_[0-7][0-9a-hjkmnp-tv-z]{25}\b")
VARYING = (
    (re.compile(r"mesh_live_\w+"), "mesh_live_*"),
    (re.compile(r"mesh_sign_\w+"), "mesh_sign_*"),
    (re.compile(r"\btenant_\d+\b"), "tenant_*"),
    (re.compile(r"whsec_[A-Za-z0-9+/=]+"), "whsec_*"),
    (re.compile(r"v1,[A-Za-z0-9+/]{43}="), "v1,*"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"), "<time>"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "<date>"),
    (re.compile(r"(127\.0\.0\.1|localhost):\d+"), "<host>"),
    (re.compile(r"/(oauth/start|oauth/outcome|connect)/[\w:.-]+"), r"/\1/<token>"),
    (re.compile(r"\b1[789]\d{8}(\d{3})?\b"), "<epoch>"),
    (re.compile(r"\bcursor=[\w-]{44}"), "cursor=<cursor>"),
    (re.compile(r"••••[A-Za-z0-9+/]{3}="), "••••<secret>"),
    (re.compile(r'(?<="contact_id":")\w+'), "<id>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
)
MEASURED = {"duration_ms", "worker", "last_used_at", "next_attempt_at", "instance", "scanned"}
"""Names whose values depend on the moment; they are there, whatever they are."""
UNORDERED = {"deliveries", "routing", "samples"}
"""Lists whose order hangs on ids that are drawn."""


class Names:
    """Stands numbers for the ids that a story met, so that references between them are held too."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def learn(self, document: Any) -> None:
        """Number the id of what was made just now."""
        made = document.get("id") if isinstance(document, dict) else None
        if isinstance(made, str) and IDS.fullmatch(made) and made not in self._of:
            prefix = made.partition("_")[0]
            self._of[made] = f"{prefix}_#{1 + sum(each.startswith(prefix + '_') for each in self._of.values())}"

    def constant(self, document: Any, key: str = "") -> Any:
        """The document with a word for everything that differs from run to run."""
        if key in MEASURED and document not in (None, ""):
            return "*"
        if isinstance(document, dict):
            return {name: self.constant(value, name) for name, value in document.items()}
        if isinstance(document, list):
            items = [self.constant(value) for value in document]
            return sorted(items, key=lambda each: json.dumps(each, sort_keys=True)) if key in UNORDERED else items
        if key in ("next", "previous") and document is not None:
            return "<cursor>"
        if key == "actor" and ":" in document:
            return "<process>"
        return self.constant_text(document) if isinstance(document, str) else document

    def constant_text(self, text: str) -> str:
        text = IDS.sub(lambda found: self._of.get(found[0], f"{found[1]}_*"), text)
        for pattern, word in VARYING:
            text = pattern.sub(word, text)
        return text


def renamed(document: Any, names: dict[str, str]) -> Any:
    """The document with other names of members, also where a list says which there are."""
    if isinstance(document, dict):
        return {names.get(name, name): renamed(value, names) for name, value in document.items()}
    if isinstance(document, list):
        return [names.get(each, each) if isinstance(each, str) else renamed(each, names) for each in document]
    return document


def renamed_texts(document: Any, texts: dict[str, str]) -> Any:
    """The document with other texts, in names and values."""
    text = json.dumps(document, ensure_ascii=False)
    for old, new in texts.items():
        text = text.replace(_text(old)[1:-1], _text(new)[1:-1])
    return json.loads(text)


def differences(old: Any, new: Any, path: str = "$") -> Iterator[str]:
    """Each place in which two documents differ, as a line with its JSON path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            if name not in new:
                yield f"- {path}.{name}: {_short(old[name])}"
            elif name not in old:
                yield f"+ {path}.{name}: {_short(new[name])}"
            else:
                yield from differences(old[name], new[name], f"{path}.{name}")
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            if index >= len(new):
                yield f"- {path}[{index}]: {_short(old[index])}"
            elif index >= len(old):
                yield f"+ {path}[{index}]: {_short(new[index])}"
            else:
                yield from differences(old[index], new[index], f"{path}[{index}]")
    elif type(old) is not type(new) or old != new:
        yield f"~ {path}: {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def assert_golden(name: str, found: dict[str, Any]) -> None:
    """Compare with the golden file of this name, in which the texts of today are put; or write it anew."""
    path = HERE / name
    golden = json.loads(path.read_text()) if path.exists() else {}
    lines = list(differences(renamed_texts(golden, RENAMES["texts"]), found))
    if os.environ.get(REWRITE) == "1":
        print(f"{name} is written anew; it differs in {len(lines)} places:", *lines, sep="\n")
        path.write_text(_lines_of(renamed_texts(found, FORMER["texts"])))
        return
    assert not lines, f"{name} differs in {len(lines)} places:\n" + "\n".join(lines[:200])


def _lines_of(document: dict[str, Any]) -> str:
    """The document with a line for each member of its members, so that a difference is one of few lines."""
    parts = []
    for name, value in document.items():
        if isinstance(value, list):
            text = "[\n" + ",\n".join(map(_text, value)) + "\n]"
        else:
            text = "{\n" + ",\n".join(f"{_text(key)}: {_text(each)}" for key, each in value.items()) + "\n}"
        parts.append(f"{_text(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Description:
    """The OpenAPI document: which operation a call is, and what its answers may hold."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.schemas = document["components"]["schemas"]
        self.operations = {
            f"{method.upper()} {path}": operation
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        patterns = sorted(document["paths"], key=lambda path: (path.count("{"), path))
        self._paths = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in patterns]

    def operation_of(self, method: str, path: str) -> str:
        bare = path.partition("?")[0]
        for pattern, template in self._paths:
            if pattern.fullmatch(bare):
                return f"{method} {template}"
        return f"{method} {bare}"

    def schema_of(self, operation: str, status: int) -> Any:
        """The schema of such an answer; None where it has no body or is not documented."""
        response = self.operations.get(operation, {}).get("responses", {}).get(str(status), {})
        return next((each["schema"] for each in response.get("content", {}).values()), None)

    def fields_in(self, schema: Any, document: Any) -> Iterator[tuple[str, Any]]:
        """`Schema.field` of all that the document holds, and the value; `!Schema.name` where it is undocumented."""
        name = schema.get("$ref", "").rpartition("/")[2]
        schema = self.schemas[name] if name else schema
        for part in schema.get("allOf", ()):
            yield from self.fields_in(part, document)
        if isinstance(document, list):
            for item in document:
                yield from self.fields_in(schema.get("items", {}), item)
        known = schema.get("properties", {})
        if isinstance(document, dict) and known:
            for field, value in document.items():
                yield (f"{name}.{field}" if field in known else f"!{name}.{field}"), value
                yield from self.fields_in(known.get(field, {}), value)

    def documented_fields(self) -> set[str]:
        """`Schema.field` of every schema that an answer can hold."""
        found: set[str] = set()
        waiting = [
            content["schema"]
            for operation in self.operations.values()
            for response in operation["responses"].values()
            for content in response.get("content", {}).values()
        ]
        seen = set()
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += part
            elif isinstance(part, dict):
                name = str(part.get("$ref", "")).rpartition("/")[2]
                if name and name not in seen:
                    seen.add(name)
                    found |= {f"{name}.{field}" for field in self.schemas[name].get("properties", {})}
                    waiting.append(self.schemas[name])
                waiting += [value for value in part.values() if isinstance(value, (dict, list))]
        return found

    def normal(self) -> dict[str, Any]:
        """The document without what says nothing: the order of names, and drf-spectacular's own hashes."""
        plain = _sorted(self.document)
        groups = ("paths", "components")
        top = {name: value for name, value in plain.items() if name not in groups}
        return {
            "document": top,
            "paths": plain["paths"],
            "schemas": plain["components"].pop("schemas"),
            **plain["components"],
        }


def _sorted(document: Any, key: str = "") -> Any:
    if isinstance(document, dict):
        return {name: _sorted(document[name], name) for name in sorted(document) if name != "x-spec-enum-id"}
    if isinstance(document, list):
        items = [_sorted(item) for item in document]
        return sorted(items, key=_text) if key in ("required", "parameters", "enum", "tags") else items
    return document
