"""The text of simulated events: envelopes as different trackers send them.

Trackers differ by device: where they put the device and the user, how they write a time, and what they use as an
id. Text is assembled from lookup tables, so that an event costs a few gathers and one concatenation.
"""

import json
from decimal import Decimal
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa

from pipelines.traffic import (
    ADD_TO_CART,
    ANONYMOUS,
    CLICK,
    EVENT_TYPES,
    LOGIN,
    PAGE_VIEW,
    PRODUCT_VIEW,
    PURCHASE,
    SEARCH,
    Events,
    Ints,
    Traffic,
)
from schemas.durations import HOUR
from schemas.records import MONEY

_SHOP = "https://shop.example"
_SECTIONS = ("", "category/shoes", "category/books", "category/garden", "sale", "help", "account", "cart")
_ELEMENTS = ("menu", "banner", "filter", "image", "review", "wish-list")
_SEARCHES = (
    "red shoes",
    "crème brûlée set",
    "lamp",
    "garden chair",
    "książka",
    "kids' bike",
    '15" screen',
    "茶",
)
_COUNTRIES = ("US", "DE", "GB", "FR", "PL", "BR", "IN", "JP", None)
_DEVICE_KINDS = (("mobile", "Android"), ("mobile", "iOS"), ("desktop", "Windows"), ("desktop", "macOS"),
                 ("tablet", "iPadOS"), ("desktop", "Linux"))  # fmt: skip
_VERSIONS = ("5.2.1", "5.2.0", "5.1.7", "4.9.3")

_USER_ON_TOP, _USER_IN_CONTEXT, _USER_AS_ENTITY = range(3)
_STAMP_FINE, _STAMP_MILLIS, _STAMP_OFFSET, _STAMP_EPOCH = range(4)


_TYPE_TEXTS = pl.Series([f'","event_type":"{name}","timestamp":' for name in EVENT_TYPES])


class Envelopes:
    """Writes the events of a `Traffic` as JSON texts, and as the rows that they should become."""

    def __init__(self, traffic: Traffic) -> None:
        self._dice = traffic.dice
        self._details = traffic.details
        devices = np.arange(traffic.devices)
        users = [f"user-{n:06d}" for n in range(traffic.users)]
        self.device_ids = pl.Series([f"d_{n:016x}" for n in self._dice.bits("device id", devices).tolist()])
        self._user_ids = pl.Series([*users, None], dtype=pl.String)
        self._anonymous = len(users)
        self._counts_ids = self._dice.chance("counts ids", devices, 0.02)
        coarse = self._dice.choice("stamp", devices, (0.5, 0.25, 0.25)) + _STAMP_MILLIS
        self._stamp = np.where(traffic.fine_clock, _STAMP_FINE, coarse)
        self._user_place = self._dice.choice("user place", devices, (0.85, 0.08, 0.07))
        device_in_context = self._dice.chance("device in context", devices, 0.05)
        top = np.where(device_in_context, "", ',"device_id":"' + self.device_ids.to_numpy() + '"')
        self._device_on_top = pl.Series(top, dtype=pl.String)
        self._user_on_top, self._user_in_context = _user_texts(users)
        own = np.where(device_in_context, '"device_id":"' + self.device_ids.to_numpy() + '",', "")
        self._device_in_context = pl.Series(own, dtype=pl.String)
        self._contexts = _context_texts()
        kind = self._dice.below("kind", devices, len(_DEVICE_KINDS))
        country = self._dice.choice("country", devices, (0.35, 0.2, 0.15, 0.1, 0.05, 0.05, 0.03, 0.02, 0.05))
        version = self._dice.choice("version", devices, (0.5, 0.3, 0.15, 0.05))
        self._context = ((kind * len(_COUNTRIES) + country) * len(_VERSIONS) + version) * 3
        has_extra = self._dice.chance("extra", devices, 0.02)
        self._ends = pl.Series(np.where(has_extra, ',"sdk":"js-2.3.0"}\n', "}\n"), dtype=pl.String)
        self._properties, self._page_urls, self._revenues = _property_texts(traffic.details)

    def lines(self, events: Events, delivery: Ints) -> pl.Series:
        """The events as JSON lines.

        Args:
            events: The events to write, one line each.
            delivery: 0 for the first delivery of an event. A tenth of the later deliveries have different white space,
                as another serialiser would write; their content is the same.

        Returns:
            Binary, each with its line end.
        """
        number, device = events.number, events.device
        respaced = ((delivery > 0) & (number % 10 == 0)).astype(np.int64)
        kind = np.where(events.user == ANONYMOUS, self._anonymous, events.user)
        user = kind + self._user_place[device] * (self._anonymous + 1)
        context = self._context[device] + self._dice.choice("context", number, (0.95, 0.03, 0.02))
        # the tracker's own sessions end after 20 events
        tracker_session = events.session + (number - events.session) // 20 * 20
        parts = pl.DataFrame({
            "open": pl.Series(['{"event_id":"', '{ "event_id": "']).gather(respaced),
            "id": self._event_ids(events),
            "type": _TYPE_TEXTS.gather(events.type),
            "stamp": self._stamps(events),
            "device": self._device_on_top.gather(device),
            "user": self._user_on_top.gather(user),
            "session": pl.Series(tracker_session),
            "properties": self._properties.gather(events.type * self._details + events.detail),
            "context_user": self._user_in_context.gather(user),
            "context_device": self._device_in_context.gather(device),
            "context": self._contexts.gather(context),
            "end": self._ends.gather(device),
        })  # fmt: skip
        line = pl.concat_str(
            "open", "id", "type", "stamp", "device", "user", pl.lit(',"session_id":"s-'), "session",
            pl.lit('","properties":'), "properties", pl.lit(',"context":{'), "context_user", "context_device",
            "context", "end",
        )  # fmt: skip
        return parts.select(line.cast(pl.Binary)).to_series()

    def truth(self, events: Events) -> pa.Table:
        """The content of these events' lines, one row per event, with columns as in fact_events and `copies`."""
        which = events.type * self._details + events.detail
        user = np.where(events.user == ANONYMOUS, self._anonymous, events.user)
        frame = pl.DataFrame({
            "event_id": self._event_ids(events),
            "device_id": self.device_ids.gather(events.device),
            "user_id": self._user_ids.gather(user),
            "event_type": pl.Series(EVENT_TYPES).gather(events.type),
            "event_time": pl.Series(events.time).cast(pl.Datetime("us", "UTC")),
            "page_url": self._page_urls.gather(which),
            "copies": pl.Series(events.copies),
        })  # fmt: skip
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        return table.add_column(6, "revenue", self._revenues.take(pa.array(which)))

    def _event_ids(self, events: Events) -> pl.Series:
        """Event ids: UUIDs, or from a few trackers counters, which other devices use too."""
        number = events.number
        uuids = _uuids(self._dice.bits("id, left half", number), self._dice.bits("id, right half", number))
        frame = pl.DataFrame({"uuid": uuids, "nth": events.nth, "counts": self._counts_ids[events.device]})
        return frame.select(pl.when("counts").then(pl.concat_str(pl.lit("e-"), "nth")).otherwise("uuid")).to_series()

    def _stamps(self, events: Events) -> pl.Series:
        """Times as JSON values: UTC to the microsecond or millisecond, at +02:00, or epoch milliseconds."""
        style = self._stamp[events.device]
        local = events.time + np.where(style == _STAMP_OFFSET, 2 * HOUR, 0)
        frame = pl.DataFrame({"style": style, "time": events.time, "local": local}).with_columns(
            text=pl.col("local").cast(pl.Datetime("us")).dt.strftime('"%Y-%m-%dT%H:%M:%S%.6f')
        )
        to_millis = pl.col("text").str.head(24)
        return frame.select(
            pl.when(style=_STAMP_FINE).then(pl.col("text") + 'Z"')
            .when(style=_STAMP_MILLIS).then(to_millis + 'Z"')
            .when(style=_STAMP_OFFSET).then(to_millis + '+02:00"')
            .otherwise((pl.col("time") // 1000).cast(pl.String))
        ).to_series()  # fmt: skip


def _context_texts() -> pl.Series:
    """The contexts without their opening brace: three for each kind of device, country and version.

    The three are: the usual context; one with nulls; and one after a move to another country and an app update. The
    last country is null.
    """
    texts = []
    for kind, system in _DEVICE_KINDS:
        for country in range(len(_COUNTRIES)):
            for version in range(len(_VERSIONS)):
                usual: dict[str, object] = {"device_type": kind, "os": system, "country": _COUNTRIES[country]}
                usual["app_version"] = _VERSIONS[version]
                sparse: dict[str, object] = {"device_type": None, "country": None}
                moved: dict[str, object] = {
                    "country": _COUNTRIES[country - 1],
                    "app_version": _VERSIONS[version - 1],
                }
                texts += [_compact(context)[1:] for context in (usual, sparse, usual | moved)]
    return pl.Series(texts)


def _user_texts(users: list[str]) -> tuple[pl.Series, pl.Series]:
    """The texts at the top level and in the context, for each place of the user, each user, and then no user."""
    on_top = [f',"user_id":"{u}","entity_id":"{u}","entity_type":"user"' for u in users]
    on_top += [',"user_id":null']
    on_top += [',"user_id":null,"entity_id":"shop-7","entity_type":"shop"'] * (len(users) + 1)
    on_top += [f',"entity_id":"{u}","entity_type":"user"' for u in users]
    on_top += [',"entity_id":null,"entity_type":null']
    nothing = [""] * (len(users) + 1)
    return pl.Series(on_top), pl.Series([*nothing, *(f'"user_id":"{u}",' for u in users), "", *nothing])


def _property_texts(details: int) -> tuple[pl.Series, pl.Series, pa.Array]:
    """The properties as JSON, the page and the revenue of each variant of each event type."""
    texts: list[str] = []
    pages: list[str | None] = []
    revenues: list[Decimal | None] = []
    for kind in range(len(EVENT_TYPES)):
        for n in range(details):
            values, revenue = _properties(kind, n)
            # half of the variants escape non-ASCII characters
            texts.append(_compact(values, escaped=n % 2 == 0))
            pages.append(cast(str | None, values.get("page_url")))
            revenues.append(revenue)
    return pl.Series(texts), pl.Series(pages, dtype=pl.String), pa.array(revenues, MONEY)


def _properties(kind: int, n: int) -> tuple[dict[str, object], Decimal | None]:
    """Properties of the n-th variant of an event type, and the resulting revenue."""
    if kind == PURCHASE:
        return _order(n)
    product = f"{_SHOP}/product/{n}"
    section = f"{_SHOP}/{_SECTIONS[n % 8]}"
    query = _SEARCHES[n % 8]
    values: dict[int, dict[str, object]] = {
        PAGE_VIEW: {"page_url": section if n % 40 < 8 else f"{section}?page={n // 8}", "load_ms": n},
        CLICK: {"page_url": product if n % 3 else None, "element_id": _ELEMENTS[n % 6], "x": n, "y": 2 * n},
        PRODUCT_VIEW: {"page_url": product, "product_id": f"sku-{n}", "price": float(_price(n))},
        SEARCH: {"page_url": f"{_SHOP}/search?q={query}", "query": query, "results": n},
        ADD_TO_CART: {"page_url": product, "product_id": f"sku-{n}", "quantity": 1 + n % 3},
        LOGIN: {"method": "password" if n % 3 else "passkey"},
    }
    return values[kind], None


def _order(n: int) -> tuple[dict[str, object], Decimal | None]:
    """Properties of a purchase: most have a revenue, some an amount instead, some both, and a few neither."""
    price = _price(n)
    order: dict[str, object] = {"page_url": f"{_SHOP}/checkout", "order_id": f"o-{n}", "items": 1 + n % 5}
    if n % 50 == 0:
        return order, None
    if n % 10 == 0:
        return order | {"amount": float(price), "currency": "EUR"}, price
    if n % 10 == 1:
        return order | {"revenue": int(price), "amount": 1.5}, Decimal(int(price))
    return order | {"revenue": float(price), "currency": "EUR"}, price


def _price(n: int) -> Decimal:
    return Decimal(n * 7919 % 20_000 + 99) / 100


def _uuids(left: np.ndarray, right: np.ndarray) -> pl.Series:
    """UUID texts of 36 characters from 128 bits each."""
    count = len(left)
    octets = np.stack([left, right], axis=1).astype(">u8").view(np.uint8).reshape(count, 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.full((count, 36), ord("-"), np.uint8)
    for place in range(16):
        at = 2 * place + np.searchsorted([4, 6, 8, 10], place, side="right")
        text[:, at] = digits[octets[:, place] >> 4]
        text[:, at + 1] = digits[octets[:, place] & 15]
    offsets = pa.py_buffer(np.arange(0, 36 * count + 1, 36, dtype=np.int64))
    return pl.Series(pa.LargeStringArray.from_buffers(count, offsets, pa.py_buffer(text)))


def _compact(value: dict[str, object], *, escaped: bool = True) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=escaped)
