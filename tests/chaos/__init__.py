"""Kills every kind of process at random while jobs run, and counts what was lost: `python -m tests.chaos`."""
