"""The tables of the lake: those of the main job in the order they are made in, and those of `sessions-dim`."""

from schemas.dead_letters import DEAD_LETTER
from schemas.dimensions import DEVICE, PAGE, USER
from schemas.events import FACT_EVENT
from schemas.session_dimension import DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE
from schemas.sessions import FACT_SESSION

TABLES = (FACT_EVENT, FACT_SESSION, DEAD_LETTER, DEVICE.record, USER.record, PAGE)
SESSION_DIMENSION = (DIM_SESSIONS, EVENT_SESSIONS, SESSION_BRIDGE)
