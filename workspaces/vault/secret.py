"""A string that does not show itself."""

import hmac
from typing import NoReturn

MASK = "••••"
HINT_MIN_LENGTH = 12
"""Below this length the last four characters would be too large a part of the secret to show."""


class Secret:
    """A credential in memory. Every way of printing it gives `••••`; only `reveal()` gives the text.

    Equality takes constant time and holds between secrets only. A secret is not hashable, and it refuses to be
    pickled, so it cannot travel in a task's arguments or rest in a cache. `json.dumps` refuses it too.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        """Raises TypeError, without naming the value, when it is not a string."""
        if not isinstance(value, str):
            raise TypeError("a Secret holds a str")
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def masked_hint(self) -> str:
        """`••••1234` when the secret is long enough to show its last four characters, else `••••`."""
        return MASK + self.__value[-4:] if len(self.__value) >= HINT_MIN_LENGTH else MASK

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_encode(self.reveal()), _encode(other.reveal()))

    __hash__ = None  # type: ignore[assignment]  # the protocol's own way to say unhashable

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "Secret":
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled")


def _encode(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")
