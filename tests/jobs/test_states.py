"""The table of states is whole and says what DESIGN.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import states
from jobs.errors import ForbiddenTransition


def test_every_transition_is_between_known_states_and_only_a_retry_leads_out_of_an_end() -> None:
    for row in states.TRANSITIONS:
        assert {row.before, row.after} <= set(states.STATES)
        assert states.ended(row.before) == (row.name == "retried")
        assert row.cause


def test_every_request_that_moves_a_job_has_its_transition_where_it_is_taken() -> None:
    wanted = {"pause": (states.PAUSED, {"queued", "running"}), "cancel": (states.CANCELLED, {"queued", "running", "paused"})}
    wanted |= {"resume": (states.QUEUED, {"paused"}), "retry": (states.QUEUED, set(states.ENDED))}
    for request in states.REQUESTS:
        assert (request.otherwise != "") == (set(request.taken_in) != set(states.STATES))
        after, moved = wanted.get(request.name, ("", set()))
        assert moved <= set(request.taken_in)
        assert all(states.transition(before, after) for before in moved)


def test_every_end_is_reached() -> None:
    assert {row.after for row in states.TRANSITIONS} >= set(states.ENDED)


def test_an_attempt_ends_by_some_of_the_closed_list_of_reasons() -> None:
    assert set(states.REASONS_OF_AN_ATTEMPT) < set(states.REASONS)


@pytest.mark.parametrize("before", states.STATES)
@pytest.mark.parametrize("after", states.STATES)
def test_a_move_is_allowed_if_and_only_if_it_is_in_the_table(before: str, after: str) -> None:
    if any((row.before, row.after) == (before, after) for row in states.TRANSITIONS):
        assert states.transition(before, after).after == after
    else:
        with pytest.raises(ForbiddenTransition):
            states.transition(before, after)


def test_two_moves_with_the_same_ends_are_told_apart_by_name() -> None:
    names = {states.transition("running", "queued", name).name for name in ("requeued", "given_back")}
    assert names == {"requeued", "given_back"}
    with pytest.raises(ForbiddenTransition):
        states.transition("running", "queued", "claimed")


def rows(heading: str) -> list[list[str]]:
    """The table under a heading of docs/jobs.md, without its head."""
    section = Path("docs/jobs.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_docs_have_every_move() -> None:
    assert rows("States") == [[f"`{row.name}`", row.before, row.after, row.cause] for row in states.TRANSITIONS]


def test_the_docs_say_what_may_be_asked_when() -> None:
    def path(name: str) -> str:
        return "`DELETE /v1/jobs/{id}`" if name == "delete" else f"`POST /v1/jobs/{{id}}/{name}`"

    expected = [[path(r.name), *("yes" if s in r.taken_in else "409" for s in states.STATES)] for r in states.REQUESTS]
    assert rows("What may be asked, and when") == expected
