"""Takes an answer in as libcurl hands it over: header lines, then pieces of the body."""

import re
from enum import Enum, auto

from connections.outbound.room import DELIVERY_BODY_LIMIT, Room

MAX_ANSWER_HEADER_BYTES = 64 * 1024
"""Over all header lines of an answer, with those of 1xx answers before it and trailers after it."""

_TIMEOUT = re.compile(rb"\btimeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)

CONTINUE = None
ABORT = 0  # for libcurl, a callback that took fewer bytes than it was given ends the transfer


class Stop(Enum):
    """Why we, not the receiver, ended a transfer."""

    BODY_FULL = auto()
    HEADERS_TOO_LARGE = auto()


class Reading:
    """The answer so far. `stopped` says whether we ended the transfer, and why."""

    def __init__(self, body_limit: int, room: Room | None = None) -> None:
        self.stopped: Stop | None = None
        self._lines: list[bytes] = []
        self._header_bytes = 0
        self._complete = False
        self._body = bytearray()
        self._body_limit = body_limit
        self._room = room

    def take_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > MAX_ANSWER_HEADER_BYTES:
            self.stopped = Stop.HEADERS_TOO_LARGE
            return ABORT
        if self._complete:
            return CONTINUE  # a trailer
        if line.startswith(b"HTTP/"):
            self._lines = [line]
        elif line.strip(b"\r\n"):
            self._lines.append(line)
        else:
            self._complete = not self._is_interim()
        return CONTINUE

    def take_body(self, piece: bytes) -> int | None:
        if self._room is not None and len(self._body) + len(piece) > DELIVERY_BODY_LIMIT and not self._room.take():
            self._body_limit = min(self._body_limit, DELIVERY_BODY_LIMIT)
        left = self._body_limit - len(self._body)
        self._body += piece[:left]
        if len(piece) > left:
            self.stopped = Stop.BODY_FULL
            return ABORT
        return CONTINUE

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Names and values in order. A line that continues the one before (RFC 9112, section 5.2) is joined to it."""
        pairs: list[tuple[str, list[str]]] = []
        for line in self._lines[1:]:
            text = line.decode("latin-1").rstrip("\r\n")
            if text[:1] in {" ", "\t"} and pairs:
                pairs[-1][1].append(text.strip())
            elif ":" in text:
                name, _, value = text.partition(":")
                pairs.append((name.strip(), [value.strip()]))
        return tuple((name, " ".join(lines)) for name, lines in pairs)

    @property
    def keep_alive_seconds(self) -> int | None:
        """How long the receiver says that it keeps an idle connection (`Keep-Alive: timeout=5`), if it does."""
        for line in self._lines:
            if line[:11].lower() == b"keep-alive:" and (found := _TIMEOUT.search(line)):
                return int(found[1])
        return None

    def _is_interim(self) -> bool:
        status_line = self._lines[0].split(maxsplit=2) if self._lines else []
        return len(status_line) > 1 and len(status_line[1]) == 3 and status_line[1].startswith(b"1")
