"""The Lua scripts that move messages, each atomic and each O(1) or O(log n) in the number of lanes.

Every script is the text of the shared parts (key names, limits, the order of the ring, who may run) followed by its own
file. They are called through redis-py's ``Script`` objects, which load a script again when the server has forgotten it.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path

from redis import Redis
from redis.commands.core import Script

from delivery.lanes.health import lua_numbers

_FOLDER = Path(__file__).with_name("lua")
_PARTS = ("keys", "limits", "ring", "offer", "health")


@cache
def source(name: str) -> str:
    """The whole text of a script."""
    return lua_numbers() + "".join(_FOLDER.joinpath(f"{part}.lua").read_text() for part in (*_PARTS, name))


@cache
def digest(name: str) -> str:
    """What EVALSHA calls the script by."""
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Scripts:
    """The scripts bound to a client; call them with ``keys=[key_prefix(ring)]`` and ``args`` as their files say."""

    put: Script
    take: Script
    settle: Script
    hand_back: Script
    repair: Script
    release: Script
    pause: Script
    limit: Script
    bucket: Script
    share: Script
    purge: Script
    wake: Script
    stats: Script

    @classmethod
    def of(cls, client: Redis) -> "Scripts":
        return cls(**{name: client.register_script(source(name)) for name in cls.__slots__})
