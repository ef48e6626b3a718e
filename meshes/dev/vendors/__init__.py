"""Vendors on loopback: small servers that check what the vendor checks, and answer as it answers."""
