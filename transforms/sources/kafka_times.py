"""Reads event times from payloads without decoding them, for the watermark. No Beam.

A source must report its watermark before its events are decoded. Here each payload is read up to its timestamp only,
which takes a small part of the time of decoding.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.events.envelope_rules import MAX_AHEAD, in_years
from transforms.events.json_members import first_times

Ints = NDArray[np.int64]

NO_TIME = np.iinfo(np.int64).min
"""The value for a row whose time cannot be read."""


def event_times(payloads: pa.Array) -> Ints:
    """Event time of each payload in microseconds since 1970 UTC; `NO_TIME` if none can be read.

    Reads RFC 3339 with an offset, and integer epoch milliseconds.

    Args:
        payloads: Binary; null for a tombstone.

    >>> event_times(pa.array([b'{"timestamp": "1970-01-01T02:00:01.5+02:00"}', b'{"timestamp":7}', None]))[:2].tolist()
    [1500000, 7000]
    """
    micros, known = first_times(payloads, "timestamp")
    return np.where(known & in_years(micros), micros, NO_TIME)


def trusted_times(times: Ints, arrivals: Ints) -> Ints:
    """Replace times more than an hour after their arrival by `NO_TIME`; decoding rejects these events too.

    >>> trusted_times(np.array([5, 2 * MAX_AHEAD]), np.array([0, 0])).tolist() == [5, NO_TIME]
    True
    """
    return np.where(times > arrivals + MAX_AHEAD, NO_TIME, times)
