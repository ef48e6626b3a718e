"""Judging by the words of a vendor's documentation: each rule quotes them, says where they stand, and tells a request
that breaks them. Where the folder has the page, the quotation must be found in it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.judges.sending import Sent


@dataclass(frozen=True, slots=True)
class Rule:
    """`breaks` yields what is wrong with a request. `file` is the page in the folder of descriptions, if any."""

    quote: str
    address: str
    breaks: Callable[[Sent], Iterator[str]]
    file: str = ""

    def stands_in(self, folder: Path) -> bool:
        """Whether the quotation is in the page, whatever its line breaks and markup; True where no page is at hand."""
        return not self.file or _plain(self.quote) in _plain((folder / self.file).read_text())


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[*`]", "", text))


def judging(*rules: Rule) -> Callable[[Sent], list[str]]:
    return lambda sent: [f"{problem} ({rule.address})" for rule in rules for problem in rule.breaks(sent)]


def leaves(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document that is no object and no array, with its pointer."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{pointer}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{pointer}/{index}")
    else:
        yield pointer, value


def texts_at(pattern: str, check: Callable[[Any], bool], problem: str) -> Callable[[Sent], Iterator[str]]:
    """Wrong is every value at a pointer like this that does not pass."""

    def breaks(sent: Sent) -> Iterator[str]:
        for pointer, value in leaves(sent.document):
            if re.fullmatch(pattern, pointer) and not check(value):
                yield f"{pointer} is {json.dumps(value)[:60]}: {problem}"

    return breaks


def host_is(*hosts: str, region: str = "") -> Callable[[Sent], Iterator[str]]:
    """Wrong is another host, where the request is for this region."""

    def breaks(sent: Sent) -> Iterator[str]:
        if (not region or sent.wanted.get("region", region) == region) and not any(
            re.fullmatch(each, sent.host) for each in hosts
        ):
            yield f"the host is {sent.host}"

    return breaks
