import errno
import os
import socket
import threading
import time

import pytest

from connections.messages import LocalError, Request
from connections.outbound import Policy, check_url, guard, send
from connections.outbound.guard import Lookups, find_addresses, system_lookup
from tests.connections.outbound.receivers import raises


@pytest.fixture
def hung():
    """A lookup that hangs until the test is over."""
    release = threading.Event()

    def find(host: str) -> list[str]:
        release.wait(30)
        return ["203.0.113.9"]

    yield find
    release.set()


def eventually(condition) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        threading.Event().wait(0.005)
    return bool(condition())


def lookup_threads() -> int:
    return sum(thread.name == "outbound-lookup" for thread in threading.enumerate())


def test_a_name_gives_its_addresses():
    assert Lookups().find(lambda host: ["8.8.8.8", "2a00::1"], "a.test", 1) == ("8.8.8.8", "2a00::1")


def test_the_system_knows_localhost():
    assert "127.0.0.1" in system_lookup("localhost")


@pytest.mark.parametrize("host", ["api.example.com", "db", "xn--bcher-kva", "localhost.localdomain", "my-localhost"])
def test_every_name_is_looked_up_as_absolute(monkeypatch, host):
    """`db` must not become `db.<search domain>`, nor what /etc/hosts calls so."""
    asked = []

    def record(host, *args, **kwargs):
        asked.append(host)
        return [(None, None, None, "", ("8.8.8.8", 0)), (None, None, None, "", ("8.8.8.8", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", record)
    assert system_lookup(host) == ["8.8.8.8"]
    assert asked == [f"{host}.".encode()]


def test_a_short_name_of_the_hosts_file_is_not_found():
    """`localhost.` has no such entry either; what the file calls this machine is looked up nowhere."""
    with open("/etc/hosts") as file:
        names = [name for line in file for name in line.split("#")[0].split()[1:] if "." not in name]
    for name in {name for name in names if name != "localhost"}:
        with pytest.raises(OSError, match=r"not known|failure"):
            system_lookup(name)


@pytest.mark.parametrize("host", ["localhost", "api.localhost"])
def test_localhost_is_this_machine_and_asks_nobody(monkeypatch, host):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("asked"))
    assert system_lookup(host) == ["127.0.0.1"]


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
def test_a_name_without_an_address_fails(error):
    def find(host: str) -> list[str]:
        raise error

    with raises("unresolved", match=r"^The host name could not be found\.$") as caught:
        Lookups().find(find, "a.test", 1)
    assert caught.value.sent is False


def test_an_empty_answer_fails():
    with raises("unresolved"):
        Lookups().find(lambda host: [], "a.test", 1)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENFILE, "Too many open files in system"),
        OSError(errno.ENOBUFS, "No buffer space available"),
        socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
    ],
)
def test_a_lookup_that_this_machine_had_no_means_for_is_our_fault(error):
    def find(host: str) -> list[str]:
        raise error

    with pytest.raises(LocalError, match="could not be looked up, through no fault of the receiver"):
        Lookups().find(find, "a.test", 5)


def test_a_lookup_that_found_nothing_for_want_of_descriptors_is_our_fault(monkeypatch):
    def find(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def refuse(*args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with raises("unresolved"):
        Lookups().find(find, "a.test", 5)
    monkeypatch.setattr("connections.outbound.guard.os.open", refuse)
    with pytest.raises(LocalError):
        Lookups().find(find, "a.test", 5)


@pytest.mark.parametrize("left", [0, 3, 7, 8])
def test_descriptors_that_were_opened_to_see_whether_there_are_any_are_closed(monkeypatch, left):
    opened: list[int] = []
    really_open = os.open

    def open_some(*args) -> int:
        if len(opened) == left:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.append(really_open(*args))
        return opened[-1]

    def find(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("connections.outbound.guard.os.open", open_some)
    with raises("our_fault" if left < 8 else "unresolved"):
        Lookups().find(find, "a.test", 5)
    monkeypatch.undo()
    assert len(opened) == left
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_hung_lookup_ends_at_the_deadline(hung):
    started = time.monotonic()
    with raises("dns_timeout", match="could not be looked up in the time allowed") as caught:
        Lookups().find(hung, "a.test", 0.2)
    assert 0.2 <= time.monotonic() - started < 1
    assert caught.value.sent is False


def test_a_hung_name_holds_one_thread_however_often_it_is_dialled(hung):
    lookups = Lookups()
    before = lookup_threads()
    for _ in range(20):
        with raises("dns_timeout"):
            lookups.find(hung, "a.test", 0.01)
    assert lookup_threads() - before <= 1


def test_hung_names_do_not_delay_another_name(hung):
    lookups = Lookups(limit=8)
    for number in range(7):
        with raises("dns_timeout"):
            lookups.find(hung, f"{number}.test", 0.01)
    started = time.monotonic()
    assert lookups.find(lambda host: ["8.8.8.8"], "good.test", 5) == ("8.8.8.8",)
    assert time.monotonic() - started < 1


def test_at_the_limit_a_lookup_waits_until_its_deadline_and_no_thread_is_added(hung):
    lookups = Lookups(limit=2)
    for number in range(2):
        with raises("dns_timeout"):
            lookups.find(hung, f"{number}.test", 0.01)
    before = lookup_threads()
    started = time.monotonic()
    with pytest.raises(LocalError):  # others' names are no fault of this one's
        lookups.find(lambda host: ["8.8.8.8"], "good.test", 0.2)
    assert 0.2 <= time.monotonic() - started < 1
    assert lookup_threads() == before


def test_a_place_that_comes_free_is_taken_by_who_waits():
    lookups = Lookups(limit=1)
    release = threading.Event()

    def slow(host: str) -> list[str]:
        release.wait(30)
        return ["8.8.8.8"]

    with raises("dns_timeout"):
        lookups.find(slow, "slow.test", 0.01)
    threading.Timer(0.05, release.set).start()
    assert lookups.find(lambda host: ["1.1.1.1"], "good.test", 5) == ("1.1.1.1",)


def test_lookups_of_one_name_at_the_same_time_are_one():
    lookups, calls, release, found = Lookups(), [], threading.Event(), []

    def find(host: str) -> list[str]:
        calls.append(host)
        release.wait(30)
        return ["8.8.8.8"]

    callers = [threading.Thread(target=lambda: found.append(lookups.find(find, "a.test", 5))) for _ in range(16)]
    for caller in callers:
        caller.start()
    assert eventually(lambda: calls == ["a.test"])
    release.set()
    for caller in callers:
        caller.join(5)
    assert found == [("8.8.8.8",)] * 16


def test_a_later_lookup_asks_again():
    answers = iter((["8.8.8.8"], ["1.1.1.1"]))
    lookups = Lookups()

    def find(host: str) -> list[str]:
        return next(answers)

    assert [lookups.find(find, "a.test", 1) for _ in range(2)] == [("8.8.8.8",), ("1.1.1.1",)]


def test_threads_are_used_again():
    lookups, before = Lookups(), lookup_threads()
    for number in range(50):
        lookups.find(lambda host: ["8.8.8.8"], f"{number}.test", 1)
    assert lookup_threads() - before == 1


def test_an_idle_thread_ends(monkeypatch):
    monkeypatch.setattr(guard, "LOOKUP_IDLE_SECONDS", 0.01)
    lookups = Lookups()
    before = lookup_threads()
    lookups.find(lambda host: ["8.8.8.8"], "a.test", 1)
    assert eventually(lambda: lookup_threads() == before)
    assert lookups.find(lambda host: ["8.8.8.8"], "a.test", 1) == ("8.8.8.8",)


def test_a_lookup_that_breaks_takes_no_other_with_it(monkeypatch):
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    lookups = Lookups(limit=1)

    def broken(host: str) -> list[str]:
        raise RuntimeError("a bug")

    with pytest.raises(LocalError):
        lookups.find(broken, "a.test", 1)
    assert lookups.find(lambda host: ["8.8.8.8"], "a.test", 1) == ("8.8.8.8",)
    assert eventually(lambda: len(died) == 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads is what is tested
def test_a_forked_child_looks_up_with_threads_of_its_own():
    find_addresses(system_lookup, "localhost", 5)  # leaves an idle thread in the parent
    child = os.fork()
    if child == 0:
        found = False
        try:
            found = "127.0.0.1" in find_addresses(system_lookup, "localhost", 5)
        finally:
            os._exit(0 if found else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lookup_has_a_deadline_of_its_own(hung, monkeypatch):
    assert guard.LOOKUP_SECONDS == 5
    monkeypatch.setattr(guard, "LOOKUP_SECONDS", 0.2)
    started = time.monotonic()
    with raises("dns_timeout") as caught:
        send(Request("POST", "https://hung.test/"), deadline_seconds=30, policy=Policy(lookup=hung))
    assert 0.2 <= time.monotonic() - started < 10
    assert (caught.value.sent, caught.value.message) == (
        False,
        "The host name could not be looked up in the time allowed.",
    )


def test_when_it_is_saved_no_name_is_looked_up():
    """So that an inner name and an unknown one get the same answer, in the same time."""
    policy = Policy(lookup=lambda host: pytest.fail("asked"))
    for host in ("inner.example.com", "unknown.example.com", "db", "metadata.google.internal"):
        check_url(f"https://{host}/", policy=policy)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "api.localhost", "127.0.0.1", "[::1]"])
def test_what_the_url_itself_says_is_refused_when_it_is_saved(host):
    with raises("address_refused"):
        check_url(f"https://{host}/", policy=Policy())
