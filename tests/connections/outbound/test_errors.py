import errno

import pycurl
import pytest

from connections.outbound.errors import explain


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EADDRNOTAVAIL, "our_fault"),
        (errno.ENOBUFS, "our_fault"),
        (errno.ENETDOWN, "our_fault"),
        (errno.ECONNREFUSED, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
    ],
)
def test_a_connect_that_fails_here_is_our_fault(number, cause):
    assert explain(pycurl.E_COULDNT_CONNECT, "", connected=False, system_error=number).cause == cause
