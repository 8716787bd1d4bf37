"""A check of a project that needs idna."""

import unittest

import idna


class Check(unittest.TestCase):
    """The dependency is there."""

    def test_it(self) -> None:
        assert idna.encode("b\u00fccher") == b"xn--bcher-kva"
