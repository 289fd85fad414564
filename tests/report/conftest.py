"""What the tests of pages share."""

from tests.report.browser import chromium, opened

__all__ = ["chromium", "opened"]
