"""A check of the package itself and of what only its tests need."""

import unittest

import hutch_example
import iniconfig


class Check(unittest.TestCase):
    """Both are there."""

    def test_it(self) -> None:
        assert hutch_example.ANSWER == 42
        assert iniconfig.IniConfig
