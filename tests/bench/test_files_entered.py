"""The tracer of `bench.files_entered`, on a small graph of calls made here."""

import importlib
import sys
import threading

import pytest

from bench.files_entered import REFRESH, Tracer, code_of, summary

FIRST = """
import threading
from graph import second, third


class Begun:
    attribute = 1

    def run(self):
        doubled = [second.double(n) for n in (1, 2)]
        thread = threading.Thread(target=third.beside)
        thread.start()
        thread.join()
        return doubled


def outer():
    second.before()
    return Begun().run()
"""
SECOND = """
def before():
    pass


def double(n):
    return 2 * n


def never():
    from graph import fourth
"""
THIRD = "def beside():\n    return (lambda: 1)()\n"


@pytest.fixture
def graph(tmp_path, monkeypatch):
    for name, text in {"first": FIRST, "second": SECOND, "third": THIRD, "__init__": ""}.items():
        file = tmp_path / "graph" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("graph.first")
    for name in [name for name in sys.modules if name.partition(".")[0] == "graph"]:
        del sys.modules[name]


@pytest.fixture
def tracer_of(tmp_path):
    """Tracers that are removed again, with whatever looked before."""
    before, of_threads = sys.getprofile(), threading.getprofile()

    def make(*without):
        tracer = Tracer(tmp_path, ("graph",), without)
        tracer.install()
        return tracer

    yield make
    sys.setprofile(before)
    threading.setprofile(of_threads)


def test_functions_of_all_threads_are_noted_in_the_order_of_entry(graph, tracer_of):
    tracer = tracer_of()
    with tracer.recording() as found:
        assert graph.outer() == [2, 4]
    figures = summary(tracer, [found])
    assert figures["entered"] == ["graph/first.py", "graph/second.py", "graph/third.py"]
    names = [name.rpartition(" ")[2] for name in figures["names"]]
    assert names == ["outer", "before", "Begun.run", "double", "beside", "beside.<locals>.<lambda>"]
    assert (figures["files"], figures["functions"]) == (3, 6)


def test_nothing_is_noted_outside_a_recording(graph, tracer_of):
    tracer = tracer_of()
    graph.outer()
    with tracer.recording() as found:
        pass
    graph.outer()
    assert found == []


def test_a_recording_may_be_of_one_function_s_call_alone(graph, tracer_of):
    tracer = tracer_of()
    with tracer.recording(within=code_of("graph.first:Begun.run")) as found:
        graph.outer()
        graph.second.before()
    assert [code.co_name for code in found if not code.co_name.startswith("<")] == ["run", "double", "beside"]


def test_folders_that_are_left_out_are_not_noted(graph, tracer_of):
    tracer = tracer_of("graph/second.py")
    with tracer.recording() as found:
        graph.outer()
    assert summary(tracer, [found])["entered"] == ["graph/first.py", "graph/third.py"]


def test_importing_a_module_or_making_a_class_enters_no_function(graph, tracer_of):
    tracer = tracer_of()
    with tracer.recording() as found:
        importlib.reload(graph)
    assert found == []


def test_what_not_every_pass_entered_is_told_apart(graph, tracer_of):
    tracer = tracer_of()
    with tracer.recording() as once:
        graph.outer()
    with tracer.recording() as again:
        graph.second.before()
    figures = summary(tracer, [once, again])
    assert (figures["entered"], figures["now_and_then"]) == (["graph/second.py"], ["graph/first.py", "graph/third.py"])


def test_the_refresh_that_is_measured_exists():
    assert code_of(REFRESH).co_qualname == REFRESH.partition(":")[2]
