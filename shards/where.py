"""`--where`: a condition on columns, written as in SQL, as an Arrow expression.

    license = 'CC-BY-NC-4.0' and event_time < '2020-01-01'
    uri like 'north/%' or flags_count is null
    not (fold in ('validation', 'test')) and length >= 1000

Knows =, !=, <>, <, <=, >, >=, [NOT] IN (…), [NOT] LIKE, IS [NOT] NULL, AND, OR, NOT, parentheses, strings in single
quotes ('' for a quote), numbers, TRUE, FALSE. Times are strings in ISO 8601, UTC unless they say otherwise. As in SQL a
comparison with a null is neither true nor false, and a row is chosen only where the whole is true.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.schemas.errors import ConfigError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?P<string>'(?:[^']|'')*')"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign><=|>=|<>|!=|=|<|>|\(|\)|,))"
)
_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_KEYWORDS = {"and", "or", "not", "in", "like", "is", "null", "true", "false"}


def parse_where(text: str, schema: pa.Schema) -> pc.Expression:
    """The expression. Raises: ConfigError that shows the place, or names the columns there are."""
    parser = _Parser(text, schema)
    expression = parser.either()
    if parser.kind:
        raise parser.error("the end")
    return expression


class _Parser:
    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema, self._end = text, schema, 0
        self.kind, self.value = "", ""
        self._next()

    def error(self, wanted: str) -> ConfigError:
        return ConfigError(
            f"expected {wanted} at character {self._at + 1}, found {self.value or 'the end'!r}",
            field="where",
            value=self._text,
        )

    def _next(self) -> None:
        self._at = self._end
        match = _TOKEN.match(self._text, self._end)
        if match is None:
            rest = self._text[self._end :].strip()
            self.kind, self.value = ("bad", rest[:20]) if rest else ("", "")
            return
        self._at, self._end = match.start() + len(match.group()) - len(match.group().lstrip()), match.end()
        self.kind, self.value = str(match.lastgroup), str(match.group(str(match.lastgroup)))
        if self.kind == "word" and self.value.lower() in _KEYWORDS:
            self.kind, self.value = "keyword", self.value.lower()

    def _take(self, *values: str) -> str:
        if self.kind in ("keyword", "sign") and self.value in values:
            value = self.value
            self._next()
            return value
        return ""

    def _need(self, value: str) -> None:
        if not self._take(value):
            raise self.error(repr(value))

    def either(self) -> pc.Expression:
        left = self._both()
        while self._take("or"):
            left = pc.or_kleene(left, self._both())
        return left

    def _both(self) -> pc.Expression:
        left = self._negated()
        while self._take("and"):
            left = pc.and_kleene(left, self._negated())
        return left

    def _negated(self) -> pc.Expression:
        if self._take("not"):
            return pc.invert(self._negated())
        if self._take("("):
            inner = self.either()
            self._need(")")
            return inner
        return self._comparison()

    def _comparison(self) -> pc.Expression:
        if self.kind != "word":
            raise self.error("a column")
        if self.value not in self._schema.names:
            raise ConfigError(
                f"no column {self.value!r}; there are {', '.join(self._schema.names)}", field="where", value=self._text
            )
        column, kind = pc.field(self.value), self._schema.field(self.value).type
        self._next()
        if self._take("is"):
            negated = self._take("not")
            self._need("null")
            return column.is_valid() if negated else column.is_null()
        if sign := self._take(*_COMPARE):
            return _COMPARE[sign](column, self._constant(kind))
        negated = self._take("not")
        if self._take("in"):
            self._need("(")
            values = [self._constant(kind)]
            while self._take(","):
                values.append(self._constant(kind))
            self._need(")")
            found = _COMPARE["="](column, values[0])
            for value in values[1:]:
                found = pc.or_kleene(found, _COMPARE["="](column, value))
        elif self._take("like"):
            if self.kind != "string":
                raise self.error("a pattern in quotes")
            found = pc.match_like(column, self._string())
        else:
            raise self.error("a comparison")
        return pc.invert(found) if negated else found

    def _string(self) -> str:
        value = self.value[1:-1].replace("''", "'")
        self._next()
        return value

    def _constant(self, kind: pa.DataType) -> pa.Scalar:
        value: Any
        if self.kind == "string":
            value = self._string()
        elif self.kind == "number":
            value = float(self.value) if re.search(r"[.eE]", self.value) else int(self.value)
            self._next()
        elif word := self._take("true", "false"):
            value = word == "true"
        else:
            raise self.error("a string in single quotes, a number, TRUE or FALSE")
        try:
            if pa.types.is_timestamp(kind):
                moment = datetime.fromisoformat(value)
                value = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            elif pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
                value = bytes.fromhex(value)
            elif pa.types.is_integer(kind) and isinstance(value, float):
                return pa.scalar(value, pa.float64())
            elif pa.types.is_floating(kind) and type(value) in (int, float):
                return pa.scalar(float(value), pa.float64())
            return pa.scalar(value, type=kind)
        except (ValueError, TypeError, pa.ArrowException) as exc:
            raise ConfigError(f"{value!r} does not compare with a column of type {kind}: {exc}", field="where") from exc
