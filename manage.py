#!/usr/bin/env python
"""Django's command line for Meshes."""

from meshes.__main__ import main

if __name__ == "__main__":
    main()
