"""What somebody may have meant: a refusal lists what is possible, and the nearest of it."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 30
_LONGEST = 64
_SHORTEST_PART = 4
"""Of a word that is found inside another one: `token` in `access_token`."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelt most like this one, whatever the case; None where none is near."""
    by_letters = {each.casefold(): each for each in known}
    if len(word) > _LONGEST:
        return None
    found = get_close_matches(word.casefold(), by_letters, n=1, cutoff=0.6)
    return by_letters[found[0]] if found else None


def suggested(word: str, known: Iterable[str]) -> str:
    """` Did you mean x?`, to end a sentence with: the nearest, or the shortest that holds the word or is held by it."""
    words, letters = list(known), word.casefold()
    found = nearest(word, words)
    if found is None and _SHORTEST_PART <= len(word) <= _LONGEST:
        long = [each for each in words if len(each) >= _SHORTEST_PART]
        holding = [each for each in long if letters in each.casefold() or each.casefold() in letters]
        found = min(holding, key=len, default=None)
    return f" Did you mean {found}?" if found else ""


def none_of(word: str, known: Iterable[str]) -> str:
    """`"lead" is none of a, b. Did you mean a?`"""
    words = list(known)
    listed = ", ".join(words[:MOST_LISTED]) + (", …" if len(words) > MOST_LISTED else "")
    quoted = word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…"
    return f'"{quoted}" is none of {listed or "what is known here, which is nothing"}.{suggested(word, words)}'
