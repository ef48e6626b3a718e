"""How the demo looks: progress while it runs, then a table, a timeline, and the claims."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from meshes.dev.demo.proof import Claim, Row
from meshes.dev.demo.second_proof import OutletRow

STYLES = {"delivered": "green", "succeeded": "green", "matched": "green", "dead": "red", "rejected": "red",
          "held": "yellow", "retry": "yellow", "uncertain": "yellow", "broken": "red"}  # fmt: skip


def milliseconds(seconds: float | None) -> str:
    """`12 ms`, or a dash."""
    return "–" if seconds is None else f"{seconds * 1000:,.0f} ms"


def show_table(console: Console, rows: list[Row]) -> None:
    """Event type × destination."""
    made = Table(title="Deliveries by event type and destination", title_justify="left", title_style="bold")
    made.add_column("event type")
    made.add_column("tenant → endpoint")
    for name in ("events", "delivered", "retried", "held", "dead", "waiting", "p50", "p99"):
        made.add_column(name, justify="right")
    previous = ""
    for row in rows:
        if previous and row.destination != previous:
            made.add_section()
        previous = row.destination
        numbers = (row.expected, row.delivered, row.retried, row.held, row.dead, row.waiting)
        made.add_row(
            row.event_type,
            row.destination,
            *(str(number) if number else "·" for number in numbers),
            milliseconds(row.p50),
            milliseconds(row.p99),
        )
    console.print(made)


WORDS = (
    ("delivered", "the endpoint answered 2xx"),
    ("retried", "tried more than once"),
    ("held", "kept until its connection is mended, and then sent"),
    ("dead", "will not be tried again by itself: a dead letter, which a person or a program replays"),
    ("waiting", "will be tried again at its time"),
    ("p50, p99", "from the POST of the event until its request came: for half, and for 99 of 100, of the deliveries"),
)


def show_words(console: Console) -> None:
    """What the table's words mean, and those of what follows."""
    for word, meaning in WORDS:
        console.print(f"  [bold]{word}[/bold]: {meaning}", highlight=False)
    console.print(
        "  A [bold]connection[/bold] is one customer's account at a destination, a [bold]rule[/bold] says which events "
        "go there;\n  a [bold]circuit breaker[/bold] keeps deliveries back from an endpoint that only fails.",
        highlight=False,
    )


def show_isolation(console: Console, calm: list[float], troubled: list[float]) -> None:
    """The healthy endpoints' p95, part by part."""
    parts = [f"{name} {', '.join(map(milliseconds, took))}" for name, took in (("calm", calm), ("troubled", troubled))]
    console.print(
        "\n[bold]Isolation[/bold]: the time within which 95 of 100 events reached the healthy endpoints, in parts "
        f"that took turns: {'; '.join(parts)}\n",
        highlight=False,
    )


def show_next(console: Console) -> None:
    """Where to look next."""
    console.print(
        "\nNext: [bold]make up[/bold] runs the same stack until Ctrl-C, at http://127.0.0.1:8000. That page says what\n"
        "is where: the API at /api/v1, described at /api/docs, and the operators' pages at /admin/.\n"
        "[bold]make up LOOPBACK=1[/bold] lets it deliver to this machine, as the tour in README.md does.",
        highlight=False,
    )


def show_timeline(console: Console, event: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """One event: the rules considered, its deliveries, their attempts. `names` gives endpoints to connection ids."""
    tree = Tree(Text.assemble(("Timeline of ", "bold"), (event["event"], "bold cyan"), f" {event['id']}"))
    received = tree.add(f"{_clock(event['created_at'])}  received and committed, answered 202")
    for entry in event["routing"]:
        name = names.get(entry["connection"], entry["connection"])
        result = entry["result"]
        rule = received.add(Text.assemble(f"rule for {name}: ", (result, STYLES.get(result, ""))))
        if "clause" in entry:
            clause = entry["clause"]
            rule.add(f"{clause['path']} {clause['operator']} {clause['expected']!r}, but it is {clause['actual']!r}")
    for delivery in event["deliveries"]:
        name = names.get(delivery["connection"], delivery["connection"])
        status = delivery["status"]
        branch = tree.add(Text.assemble(f"delivery to {name}: ", (status, STYLES.get(status, ""))))
        for attempt in delivery["attempts"]:
            branch.add(_attempt(attempt))
    console.print(tree)


def _attempt(attempt: Mapping[str, Any]) -> Text:
    code = attempt["status_code"] or "no answer"
    words = f"  {attempt['error']}" if attempt["error"] else ""
    return Text.assemble(
        f"{_clock(attempt['started_at'])}  attempt {attempt['number']}: ",
        (attempt["outcome"], STYLES.get(attempt["outcome"], "")),
        f" ({code}, {attempt['duration_ms']} ms){words}",
    )


def show_outlets(console: Console, rows: list[OutletRow]) -> None:
    """Tenant × vendor."""
    made = Table(title="Act two: one lead.created, seven destinations", title_justify="left", title_style="bold")
    for name in ("tenant", "destination"):
        made.add_column(name)
    for name in ("leads wanted", "delivered", "waited", "tried again after", "in the tenant's account"):
        made.add_column(name, justify="right")
    previous = ""
    for row in rows:
        if previous and row.tenant != previous:
            made.add_section()
        previous = row.tenant
        refusals = ", ".join(f"{status} × {times}" for status, times in sorted(row.refusals.items()))
        cells = (row.wanted, row.delivered, row.waited, refusals, row.at_vendor)
        made.add_row(row.tenant, row.vendor, *(str(cell) if cell else "·" for cell in cells))
    console.print(made)


def show_claims(console: Console, claims: list[Claim]) -> bool:
    """Each claim with whether it held; True if all did."""
    for claim in claims:
        mark = Text(" ✓ ", "bold green") if claim.held else Text(" ✗ ", "bold red")
        console.print(Text.assemble(mark, claim.words))
    return all(claim.held for claim in claims)


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).strftime("%H:%M:%S.%f")[:-3]
