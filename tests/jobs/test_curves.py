"""The curve: exact storage, fencing, truncation, cursors, and thinning that hides nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs.cursors import Cursor, InvalidCursor
from jobs.curves import Curves
from jobs.errors import LostLease
from jobs.pyramid import Steps, Values
from jobs.series import StepsOutOfOrder
from jobs.store import Store
from tests.jobs.queue_of_jobs import add_job, open_store

LOSS = "train/loss"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path)
    yield store
    store.engine.dispose()


@pytest.fixture
def curves(store: Store) -> Curves:
    return Curves(store.engine)


@pytest.fixture
def job(store: Store) -> str:
    return running_job(store)


def running_job(store: Store) -> str:
    """A job in its first attempt."""
    add_job(store)
    claim = store.claim("worker", ["cpu"], lease_seconds=60)
    assert claim is not None
    return claim.job_id


def points(first: int, stop: int, gap: int = 1) -> tuple[Steps, Values]:
    steps = np.arange(first, stop, gap, dtype=np.int64)
    return steps, np.random.default_rng(first).normal(size=len(steps))


def fill(curves: Curves, job: str, values: Values, batch: int = 50_000) -> None:
    steps = np.arange(1, len(values) + 1, dtype=np.int64)
    for at in range(0, len(values), batch):
        curves.append(job, 1, {LOSS: (steps[at : at + batch], values[at : at + batch])})


def same_bits(left: Values, right: Values) -> bool:
    return left.astype("<f8").tobytes() == right.astype("<f8").tobytes()


def test_points_come_back_bit_for_bit_however_they_were_cut(curves: Curves, job: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000)
    values[[3, 1023, 1024, 5000]] = [math.nan, math.inf, -math.inf, -0.0]
    steps = np.cumsum(rng.integers(1, 4, size=len(values))).astype(np.int64)
    at = 0
    while at < len(values):
        size = int(rng.integers(1, 1500))
        curves.append(job, 1, {LOSS: (steps[at : at + size], values[at : at + size])})
        at += size
    (series,) = curves.read(job, max_points=0).series
    assert (series.steps == steps).all()
    assert same_bits(series.values, values)
    assert series.total == len(values)


def test_min_max_and_last_cover_the_whole_series_and_leave_non_finite_out(curves: Curves, job: str) -> None:
    values = np.array([2.0, math.inf, 1.0, 1.0, 5.0, 5.0, -math.inf, math.nan])
    curves.append(job, 1, {LOSS: (np.arange(10, 18), values)})
    (series,) = curves.read(job, after=16).series
    assert (series.min and series.min.step, series.max and series.max.step) == (12, 14)
    assert series.last is not None
    assert math.isnan(series.last.value)
    assert list(series.steps) == [17]
    ends = {"min": {"step": 12, "value": 1.0}, "max": {"step": 14, "value": 5.0}, "last": {"step": 17, "value": "NaN"}}
    assert curves.summary(job) == {LOSS: ends}


def test_a_series_without_a_finite_value_has_no_min(curves: Curves, job: str) -> None:
    curves.append(job, 1, {LOSS: (np.array([1]), np.array([math.nan]))})
    assert curves.summary(job)[LOSS] == {"min": None, "max": None, "last": {"step": 1, "value": "NaN"}}


def test_a_step_that_does_not_rise_is_refused_and_nothing_is_stored(curves: Curves, job: str) -> None:
    curves.append(job, 1, {LOSS: points(1, 11)})
    before = curves.version(job)
    for steps in ([10], [11, 11], [12, 11], [-1]):
        run = np.array(steps, np.int64)
        with pytest.raises(StepsOutOfOrder):
            curves.append(job, 1, {"lr": points(1, 11), LOSS: (run, np.zeros(len(run)))})
    assert curves.version(job) == before
    assert [series.name for series in curves.read(job).series] == [LOSS]


def test_only_the_attempt_that_runs_the_job_writes(curves: Curves, job: str, store: Store) -> None:
    for attempt in (0, 2):
        with pytest.raises(LostLease):
            curves.append(job, attempt, {LOSS: points(1, 2)})
    store.give_back(job, 1)
    with pytest.raises(LostLease):
        curves.append(job, 1, {LOSS: points(1, 2)})
    with pytest.raises(LostLease):
        curves.truncate(job, 1, 0)
    assert curves.read(job).series == []


@pytest.mark.parametrize("after", [0, 1, 1023, 1024, 1025, 70_000, 131_072, 140_000])
def test_truncation_leaves_the_curve_as_if_the_rest_had_never_been(curves: Curves, store: Store, after: int) -> None:
    values = np.random.default_rng(1).normal(size=150_000)
    values[[100, 90_000]] = [math.nan, math.inf]
    cut, whole, again = running_job(store), running_job(store), np.full(100_000, 0.5)
    fill(curves, cut, values)
    curves.truncate(cut, 1, after)
    fill(curves, whole, values[:after])
    for job in (cut, whole):
        steps = np.arange(after + 1, after + 1 + len(again))
        curves.append(job, 1, {LOSS: (steps, again)})
    for most in (0, 500, 5000):
        (left,), (right,) = curves.read(cut, max_points=most).series, curves.read(whole, max_points=most).series
        assert (left.steps == right.steps).all()
        assert same_bits(left.values, right.values)
        assert (left.total, left.min, left.max, left.last) == (right.total, right.min, right.max, right.last)


def test_a_cursor_gives_what_was_written_since_over_all_series(curves: Curves, job: str) -> None:
    start = curves.position(job)
    curves.append(job, 1, {LOSS: points(1, 101)})
    middle = curves.read(job).cursor
    assert middle == curves.position(job) != start
    curves.append(job, 1, {LOSS: points(101, 151), "val/loss": points(150, 151)})
    later = curves.read(job, cursor=middle)
    assert {series.name: (len(series.steps), series.total) for series in later.series} == {LOSS: (50, 150), "val/loss": (1, 1)}
    assert later.truncate_after is None
    assert sum(len(series.steps) for series in curves.read(job, cursor=later.cursor).series) == 0
    assert sum(len(series.steps) for series in curves.read(job, cursor=start).series) == 151


def test_a_cursor_from_before_truncations_is_told_the_lowest_and_given_the_rest(curves: Curves, job: str) -> None:
    curves.append(job, 1, {LOSS: points(1, 101), "lr": points(1, 31)})
    behind, old = str(Cursor(0, (10, 10))), curves.position(job)
    curves.truncate(job, 1, 50)
    curves.append(job, 1, {LOSS: points(51, 91)})
    curves.truncate(job, 1, 70)
    curves.append(job, 1, {LOSS: points(71, 81)})
    view = curves.read(job, cursor=old)
    assert (view.revision, view.truncate_after) == (2, 50)
    assert [list(series.steps) for series in view.series] == [list(range(51, 81)), []]
    assert list(curves.read(job, cursor=behind).series[0].steps) == list(range(11, 81))
    assert curves.read(job, cursor=view.cursor).truncate_after is None


def test_a_truncation_that_drops_nothing_is_no_new_revision(curves: Curves, job: str) -> None:
    curves.append(job, 1, {LOSS: points(1, 11)})
    before = curves.version(job)
    curves.truncate(job, 1, 10)
    assert curves.version(job) == before


def test_a_series_that_was_cut_to_nothing_begins_again(curves: Curves, job: str) -> None:
    curves.append(job, 1, {LOSS: points(1, 11), "val/loss": points(10, 11)})
    curves.truncate(job, 1, 5)
    assert [series.name for series in curves.read(job).series] == [LOSS]
    curves.append(job, 1, {"val/loss": points(6, 7)})
    assert list(curves.read(job, names=["val/loss"]).series[0].steps) == [6]


@pytest.mark.parametrize("text", ["", "x", "0.1x", "0." + "9" * 19, "0\n", "٣", "-1", "5", "0.1" + ".1" * 2000])
def test_what_is_not_a_cursor_is_refused(curves: Curves, job: str, text: str) -> None:
    with pytest.raises(InvalidCursor):
        curves.read(job, cursor=text)


def test_a_limited_read_can_be_continued_to_the_end(curves: Curves, job: str) -> None:
    curves.append(job, 1, {LOSS: points(1, 2501), "val/loss": points(500, 2501, 500)})
    cursor, seen, reads = None, [], 0
    complete = False
    while not complete:
        view = curves.read(job, cursor=cursor, limit=1000)
        seen += [int(step) for series in view.series if series.name == LOSS for step in series.steps]
        cursor, complete, reads = view.cursor, view.complete, reads + 1
    assert seen == list(range(1, 2501))
    assert (cursor, reads) == (curves.position(job), 3)


@pytest.mark.parametrize("count", [2001, 5000, 40_000, 300_000, 700_001])
def test_thinning_keeps_ends_extremes_and_every_spike(curves: Curves, job: str, count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.normal(size=count)
    spikes = rng.choice(np.arange(1, count - 1), size=20, replace=False)
    values[spikes] = rng.normal(size=20) + np.where(np.arange(20) % 2, 1000, -1000)
    odd = (spikes[:3] + 1) % count
    values[odd] = [math.nan, math.inf, -math.inf]
    fill(curves, job, values)
    (series,) = curves.read(job, max_points=2000).series
    kept = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
    assert len(series.steps) <= 2000
    assert (np.diff(series.steps) > 0).all()
    assert all(same_bits(np.array([value]), values[step - 1 : step]) for step, value in kept.items())
    wanted = {1, count, *(odd + 1).tolist(), int(np.argmin(np.where(np.isfinite(values), values, 0))) + 1}
    assert wanted <= kept.keys()
    lonely = [s for s in spikes if np.isfinite(values[s]) and np.abs(spikes - s)[spikes != s].min() > count // 400]
    assert {int(s) + 1 for s in lonely} <= kept.keys()


@pytest.mark.parametrize("most", [1, 2, 3, 4, 10, 999])
def test_never_more_points_than_asked_for(curves: Curves, job: str, most: int) -> None:
    values = np.random.default_rng(0).normal(size=80_000)
    values[::3] = math.nan
    fill(curves, job, values)
    (series,) = curves.read(job, max_points=most).series
    assert 1 <= len(series.steps) <= most
    assert series.steps[-1] == 80_000


def test_a_window_is_thinned_within_itself(curves: Curves, job: str) -> None:
    values = np.random.default_rng(0).normal(size=400_000)
    fill(curves, job, values)
    (series,) = curves.read(job, after=123_456, max_points=600).series
    window = values[123_456:]
    assert series.steps[0] == 123_457
    assert series.values.min() == window.min()
    assert series.values.max() == window.max()
    assert 400 < len(series.steps) <= 600


def test_an_overview_of_a_million_points_takes_milliseconds(curves: Curves, job: str) -> None:
    values = np.random.default_rng(0).normal(size=1_000_000)
    fill(curves, job, values, batch=250_000)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        (series,) = curves.read(job, max_points=2000).series
        took.append(time.perf_counter() - start)
    print(f"2000 of 1M points: {min(took) * 1000:.2f} ms")
    assert 1500 < len(series.steps) <= 2000
    assert (series.min and series.min.value) == values.min() == series.values.min()
    assert min(took) < 0.1


def test_writers_and_readers_of_different_jobs_do_not_mix(curves: Curves, store: Store) -> None:
    one, two = running_job(store), running_job(store)
    curves.append(one, 1, {LOSS: points(1, 3)})
    curves.append(two, 1, {LOSS: points(1, 6)})
    assert set(curves.summaries([one, two, "job_none"])) == {one, two, "job_none"}
    assert curves.read(one).series[0].total == 2
    assert curves.read("job_none").series == []
