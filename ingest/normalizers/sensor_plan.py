"""What the columns of a table are: which is time, which names the device or the channel, which are numbers, which text.

    wide   time, a, b, c              → channels a, b, c
    long   time, device, a            → channel a of each device
    long   time, parameter, value     → a channel of each parameter's name, with the unit of a `unit` column

Found by names and types in the first chunk, unless the settings say; a column that names devices has few values.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers import sensor_clock
from headrace.ingest.normalizers.sensor_columns import Leaf, channel_of, is_variant, leaves, value_type
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_instants import is_text
from headrace.ingest.normalizers.sensor_series import Channel
from headrace.ingest.normalizers.sensor_units import to_ucum
from headrace.schemas.errors import RecordError

DEVICE_NAMES = frozenset(
    [
        "device",
        "device_id",
        "deviceid",
        "device_name",
        "sensor",
        "sensor_id",
        "sensorid",
        "station",
        "station_id",
        "stationid",
        "station_name",
        "site",
        "site_id",
        "instance",
        "instance_id",
        "host",
        "hostname",
        "node",
        "node_id",
        "machine",
        "machine_id",
        "asset",
        "asset_id",
        "vehicle",
        "vehicle_id",
        "meter",
        "meter_id",
        "buoy",
        "buoy_id",
        "series",
        "series_id",
        "unique_id",
        "item_id",
        "mmsi",
        "imei",
        "location",
        "location_id",
        "well",
        "well_id",
        "turbine",
        "turbine_id",
        "patient_id",
    ]
)
CHANNEL_NAMES = frozenset(
    ["parameter", "variable", "metric", "measurement", "channel", "signal", "quantity", "tag", "element", "indicator"]
)
VALUE_NAMES = frozenset(["value", "val", "reading", "result", "measurement", "data_value", "y"])
UNIT_NAMES = frozenset(["unit", "units", "uom"])
LATITUDES = ("lat", "latitude", "lat_deg", "gps_lat", "gps_latitude", "position_lat")
LONGITUDES = ("lon", "lng", "long", "longitude", "lon_deg", "gps_lon", "gps_lng", "gps_longitude", "position_long")


def is_value(name: str) -> bool:
    """Whether a column of a long table is the one of the values."""
    return name.strip().lower() in VALUE_NAMES


class Plan:
    """The parts that the columns of one table play. Raises: RecordError `missing_field`, `wrong_type`, `no_time`."""

    def __init__(
        self,
        first: pa.RecordBatch,
        config: SensorConfig,
        units: Mapping[str, str] | None = None,
        position: tuple[str, str] | None = None,
        clock: sensor_clock.Clock | None = None,
    ) -> None:
        self.config = config
        self._units = dict(units or {})
        self.clock = clock or sensor_clock.choose(first, config)
        self.unsupported = [f.name for f in first.schema if is_variant(value_type(f.type))]
        self.leaves = leaves(first.schema, self.unsupported)
        self.device = self._key_column(first, config.device, DEVICE_NAMES)
        self.names = self._channel_column(first)
        self.clock.repeats = self.device is None and self.names is None
        self.unit = next(
            (x for x in self.leaves if self.names and x.name.lower() in UNIT_NAMES and is_text(value_type(x.type))),
            None,
        )
        used = {*self.clock.columns, *(x.top for x in (self.device, self.names, self.unit) if x)}
        self.numbers, self.channels = self._channel_leaves(
            [x for x in self.leaves if x.is_number and x.top not in used]
        )
        #: Which channels bear the name that `names` gives them in each row; the others are those of a wide table.
        self.long = [i for i, x in enumerate(self.numbers) if self.names is not None and is_value(x.name)]
        self.texts = [x for x in self.leaves if not x.is_number and x.top not in used]
        if not self.numbers:
            self.texts = self.leaves
        if not config.keeps_text:
            self.texts = []
        self.shown = self._shown()
        self.position = self._find_position(position)

    def _key_column(self, first: pa.RecordBatch, setting: str | None, names: frozenset[str]) -> Leaf | None:
        if setting is None:
            return None
        if setting != "auto":
            found = next((x for x in self.leaves if x.name == setting), None)
            if found is None:
                raise RecordError("missing_field", f"no column {setting!r}; there are {self._listed()}")
            return found
        for leaf in self.leaves:
            kind = value_type(leaf.type)
            if (
                leaf.name.strip().lower() in names
                and leaf.top not in self.clock.columns
                and (is_text(kind) or pa.types.is_integer(kind))
            ):
                distinct = len(pc.unique(leaf.read(first)))
                if distinct == 1 or (distinct <= 10_000 and 2 * distinct <= first.num_rows):
                    return leaf
        return None

    def _channel_column(self, first: pa.RecordBatch) -> Leaf | None:
        if self.config.channel != "auto":
            return self._key_column(first, self.config.channel, CHANNEL_NAMES)
        if not any(x.is_number and is_value(x.name) for x in self.leaves):
            return None
        leaf = self._key_column(first, "auto", CHANNEL_NAMES)
        return leaf if leaf is not None and is_text(value_type(leaf.type)) else None

    def _channel_leaves(self, found: list[Leaf]) -> tuple[list[Leaf], list[Channel]]:
        taken: set[str] = set()
        channels: list[Channel] = []
        for leaf in found:
            channel = channel_of(leaf, taken)
            if leaf.name in self._units and channel.unit is None:
                unit = to_ucum(self._units[leaf.name])
                extra = (
                    channel.extra
                    if unit or not self._units[leaf.name]
                    else {**channel.extra, "unit": self._units[leaf.name]}
                )
                channel = Channel(channel.name, unit, extra, channel.transforms)
            taken.add(channel.name)
            channels.append(channel)
        wanted = self.config.channels
        if wanted == "all":
            return found, channels
        kept: list[tuple[Leaf, Channel]] = []
        for name, unit in wanted.items():
            index = next((i for i, (x, c) in enumerate(zip(found, channels)) if name in (x.name, c.name)), None)
            if index is None:
                other = next((x for x in self.leaves if x.name == name), None)
                if other is not None:
                    raise RecordError("wrong_type", f"column {name!r} is {other.type}, a channel is a number")
                raise RecordError("missing_field", f"no column {name!r}; there are {self._listed()}")
            channel = channels[index]
            kept.append((found[index], Channel(channel.name, unit or channel.unit, channel.extra, channel.transforms)))
        return [leaf for leaf, _ in kept], [channel for _, channel in kept]

    def _find_position(self, known: tuple[str, str] | None) -> tuple[int, int] | None:
        names = [c.name.strip().lower().rsplit(".", 1)[-1] for c in self.channels]
        full = [c.name for c in self.channels]
        if known is not None and set(known) <= set(full):
            return full.index(known[0]), full.index(known[1])
        lat = next((names.index(n) for n in LATITUDES if n in names), None)
        lon = next((names.index(n) for n in LONGITUDES if n in names), None)
        return None if lat is None or lon is None else (lat, lon)

    def _shown(self) -> list[Leaf]:
        """The columns of a line of text: besides the texts themselves what says when and whose they are."""
        wanted = self.config.text_column
        if wanted:
            found = [leaf for leaf in self.leaves if leaf.name == wanted]
            if not found:
                raise RecordError("missing_field", f"no column {wanted!r}; there are {self._listed()}")
            return found
        if not self.texts or not self.numbers:
            return self.texts
        context = [x for x in self.leaves if x.top in self.clock.columns or x in (self.device, self.names)]
        return [x for x in self.leaves if x in context or x in self.texts]

    def _listed(self) -> str:
        return ", ".join(x.name for x in self.leaves)[:500]
