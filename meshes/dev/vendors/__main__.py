"""Serves vendors, each on a port of its own: `python -m meshes.dev.vendors hubspot slack`; all of them without
arguments.

The first line on standard output is a JSON object from slug to URL. It ends by a SIGTERM, and when standard input is a
pipe that closes, so that it does not outlive a parent that holds the other end.
"""

import argparse
import json
import os
import signal
import stat
import sys
from contextlib import ExitStack

from meshes.dev.vendors.registry import VENDORS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m meshes.dev.vendors", description="Vendors on loopback.")
    parser.add_argument("slugs", nargs="*", metavar="slug", help=", ".join(VENDORS))
    slugs = parser.parse_args().slugs or list(VENDORS)
    if unknown := [slug for slug in slugs if slug not in VENDORS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(VENDORS)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with ExitStack() as stack:
        urls = {slug: stack.enter_context(VENDORS[slug]()).url for slug in slugs}
        print(json.dumps(urls), flush=True)
        try:
            if not stat.S_ISFIFO(os.fstat(0).st_mode):
                signal.pause()
            while os.read(0, 4096):
                pass
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
