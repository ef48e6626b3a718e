"""The default mapping of an action, a rule's own over it, and what is refused when a rule is saved."""

import pytest

from connections import providers
from connections.providers.base import Action, MappingField
from delivery.rules import mapping, shaping

SEND = Action("send", "Send the event", True)
UPSERT = Action(
    "upsert",
    "Upsert",
    True,
    fields=(
        MappingField("email", "Email", required=True, source="payload.email"),
        MappingField("first", "First name", source="payload.first_name"),
        MappingField("owner", "Owner", required=True),
        MappingField("score", "Score", type="number"),
        MappingField("tags", "Tags", type="array"),
        MappingField("extra", "Extra", type="object", source="payload"),
    ),
)
OPEN = Action("open", "Open", True, fields=UPSERT.fields[:2], is_open=True)
OWNER = {"to": "owner", "value": "x"}


def complete_keys(action, own):
    return [(entry["to"], entry.get("from", entry.get("value"))) for entry in shaping.complete(action, own) or ()]


def found(action, own):
    return [(each.pointer, each.rule) for each in shaping.mistakes(action, own)]


def test_an_action_without_fields_takes_the_payload_or_what_the_mapping_makes():
    assert shaping.complete(SEND, None) is None
    assert shaping.complete(SEND, [OWNER]) == [OWNER]
    assert found(SEND, [{"to": "anything", "value": 1}]) == []


def test_the_default_mapping_fails_for_what_is_required_and_skips_the_rest():
    assert UPSERT.default_mapping == [
        {"to": "email", "from": "payload.email", "skip_blanks": True},
        {"to": "first", "from": "payload.first_name", "skip_blanks": True, "on_error": "skip"},
        {"to": "extra", "from": "payload", "skip_blanks": True, "on_error": "skip"},
    ]


HTML = Action("mail", "Mail", True, fields=(MappingField("html", "HTML", markup="html"), MappingField("text", "Text")))


@pytest.mark.parametrize(
    ("entry", "made"),
    [
        ({"to": "html", "from": "join('', ['<p>', payload.name, '</p>'])"}, "<p>&lt;b&gt;&amp;&#x27;x&#x27;</p>"),
        ({"to": "html", "from": "payload.name"}, "<b>&'x'"),
        ({"to": "html", "from": "payload.names[0]"}, "<i>"),
        ({"to": "html", "from": "payload.name", "escape": "html"}, "&lt;b&gt;&amp;&#x27;x&#x27;"),
        ({"to": "html", "from": "join('', [payload.name])", "escape": "none"}, "<b>&'x'"),
        ({"to": "html", "value": "<hr>"}, "<hr>"),
        ({"to": "text", "from": "join('', [payload.name])"}, "<b>&'x'"),
        ({"to": "html.a", "from": "payload.name"}, {"a": "&lt;b&gt;&amp;&#x27;x&#x27;"}),
    ],
)
def test_what_an_expression_takes_into_markup_is_escaped(entry, made):
    payload = {"name": "<b>&'x'", "names": ["<i>"]}
    shaped = mapping.compile_mapping(shaping.complete(HTML, [entry])).apply({"payload": payload})
    assert next(iter(shaped.values())) == made


def test_a_blank_is_skipped_by_a_default_and_kept_by_a_rule_s_own_entry():
    payload = {"email": "a@b.co", "first_name": "  ", "company": "", "n": {"x": "", "y": 0}}
    context = {"payload": payload, "event": {}, "workspace": {}}
    shaped = mapping.compile_mapping(shaping.complete(UPSERT, [OWNER])).apply(context)
    assert shaped == {"owner": "x", "email": "a@b.co", "extra": {"email": "a@b.co", "n": {"y": 0}}}
    own = [OWNER, {"to": "first", "from": "payload.company"}]
    assert mapping.compile_mapping(shaping.complete(UPSERT, own)).apply(context)["first"] == ""


def test_a_rule_overrides_field_by_field_and_comes_first():
    own = [{"to": "first", "from": "payload.given"}, OWNER]
    assert complete_keys(UPSERT, own) == [
        ("first", "payload.given"), ("owner", "x"), ("email", "payload.email"), ("extra", "payload"),
    ]  # fmt: skip


@pytest.mark.parametrize("to", ["extra", "extra.source"])
def test_a_default_gives_way_to_an_entry_for_its_field_or_a_part_of_it(to):
    assert "payload" not in dict(complete_keys(UPSERT, [{"to": to, "value": {}}])).values()


def test_a_default_inside_an_object_gives_way_to_the_object():
    action = Action("a", "A", True, fields=(MappingField("person.email", "Email", source="payload.email"),))
    assert complete_keys(action, [{"to": "person", "from": "payload.person"}]) == [("person", "payload.person")]


def test_what_is_made_compiles():
    mapping.compile_mapping(shaping.complete(UPSERT, [OWNER]))


def test_a_required_field_without_a_default_must_be_mapped():
    (mistake,) = shaping.mistakes(UPSERT, None)
    assert (mistake.pointer, mistake.rule) == ("", "required")
    assert "owner (Owner)" in mistake.message
    assert found(UPSERT, [OWNER]) == []


def test_a_field_that_the_action_has_not_is_refused_unless_it_is_open():
    stray = {"to": "nickname", "value": "x"}
    (mistake,) = shaping.mistakes(UPSERT, [OWNER, stray])
    assert (mistake.pointer, mistake.rule) == ("/1/to", "unknown")
    assert "nickname" in mistake.message
    assert found(OPEN, [stray]) == []
    assert found(UPSERT, [OWNER, {"to": "extra.anything", "value": "x"}]) == []


@pytest.mark.parametrize(
    ("entry", "pointer"),
    [
        ({"to": "score", "value": "high"}, "/1/value"),
        ({"to": "score", "value": True}, "/1/value"),
        ({"to": "tags", "value": "a"}, "/1/value"),
        ({"to": "score", "from": "payload.score", "transforms": ["trim"]}, "/1/transforms/0"),
        ({"to": "first", "from": "payload.a", "transforms": ["trim", {"split": ","}]}, "/1/transforms/1"),
        ({"to": "first.name", "from": "payload.a"}, "/1/to"),
    ],
)
def test_a_wrong_type_is_refused_where_the_mapping_shows_it(entry, pointer):
    (mistake,) = shaping.mistakes(UPSERT, [OWNER, entry])
    assert (mistake.pointer, mistake.rule) == (pointer, "type")
    assert entry["to"].split(".")[0] in mistake.message


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_not_enough_for_a_required_field(value):
    (mistake,) = shaping.mistakes(UPSERT, [{"to": "owner", "value": value}])
    assert (mistake.pointer, mistake.rule) == ("/0/value", "required")
    assert "owner" in mistake.message
    assert found(UPSERT, [{"to": "owner", "value": value, "transforms": [{"default": "x"}]}]) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"to": "score", "value": 1.5},
        {"to": "score", "value": None},
        {"to": "tags", "from": "payload.tags", "transforms": [{"split": ","}]},
        {"to": "tags", "from": "payload.tags", "transforms": [{"default": []}]},
        {"to": "first", "from": "payload.a"},
    ],
)
def test_what_may_be_right_is_taken(entry):
    assert found(UPSERT, [OWNER, entry]) == []


@pytest.mark.parametrize("provider", providers.all(), ids=lambda provider: provider.slug)
def test_every_declared_default_compiles(provider):
    for action in provider.actions:
        entries = action.default_mapping
        if entries:
            mapping.compile_mapping(entries)
