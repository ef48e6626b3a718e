"""What somebody may have meant: a refusal lists what is possible, and the nearest of it."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 30
_LONGEST = 64


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelt most like this one, whatever the case; None where none is near."""
    by_letters = {each.casefold(): each for each in known}
    if len(word) > _LONGEST:
        return None
    found = get_close_matches(word.casefold(), by_letters, n=1, cutoff=0.6)
    return by_letters[found[0]] if found else None


def suggested(word: str, known: Iterable[str]) -> str:
    """` Did you mean x?`, to end a sentence with; empty where nothing is near."""
    found = nearest(word, known)
    return f" Did you mean {found}?" if found else ""


def none_of(word: str, known: Iterable[str]) -> str:
    """`"lead" is none of a, b. Did you mean a?`"""
    words = list(known)
    listed = ", ".join(words[:MOST_LISTED]) + (", …" if len(words) > MOST_LISTED else "")
    quoted = word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…"
    return f'"{quoted}" is none of {listed or "what is known here, which is nothing"}.{suggested(word, words)}'
