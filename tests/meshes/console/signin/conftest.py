"""Passwords are hashed quickly here: what is tested is who is asked for them. Each test may guess anew."""

import pytest


@pytest.fixture(autouse=True)
def _quick_hashes(settings, redis_client):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
