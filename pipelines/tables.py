"""The tables of the lake: those of the main job, in the order of their creation, and those of `sessions-dim`."""

from schemas.daily_metrics import DAILY_METRICS
from schemas.dead_letters import DEAD_LETTER
from schemas.dimensions import DEVICE, PAGE, USER
from schemas.event_types import Catalogue
from schemas.events import FACT_EVENT
from schemas.records import Record
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from schemas.sessions import FACT_SESSION
from schemas.silver import silver_records
from schemas.user_stream import USER_STREAM

TABLES = (FACT_EVENT, FACT_SESSION, DEAD_LETTER, DEVICE.record, USER.record, PAGE)
SESSION_DIMENSION = (DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE)


def tables_of(catalogue: Catalogue | None) -> tuple[Record, ...]:
    """The tables that the main job writes; with a catalogue, also those of the layers."""
    return TABLES if catalogue is None else (*TABLES, USER_STREAM, *silver_records(catalogue), DAILY_METRICS)
