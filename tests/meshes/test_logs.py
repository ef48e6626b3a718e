"""What the log leaves out, with the configuration that services run with."""

import logging
from logging.config import DictConfigurator

from django.conf import settings


def test_a_request_that_fails_does_not_tell_its_connect_link():
    formatter = DictConfigurator({}).configure_formatter(dict(settings.LOGGING["formatters"]["line"]))
    path = "/connect/WyIwMWEy:1xV0nA:mrSHDTkOLHKo"
    record = logging.LogRecord("django.request", logging.ERROR, "", 0, "Internal Server Error: %s", (path,), None)
    assert formatter.format(record).endswith("ERROR django.request Internal Server Error: /connect/••••")
