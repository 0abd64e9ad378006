"""Fixtures of the integration tests."""

from tests.fixtures.api import api

__all__ = ["api"]
