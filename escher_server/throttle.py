"""Slows down who tries wrong tokens: by the address of the peer, in bounded memory.

An address may send `BURST` wrong tokens at once and one more every `REFILL_SECONDS`; beyond that
it gets 429 with ``Retry-After``. Addresses of IPv6 count by their /64, which is one customer's.
At most `MAX_PEERS` addresses are remembered, the ones heard of last.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from escher_server.problems import Problem

BURST = 10
REFILL_SECONDS = 6.0
MAX_PEERS = 10_000
MAX_SEEN = 10_000
_TOO_MANY = 429


class Throttle:
    """Counts wrong tokens by peer; safe between threads. ``clock`` gives seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at: OrderedDict[str, float] = OrderedDict()  # when all is forgiven
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, peer: str | None) -> None:
        """429 while the address has sent too many wrong tokens."""
        with self._lock:
            owed = self._free_at.get(_place(peer), 0.0) - self._clock()
        wait = owed - (BURST - 1) * REFILL_SECONDS
        if wait > 0:
            raise Problem(
                _TOO_MANY,
                "Too many wrong tokens came from this address.",
                retry_after=math.ceil(wait),
            )

    def wrong(self, peer: str | None) -> None:
        """Note a wrong token."""
        place, now = _place(peer), self._clock()
        with self._lock:
            self._free_at[place] = max(self._free_at.get(place, now), now) + REFILL_SECONDS
            self._free_at.move_to_end(place)
            while len(self._free_at) > MAX_PEERS:
                self._free_at.popitem(last=False)

    def right(self, peer: str | None, token_hash: str) -> None:
        """Note that a right token came from here; it takes back none of the wrong ones."""
        pair = (_place(peer), token_hash)
        with self._lock:
            self._seen[pair] = None
            self._seen.move_to_end(pair)
            while len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)

    def has_seen(self, peer: str | None, token_hash: str) -> bool:
        """Whether this very token was right, from this address, since the server was started."""
        with self._lock:
            return (_place(peer), token_hash) in self._seen


def _place(peer: str | None) -> str:
    """What counts as one address."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return peer or ""
    if address.version == 6:  # noqa: PLR2004  the version of the protocol
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
