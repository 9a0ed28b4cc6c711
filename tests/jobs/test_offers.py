"""Which sandbox a job needs, and what a worker must offer for it."""

from __future__ import annotations

from typing import Any

from jobs.profiles import profile_under
from jobs.spec import offer_for, parse, profile_of
from tests.jobs.test_spec import GOOD


def test_what_a_worker_must_offer() -> None:
    data = {"type": "python", "id": "file_" + "0" * 24, "class": "D"}  # of a model too
    exported = {"type": "exported", "id": "file_" + "0" * 24}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({}, "plain", "plain"),
        ({"model": exported}, "strict", "strict"),
        ({"dataset": data}, "strict", "python"),
        ({"dataset": data, "model": exported}, "strict", "python"),
        ({"model": data}, "strict", "python"),
    ]
    for changes, profile, offer in cases:
        spec = parse(GOOD | changes)
        assert (profile_of(spec), offer_for(spec), profile_under(offer)) == (profile, offer, profile)
