import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshes.kit.strictjson import join_path, pointer, split_path


def test_pointer_escapes_tilde_and_slash():
    assert pointer("a/b", 3, "m~n") == "/a~1b/3/m~0n"


def test_pointer_to_the_whole_document_is_empty():
    assert pointer() == ""


def test_a_backslash_keeps_a_full_stop_inside_a_name():
    assert split_path(r"payload.utm\.source.a\\b") == ("payload", "utm.source", "a\\b")


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_paths_survive_joining_and_splitting(names):
    assert split_path(join_path(names)) == tuple(names)


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a\\", r"a\b", "a" * 513])
def test_what_is_not_a_path_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        split_path(path)
