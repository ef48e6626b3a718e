import time

import pytest

from connections.providers.base import Unsendable
from connections.providers.discord import PROVIDER as DISCORD
from connections.providers.markup import ESCAPES, escape_markdown, escape_values
from connections.providers.slack import PROVIDER as SLACK
from connections.providers.teams import PROVIDER as TEAMS
from meshes.kit.metering import Meter
from tests.connections.providers.exchanges import order

WEBHOOKS = {
    "discord": "https://discord.com/api/webhooks/1/abc",
    "teams": "https://default1.2.environment.api.powerplatform.com/powerautomate/x?sig=y",
    "slack": "https://hooks.slack.com/services/T0/B0/x",
}
BLANKS = ("\n", " ", "\t", " \n", "\n ", "")
PIECES = (*BLANKS, "*", "#\n", "1.\n", "1", "-\r", "http://a ", "https://", "\\", "[", "é*", "&")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("# a\n  # b\r- c\r\n12. d", "\\# a\n  \\# b\r\\- c\r\n12\\. d"),
        ("\n\n \t+ a", "\n\n \t\\+ a"),
        ("a # b - c 1. d", "a # b - c 1. d"),
        ("1234 5)", "1234 5)"),
        ("*a* \\_ ~|`", "\\*a\\* \\\\\\_ \\~\\|\\`"),
        ("see https://x.example/a_b*c_", "see https://x.example/a_b\\*c\\_"),
    ],
)
def test_marks_are_escaped_where_they_mean_something(text, escaped):
    assert escape_markdown(text) == escaped


def seconds(markup: str, text: str) -> float:
    def once() -> float:
        started = time.thread_time()
        ESCAPES[markup](text)
        return time.thread_time() - started

    return min(once(), once(), once())


@pytest.mark.parametrize("markup", ESCAPES)
@pytest.mark.parametrize("piece", [piece for piece in PIECES if piece])
def test_the_time_is_linear_in_the_text(markup, piece):
    short, long = (seconds(markup, piece * (size // len(piece))) for size in (6_000, 24_000))
    assert long < 0.01 or long < 8 * short


@pytest.mark.parametrize("markup", ESCAPES)
@pytest.mark.parametrize("piece", PIECES)
def test_what_is_escaped_is_paid_for(markup, piece):
    meter = Meter(600_000)
    escape_values([piece] * 100 + [piece * 10_000], markup, meter)
    assert meter.spent > 100 * 20 + 10_000 * len(piece) // 40


@pytest.mark.parametrize(
    ("provider", "action", "key", "most"),
    [
        (DISCORD, "send_message", "content", "2,000"),
        (SLACK, "send_webhook", "text", "40,000"),
        (TEAMS, "send_message", "text", "28,000"),
        (TEAMS, "send_message", "title", "28,000"),
    ],
)
def test_a_text_that_is_too_long_is_refused_before_it_is_escaped(monkeypatch, provider, action, key, most):
    module = f"connections.providers.{provider.slug}"
    for name in ("escape_markdown", "escape_slack"):
        monkeypatch.setattr(f"{module}.{name}", lambda text: pytest.fail("escaped"), raising=False)
    fields = {"text": "x", "content": "x"} | {key: "x" + "\n" * 250_000 + "x"}
    with pytest.raises(Unsendable, match=f"250,002 characters; .* at most {most}"):
        provider.prepare(order(provider, action, fields, {"webhook_url": WEBHOOKS[provider.slug]}))


def test_teams_joins_lines_in_linear_time():
    text = "x" + " " * 27_000 + "x"
    started = time.thread_time()
    TEAMS.prepare(order(TEAMS, "send_message", {"text": text}, {"webhook_url": WEBHOOKS["teams"]}))
    assert time.thread_time() - started < 1.5  # some 2 ms; it was 3 s and more
