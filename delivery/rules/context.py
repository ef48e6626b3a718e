"""What filters and mappings look at, and what somebody may have meant who names something else.

A path from the root that leads to nothing that any event has is a mistake. Rules are asked about it when they are
saved; one that was saved before goes on, and finds nothing there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from meshes.kit.jsonpaths import join_path
from meshes.kit.spelling import nearest, suggested

CONTEXT = {"event": ("type", "id", "created_at"), "payload": None, "workspace": ("id", "external_id", "name")}
"""The roots, with the members that are known."""


def misread(path: Sequence[str]) -> str:
    """Why a path from the root never finds anything, and what may be meant; empty where it may find something."""
    root, *below = path
    if root not in CONTEXT:
        near = nearest(root, CONTEXT)
        meant = join_path([near, *below] if near else ["payload", *path])
        return f"{join_path(path)} begins with none of {', '.join(CONTEXT)}. Did you mean {meant}?"
    known = CONTEXT[root]
    if known is None or not below or below[0] in known:
        return ""
    if below[0] in CONTEXT:
        return f"{root} has the members {', '.join(known)}. Did you mean {join_path(below)}?"
    return f"{root} has the members {', '.join(known)}.{suggested(below[0], known)}"


_ALL_CHILDREN = frozenset(
    {
        "multi_select_list", "multi_select_dict", "key_val_pair", "function_expression", "or_expression",
        "and_expression", "not_expression", "comparator",
    }
)  # fmt: skip
"""Nodes of JMESPath whose parts look at what the node itself looks at."""


def paths_from_root(tree: Any) -> Iterator[list[str]]:
    """The names, two at most, by which a JMESPath expression goes down from the root, for each place where it does."""
    kind, children = tree["type"], [child for child in tree["children"] if isinstance(child, dict)]
    if kind == "field":
        yield [tree["value"]]
    elif kind in _ALL_CHILDREN:
        for child in children:
            yield from paths_from_root(child)
    elif kind == "subexpression":
        chain = children[1:] if children[0]["type"] == "current" else children
        names = [child["value"] for child in chain[:2] if child["type"] == "field"]
        if chain and chain[0]["type"] == "field":
            yield names
        elif chain:
            yield from paths_from_root(chain[0])
    elif children and kind != "expref":  # pipes, projections, slices: what follows looks at what the first part found
        yield from paths_from_root(children[0])
