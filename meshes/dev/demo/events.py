"""Realistic SaaS events: six types, payloads from 0.2 to 30 KB, the same ones in every run."""

import random
from collections.abc import Iterator
from typing import Any

TYPES = ("lead.created", "contact.updated", "deal.won", "invoice.paid", "ticket.opened", "user.signed_up")
_FIRST = ("Ada", "Grace", "Linus", "Zoë", "Jürgen", "Chidi", "Mei", "Søren", "Noor", "Lucía")
_LAST = ("Lovelace", "Hopper", "Okafor", "Müller", "García", "Lindqvist", "Tanaka", "Haddad", "Novák", "O'Neill")
_COMPANIES = ("Initech", "Globex", "Hooli", "Umbrella", "Stark Industries", "Wayne Enterprises", "Acme", "Soylent")
_TEXT = (
    "the export stops after a few rows and the browser shows a blank page although the status says finished so we "
    "tried again with fewer columns and now it works but the totals differ from last month can you look into it"
)
_WORDS = _TEXT.split(" ")


def events(number: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """`number` events as (type, payload), the types in turn."""
    chance = random.Random(seed)  # noqa: S311  (sample data)
    for index in range(number):
        kind = TYPES[index % len(TYPES)]
        yield kind, _PAYLOADS[kind](chance)


def _person(chance: random.Random) -> dict[str, Any]:
    first, last, company = chance.choice(_FIRST), chance.choice(_LAST), chance.choice(_COMPANIES)
    number = chance.randrange(10_000)
    return {
        "email": f"person{number}@{company.lower().replace(' ', '-')}.example",
        "first_name": first,
        "last_name": last,
        "company": company,
        "phone": f"+1-555-{number:04}",
    }


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(words))


def _lead(chance: random.Random) -> dict[str, Any]:
    plan = chance.choice(("free", "team", "business"))
    return _person(chance) | {
        "plan": plan,
        "score": chance.randint(1, 100),
        "source": "website",
        "landing_page": "/pricing",
    }


def _contact(chance: random.Random) -> dict[str, Any]:
    changed = {f"custom_field_{index}": _text(chance, 12) for index in range(chance.randint(5, 40))}
    return {"contact": _person(chance), "changes": changed}


def _deal(chance: random.Random) -> dict[str, Any]:
    return {"deal": f"Renewal {chance.randrange(9999)}", "amount": chance.randint(1, 500) * 100, "currency": "EUR",
            "owner": _person(chance), "notes": _text(chance, chance.randint(20, 300))}  # fmt: skip


def _invoice(chance: random.Random) -> dict[str, Any]:
    lines = [
        {"sku": f"SKU-{chance.randrange(1000):03}", "quantity": 2, "price": 19.90, "text": _text(chance, 22)}
        for _ in range(chance.randint(1, 180))
    ]
    return {"invoice": f"INV-{chance.randrange(100_000):05}", "customer": _person(chance), "lines": lines}


def _ticket(chance: random.Random) -> dict[str, Any]:
    priority = chance.choice(("low", "normal", "urgent"))
    return {"requester": _person(chance), "priority": priority, "body": _text(chance, chance.randint(50, 3000))}


def _sign_up(chance: random.Random) -> dict[str, Any]:
    return _person(chance) | {
        "user_id": f"u_{chance.randrange(10**6):06}",
        "utm": {"source": "newsletter", "campaign": "spring"},
    }


_PAYLOADS = {
    "lead.created": _lead,
    "contact.updated": _contact,
    "deal.won": _deal,
    "invoice.paid": _invoice,
    "ticket.opened": _ticket,
    "user.signed_up": _sign_up,
}
