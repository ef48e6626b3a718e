"""What is read from an expression that RE2 has accepted: how long a match is, and whether it begins with the text."""

import pytest

from delivery.rules.regex_trees import UnknownError, read_tree


@pytest.mark.parametrize(
    ("pattern", "longest", "is_anchored"),
    [
        ("", 0, False),
        ("abc", 3, False),
        (r"^a{2,4}b?", 5, True),
        ("^a|^bc", 2, True),
        ("^a|bc", 2, False),
        ("(?m)^a", 1, False),
        ("^?vip", 3, False),
        (r"(?:^){2}a+", None, True),
        (r"\Aa{0}[]x]\x{e9}\pL", 3, True),
        (r"(?P<n>a|bb){3}", 6, False),
        ("a{,3}", 5, False),
        ("()*", 0, False),
    ],
)
def test_a_tree_knows_how_long_a_match_is_and_where_it_begins(pattern, longest, is_anchored):
    tree = read_tree(pattern)
    assert (tree.longest, tree.is_anchored) == (longest, is_anchored)


def test_flags_hold_to_the_end_of_their_group():
    tree = read_tree("a(?i)b(?-i:c)d")
    assert [part.flags for part in tree.parts] == ["", "i", "", "i"]
    assert [part.flags for part in read_tree("(?:a(?s).|b)c").parts[0].parts[1:]] == ["s"]


@pytest.mark.parametrize("pattern", [r"\Qa", r"a\C", "a(?i)*", "(" * 51 + "a" + ")" * 51, "[a", "(a", "a)"])
def test_what_is_not_known_for_certain_is_refused(pattern):
    with pytest.raises(UnknownError):
        read_tree(pattern)
