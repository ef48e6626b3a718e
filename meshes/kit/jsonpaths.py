"""The two ways in which Meshes names a place inside a JSON document.

A *pointer* (RFC 6901, `/events/3/payload`) says in an error where a mistake is. A *dotted path* (`payload.lead.email`)
is what users write in filters and mappings; a full stop that belongs to a name is written `\\.`, a backslash `\\\\`.
"""

from collections.abc import Iterable

MAX_PATH_LENGTH = 512
"""Characters of one dotted path."""


def pointer(*tokens: str | int) -> str:
    """The JSON pointer (RFC 6901) to the place that `tokens` lead to; the whole document is the empty string."""
    return "".join(f"/{str(token).replace('~', '~0').replace('/', '~1')}" for token in tokens)


def split_path(path: str) -> tuple[str, ...]:
    """The names in a dotted path. Raises ValueError, with a sentence for the user, when it is not one."""
    if len(path) > MAX_PATH_LENGTH:
        raise ValueError(f"a path has at most {MAX_PATH_LENGTH} characters")
    names, name, characters = [], "", iter(path)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if escaped not in ("\\", "."):
                raise ValueError(r"a backslash in a path stands before a full stop or another backslash")
            name += escaped
        elif character == ".":
            names.append(name)
            name = ""
        else:
            name += character
    names.append(name)
    if not all(names):
        raise ValueError("a path is names joined by single full stops")
    return tuple(names)


def join_path(names: Iterable[str]) -> str:
    """The dotted path of `names`: `split_path(join_path(names)) == tuple(names)`."""
    return ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in names)
