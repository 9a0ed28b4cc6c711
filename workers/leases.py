"""Which workers are gone. A lease is a wall-clock time in the database, and a wall clock jumps: so it is not believed alone.

A worker that lives renews its leases several times in a lease's length. So whoever looks remembers what he has read, and
counts by a clock that never jumps how long a lease has stood there unchanged while he was looking. Time in which he saw nothing
himself (the database was locked, the process was stopped) is not held against anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from jobs.moves import now as wall_clock
from jobs.records import Lease

# As parts of a lease's length: what a live worker needs at most between two renewals, and the most that one look counts for,
# however long ago the last one was.
RENEWED_WITHIN = 0.5
LONGEST_GAP = 0.2


class Silence:
    """What one observer knows of the open leases."""

    def __init__(self, lease_seconds: float) -> None:
        """`lease_seconds` is taken for those of workers that are not on the list."""
        self._lease_seconds = lease_seconds
        self._seen: dict[tuple[str, int], tuple[datetime, float]] = {}  # what was read, and for how many seconds it stood
        self._looked_at: float | None = None

    def broken(self, leases: Sequence[Lease], now: float) -> list[Lease]:
        """Those of the open leases whose worker is gone. `now` is time.monotonic(). Call it often in a lease's length.

        A lease that has run out by the wall clock counts after half its length without a renewal; any other, which may have
        been written by a clock that was ahead, after its whole length.
        """
        gap = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        before, self._seen = self._seen, {}
        for lease in leases:
            key = (lease.job_id, lease.attempt)
            expires_at, stood = before.get(key, (None, 0.0))
            more = min(gap, self._length(lease) * LONGEST_GAP)
            self._seen[key] = (lease.expires_at, stood + more if expires_at == lease.expires_at else 0.0)
        return [lease for lease in leases if self._is_broken(lease)]

    def _is_broken(self, lease: Lease) -> bool:
        _, stood = self._seen[lease.job_id, lease.attempt]
        length = self._length(lease)
        return stood >= (length * RENEWED_WITHIN if lease.expires_at < wall_clock() else length)

    def _length(self, lease: Lease) -> float:
        return lease.seconds or self._lease_seconds
