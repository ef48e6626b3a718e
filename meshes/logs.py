"""How log lines read, and what they leave out."""

import logging
import re

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_LINK = re.compile(r"(?<=/connect/)[^\s?\"']+")


class Line(logging.Formatter):
    """One line, or a traceback, without the part of a connect link that opens it to whoever reads."""

    def format(self, record: logging.LogRecord) -> str:
        return _LINK.sub("••••", super().format(record))
