"""What is a lane, what is a ring, and where a ring's keys live.

A lane is the queue of one connection (``conn.<id>``) or of one workspace (``fanout.<id>``). A ring holds the lanes of
one kind that have work and may run; a worker consumes the ring as if it were a queue (``-Q deliver``).
"""

import re

RING_OF_KIND = {"conn": "deliver", "fanout": "fanout"}
RINGS = frozenset(RING_OF_KIND.values())

_BUCKET = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LANE = re.compile(r"(conn|fanout)\.[A-Za-z0-9_-]{1,128}")


def ring_of(queue: str) -> str | None:
    """The ring of a lane; None for a queue that is no lane."""
    match = _LANE.fullmatch(queue)
    return RING_OF_KIND[match[1]] if match else None


def ring_of_lane(lane: str) -> str:
    """The ring of a lane. Raises ValueError for a name that no lane can have."""
    ring = ring_of(lane)
    if ring is None:
        raise ValueError(f"{lane!r} is not the name of a lane.")
    return ring


def ring_named(name: str) -> str:
    """The name, if it is a ring's. Raises ValueError."""
    if name not in RINGS:
        raise ValueError(f"{name!r} is not a ring.")
    return name


def bucket_name(name: str) -> str:
    """The name, if a bucket can have it. Raises ValueError."""
    if not _BUCKET.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a bucket.")
    return name


def key_prefix(ring: str) -> str:
    """The prefix of all keys of a ring. The braces keep them in one slot, so that scripts also run in cluster mode."""
    return f"meshes:lanes:{{{ring}}}:"


def wake_key(ring: str) -> str:
    """The list that idle workers block on."""
    return key_prefix(ring) + "wake"


def slow_wake_key(ring: str) -> str:
    """The list that idle workers block on which may run more lanes in trouble."""
    return key_prefix(ring) + "wake:slow"
