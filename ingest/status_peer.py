"""Whose process is at the other end of a loopback connection.

Loopback is shared by every user of a machine (a login node, say), so an address alone proves nothing. Linux lists the
owner of every TCP socket in /proc/net/tcp and tcp6:

      sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid …
       0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000 …

Addresses are hexadecimal words in the machine's byte order, ports are hexadecimal.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

Place = tuple[str, int]  #: (address, port)


#: The owner of a socket that no table lists: of another network namespace, or gone.
NOBODY = -1


def same_user(peer: Place, own: Place) -> bool | None:
    """Whether the process that connected from `peer` to us at `own` is ours or root's; None where nothing can tell."""
    uid = owner(peer, own)
    return None if uid is None else uid in (os.geteuid(), 0)


def owner(peer: Place, own: Place) -> int | None:
    """The user id that owns the socket whose local end is `peer` and whose remote end is `own`.

    NOBODY if no table lists it; None where there are no tables, as on systems other than Linux.
    """
    found = None
    for table in ("tcp", "tcp6"):
        try:
            lines = (Path("/proc/net") / table).read_text(encoding="ascii").splitlines()
        except OSError:
            continue  # not Linux, or no IPv6
        uid = find_owner(lines, peer, own)
        if uid is not None:
            return uid
        found = NOBODY
    return found


def find_owner(lines: Iterable[str], peer: Place, own: Place) -> int | None:
    """The user id in the line of a connection, None if there is none."""
    wanted = {f"{a} {b}" for a, b in zip(_written(peer), _written(own))}
    for line in lines:
        fields = line.split()
        if len(fields) > 7 and f"{fields[1]} {fields[2]}" in wanted:
            return int(fields[7])
    return None


def _written(place: Place) -> list[str]:
    """An address as the tables write it: as itself, and for IPv4 also mapped into IPv6."""
    address, port = place
    if ":" in address:
        packed = [socket.inet_pton(socket.AF_INET6, address.partition("%")[0])]
    else:
        four = socket.inet_pton(socket.AF_INET, address)
        packed = [four, b"\0" * 10 + b"\xff\xff" + four]
    out = []
    for raw in packed:
        words = struct.unpack(f"={len(raw) // 4}I", raw)
        out.append("".join(f"{word:08X}" for word in words) + f":{port:04X}")
    return out
