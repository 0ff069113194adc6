"""The tables of the lake, in the order they are made in."""

from schemas.dead_letters import DEAD_LETTER
from schemas.dimensions import DEVICE, PAGE, USER
from schemas.events import EVENT
from schemas.sessions import SESSION

TABLES = (EVENT, SESSION, DEAD_LETTER, DEVICE.record, USER.record, PAGE)
