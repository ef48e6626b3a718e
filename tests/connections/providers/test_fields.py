import pytest

from connections.providers.fields import Field, InvalidFields, clean

FIELDS = (
    Field("text", "Text", max_length=5, pattern="[a-z]+"),
    Field("count", "Count", type="integer", minimum=1, maximum=10),
    Field("share", "Share", type="number", minimum=0, maximum=1),
    Field("on", "On", type="boolean", default=False),
    Field("needed", "Needed", required=True),
)


def problems(**values) -> list[tuple[str, str]]:
    with pytest.raises(InvalidFields) as caught:
        clean(FIELDS, {"needed": "x", **values}, "/config")
    return [(problem.pointer, problem.rule) for problem in caught.value.problems]


def test_good_values_pass_and_defaults_are_filled_in():
    values = {"text": "abc", "count": 10, "share": 0.5, "needed": "x"}
    assert clean(FIELDS, values, "/config") == {**values, "on": False}


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"text": "abcdef"}, "max_length"),
        ({"text": "ABC"}, "pattern"),
        ({"text": "a\x00"}, "characters"),
        ({"text": "a\nb"}, "characters"),
        ({"text": ["a"]}, "type"),
        ({"count": 0}, "minimum"),
        ({"count": 11}, "maximum"),
        ({"count": 1.0}, "type"),
        ({"count": True}, "type"),
        ({"count": "1"}, "type"),
        ({"count": 10**400}, "maximum"),
        ({"share": 2}, "maximum"),
        ({"share": None, "on": "yes"}, "type"),
        ({"needed": None}, "required"),
    ],
)
def test_bad_values_are_refused_by_name(values, rule):
    (problem,) = problems(**values)
    assert problem == (f"/config/{list(values)[-1]}", rule)


def test_all_problems_are_named_at_once():
    assert set(problems(text="ABC", count=0, extra=1)) == {
        ("/config/text", "pattern"),
        ("/config/count", "minimum"),
        ("/config/extra", "unknown_field"),
    }


def test_a_stored_value_need_not_be_given_again():
    assert clean(FIELDS, {}, "/credentials", kept={"needed"}) == {"on": False}


def test_an_error_does_not_repeat_the_value():
    with pytest.raises(InvalidFields) as caught:
        clean(FIELDS, {"needed": "s3cret\n"}, "/credentials")
    assert "s3cret" not in f"{caught.value} {caught.value!r}"
