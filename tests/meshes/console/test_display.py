"""How values look: pure."""

from datetime import UTC, datetime, timedelta

import pytest

from meshes.console import display

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_indentation_leaves_every_token_as_it_was():
    text = '{"a":1.0,"b":[1e2,{"c":"x,{}:\\" y"}],"d":{},"e":[],"f":12345678901234567890.10}'
    assert display.indented(text) == (
        '{\n  "a": 1.0,\n  "b": [\n    1e2,\n    {\n      "c": "x,{}:\\" y"\n    }\n  ],\n'
        '  "d": {},\n  "e": [],\n  "f": 12345678901234567890.10\n}'
    )


def test_text_that_is_no_json_stays_as_it_is():
    assert display.indented('plain words } ] "') == 'plain words } ] "'


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("a\x00b", "a␀b"),
        ("\x1b[31mred", "␛[31mred"),
        ("line\r\nline", "line\nline"),
        ("abc\u202edef", "abc\\u202edef"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("tab\tstays", "tab\tstays"),
        ("Zoë 🎉", "Zoë 🎉"),
    ],
)
def test_what_would_not_show_is_written_out(hidden, shown):
    assert display.visible(hidden) == shown


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (NOW - timedelta(seconds=45), "45 s ago"),
        (NOW - timedelta(minutes=12), "12 min ago"),
        (NOW + timedelta(hours=5), "in 5 h"),
        (NOW + timedelta(days=9), "in 9 days"),
        (NOW, "0 s ago"),
    ],
)
def test_distances_read_in_their_largest_unit(moment, words):
    assert display.away(moment, NOW) == words


def test_a_badge_escapes_its_state():
    assert display.badge("<b>") == '<span class="badge badge-quiet">&lt;b&gt;</span>'


def test_a_badge_has_the_tone_of_its_state():
    assert display.badge("needs_reauth") == '<span class="badge badge-bad">needs reauth</span>'


def test_a_document_is_escaped_and_indented():
    assert display.document({"a": "<script>"}) == (
        '<pre class="document">{\n  &quot;a&quot;: &quot;&lt;script&gt;&quot;\n}</pre>'
    )
