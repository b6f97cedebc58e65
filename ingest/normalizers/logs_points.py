"""Point clouds of logged messages as arrays: sensor_msgs/PointCloud2 and foxglove.PointCloud.

A cloud whose fields are all of one type and fill each point becomes (points, fields) of that type; any other becomes
(points, bytes of a point) uint8. What the bytes mean stands in `extra`, so nothing is lost either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import RecordError

#: PointField.datatype of ROS, and PackedElementField.type of Foxglove, as numpy types.
_ROS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_FOXGLOVE = {1: "u1", 2: "i1", 3: "u2", 4: "i2", 5: "u4", 6: "i4", 7: "f4", 8: "f8"}


def points(message: Mapping[str, Any], data: bytes) -> tuple[npt.NDArray[Any], list[str], dict[str, Any]]:
    """(array, names of its dimensions, what its bytes mean). Raises: RecordError `inconsistent`."""
    foxglove = "point_stride" in message
    step = int(message.get("point_stride" if foxglove else "point_step") or 0)
    types = _FOXGLOVE if foxglove else _ROS
    fields = [
        (
            str(f.get("name")),
            int(f.get("offset") or 0),
            types.get(int(f.get("type" if foxglove else "datatype") or 0)),
            int(f.get("count") or 1),
        )
        for f in message.get("fields") or ()
    ]
    if step <= 0:
        raise RecordError("inconsistent", f"a point cloud whose points take {step} bytes")
    rows, row_step = 1, len(data)
    count = len(data) // step
    if not foxglove:
        rows, width = int(message.get("height") or 0), int(message.get("width") or 0)
        row_step, count = int(message.get("row_step") or 0) or width * step, rows * width
        if rows and (row_step < width * step or rows * row_step > len(data)):
            raise RecordError(
                "inconsistent", f"a point cloud of {rows} x {width} points of {step} bytes in {len(data)} bytes"
            )
        per_row = width
    else:
        per_row = count
    raw = (
        np.frombuffer(data, np.uint8, count=rows * row_step).reshape(rows, row_step)[:, : per_row * step]
        if count
        else np.empty((0, step), np.uint8)
    )
    cloud = np.ascontiguousarray(raw).reshape(count, step)
    order: Literal["<", ">"] = ">" if message.get("is_bigendian") else "<"
    extra = {
        "fields": [{"name": n, "offset": o, "type": t, "count": c} for n, o, t, c in fields],
        "point_step": step,
        "byte_order": order,
    }
    if not foxglove:
        extra |= {"height": rows, "width": per_row}
    kind = _one_type(fields, step)
    if kind is None or count == 0:
        return cloud, ["point", "byte"], extra
    values = cloud.view(np.dtype(kind).newbyteorder(order)).astype(np.dtype(kind))
    extra["names"] = [
        n if c == 1 else f"{n}[{i}]" for n, _, _, c in sorted(fields, key=lambda f: f[1]) for i in range(c)
    ]
    return values, ["point", "field"], extra


def _one_type(fields: Sequence[tuple[str, int, str | None, int]], step: int) -> str | None:
    """The type of all fields, if they follow each other without a hole."""
    kinds = {kind for _, _, kind, _ in fields}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind is None:
        return None
    size, at = np.dtype(kind).itemsize, 0
    for _, offset, _, count in sorted(fields, key=lambda f: f[1]):
        if offset != at:
            return None
        at += size * count
    return kind if at == step else None
