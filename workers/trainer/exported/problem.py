"""What is wrong with a file that should hold a program."""

from __future__ import annotations


class UnreadableProgram(Exception):
    """This file holds no program that can be trained here; the message says why, in one sentence."""
