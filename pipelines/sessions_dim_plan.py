"""Plans a run of the session dimension: the files to read and to replace, from the tables' logs."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from pipelines.tables import SESSION_DIMENSION
from schemas.dimensions import DEVICE
from schemas.errors import OptionError, StoreError
from schemas.events import FACT_EVENT
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from stores.lake import LiveFile, create_tables, find_files, find_table, table_uri
from stores.lake_files import Partition, Place, date_of, partition_of
from stores.lake_read import read_files
from transforms.session_dimension.session_dates import StartDates, closed_date, dates_to_build

Live = dict[Partition, list[LiveFile]]


@dataclass(frozen=True)
class SessionsDimOptions:
    """The options of a run.

    Attributes:
        lake: The lake's URI.
        zone: The reporting time zone.
        days: Number of start dates up to `as_of` to recompute; None for all.
        as_of: The last start date; None for the last that has ended in the zone.
        now: The current time; its date has not ended.
    """

    lake: str
    zone: ZoneInfo
    days: int | None
    as_of: date | None
    now: datetime

    @property
    def last_date(self) -> date:
        """The last start date to compute.

        Raises:
            OptionError: The requested date has not ended.
        """
        closed = closed_date(self.now, self.zone)
        if self.as_of is not None and self.as_of > closed:
            raise OptionError(f"{self.as_of} has not ended in {self.zone.key}: the last date that has is {closed}")
        return self.as_of or closed


@dataclass(frozen=True)
class SessionsDimPlan:
    """What a run computes, and the state of the lake that it computes from.

    Attributes:
        lake: The lake's URI.
        dates: The start dates to compute.
        sessions: The files of dim_sessions to replace, of those dates that have events or sessions.
        places: The files of event_sessions to replace.
        events: The files of fact_events with the events of the dates.
        stamped: The files of fact_events that may hold an event whose session changes or is removed.
        devices: The files of dim_devices.
        bridge: All files of the bridge; empty if no user had sessions before the dates of the last run.
        continues: Whether users may have sessions before the dates; otherwise numbering starts at 1.
        counted: Files of dim_sessions between the bridge's date and the first of the dates, by start date.
        sign: Sign with which `counted` is added to the bridge's numbers: 1, or -1 if the bridge's date is later.
    """

    lake: str
    dates: StartDates
    sessions: Live
    places: Live
    events: Live
    stamped: Live
    devices: Live
    bridge: Live
    continues: bool
    counted: Live
    sign: int

    @property
    def moves_bridge(self) -> bool:
        """Whether the bridge has to move to the first of the dates."""
        if not self.continues:
            return bool(self.bridge)
        return bool(self.counted) or any(key != partition_of(self.dates.first) for key in self.bridge)

    @property
    def read_files(self) -> list[LiveFile]:
        """The files that the run reads, apart from those of the dates that it replaces."""
        before = (self.bridge, self.counted) if self.continues else ()
        return [file for live in (self.events, self.devices, *before) for files in live.values() for file in files]


def plan_sessions_dim(options: SessionsDimOptions) -> SessionsDimPlan | None:
    """Plan a run. Reads the tables' logs and one column of one file.

    Returns:
        The plan; None if the lake has no events that could be on the dates.

    Raises:
        OptionError: The last requested date has not ended, or the table is of another time zone.
        StoreError: There are no events in the lake, or a table cannot be read or created.
    """
    lake, last_date = options.lake, options.last_date
    if find_table(lake, FACT_EVENT.name) is None:
        raise StoreError(f"{FACT_EVENT.name}: there is no such table in {lake}")
    create_tables(lake, SESSION_DIMENSION)
    events, sessions, places, bridge, devices = (
        find_files(lake, record.name)
        for record in (FACT_EVENT, DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE, DEVICE.record)
    )
    if options.days is not None:
        _check_zone(lake, sessions, options.zone)
    built, with_events = _dates(sessions), _dates(events)
    if not (built or with_events):
        return None
    span = (built[0], built[-1]) if built else None
    dates = dates_to_build(options.days, last_date, options.zone, min([*with_events, *built]), span)
    if dates is None:
        return None
    first_utc, last_utc = dates.utc_span()
    read = {partition_of(day): events[partition_of(day)] for day in with_events if first_utc <= day <= last_utc}
    with_rows = _start_dates(dates, [*_dates(read), *built, *_dates(places)])
    continues = bool(built) and built[0] < dates.first
    counted: list[date] = []
    sign = 1
    if continues:
        before = _bridge_date(bridge)
        low, high = sorted((before, dates.first))
        counted = [day for day in built if low <= day < high]
        sign = 1 if before <= dates.first else -1
    return SessionsDimPlan(
        lake=lake,
        dates=dates,
        sessions={key: sessions.get(key, []) for key in with_rows},
        places={key: places.get(key, []) for key in with_rows},
        events=read,
        # when recomputed in another time zone, the dates may end earlier than before
        stamped=read
        if continues
        else {key: files for key, files in events.items() if key <= partition_of(last_utc + timedelta(days=1))},
        devices=devices,
        bridge=bridge,
        continues=continues,
        counted={partition_of(day): sessions[partition_of(day)] for day in counted},
        sign=sign,
    )


def _start_dates(dates: StartDates, days: Iterable[date]) -> list[Partition]:
    """The start dates that rows may have or may have had: those of the given UTC dates and of the days next to them.

    Not every date in between: one event of the year 1970 must not create a partition for every day since.
    """
    near = {day.toordinal() + beside for day in days for beside in (-1, 0, 1)}
    inside = range(dates.first.toordinal(), dates.last.toordinal() + 1)
    return [partition_of(date.fromordinal(day)) for day in sorted(near) if day in inside]


def _dates(live: Live) -> list[date]:
    return sorted(map(date_of, live))


def _bridge_date(bridge: Live) -> date:
    """The bridge's date. An empty bridge is of the earliest date, when nobody had a session."""
    if len(bridge) > 1:
        raise StoreError(f"{SESSION_BRIDGE.name}: it has {len(bridge)} dates instead of one; --days all rebuilds it")
    return next(iter(_dates(bridge)), date.min)


def _check_zone(lake: str, sessions: Live, zone: ZoneInfo) -> None:
    """Check that the table's time zone, read from one of its files, is this zone."""
    for partition, files in sessions.items():
        place = Place(table_uri(lake, DIM_SESSIONS.name), DIM_SESSIONS, partition)
        (stored_zone,) = read_files(place, [files[0].path], ["time_zone"]).column(0).unique().to_pylist()
        if stored_zone != zone.key:
            raise OptionError(
                f"{DIM_SESSIONS.name} is in the time zone {stored_zone}; --days all rebuilds it in {zone.key}"
            )
        return
