"""SubRip, WebVTT and TTML: what is written comes back, cue for cue; what is broken costs its cue."""

from __future__ import annotations

import html
import json
from fractions import Fraction
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers import timed_text_cues
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.media_language import bcp47
from headrace.ingest.normalizers.timed_text import TimedTextNormalizer
from headrace.ingest.normalizers.timed_text_srt import parse_srt, parse_webvtt, strip_srt, strip_webvtt
from headrace.ingest.normalizers.timed_text_track import strip_ass
from headrace.ingest.normalizers.timed_text_ttml import Clock, parse_ttml
from headrace.schemas.errors import RecordError

Cues = list[tuple[int, int, str]]  #: milliseconds, milliseconds, text

_LINE = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"], exclude_characters="\ufeff"),
    min_size=1,
    max_size=30,
).filter(lambda t: t.strip() == t and "-->" not in t)
_TEXT = st.lists(_LINE, min_size=1, max_size=3).map("\n".join)


@st.composite
def cue_lists(draw: st.DrawFn) -> Cues:
    """Cues in order of their start, as files have them."""
    at, cues = 0, []
    for text in draw(st.lists(_TEXT, min_size=1, max_size=8)):
        at += draw(st.integers(0, 4_000_000))
        cues.append((at, at + draw(st.integers(0, 60_000)), text))
    return cues


def stamp(ms: int, point: str) -> str:
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def srt(cues: Cues, newline: str = "\n", counters: bool = True) -> str:
    blocks = []
    for number, (start, end, text) in enumerate(cues):
        head = [str(number + 1)] if counters else []
        blocks.append("\n".join([*head, f"{stamp(start, ',')} --> {stamp(end, ',')}", text, ""]))
    return "\n".join(blocks).replace("\n", newline)


def webvtt(cues: Cues) -> str:
    blocks = ["WEBVTT - made by a test\nKind: captions\n", "STYLE\n::cue { color: red }\n", "NOTE not a cue\n"]
    for start, end, text in cues:
        blocks.append(
            f"a name\n{stamp(start, '.')} --> {stamp(end, '.')} align:start line:0\n{html.escape(text, quote=False)}\n"
        )
    return "\n".join(blocks)


def ttml(cues: Cues) -> bytes:
    ps = "".join(
        f'<p begin="{stamp(s, ".")}" end="{stamp(e, ".")}" xml:space="preserve">'
        + "<br/>".join(escape(line) for line in t.split("\n"))
        + "</p>"
        for s, e, t in cues
    )
    return f'<tt xmlns="http://www.w3.org/ns/ttml" xml:lang="fi"><body><div>{ps}</div></body></tt>'.encode()


def plain(transcript: timed_text_cues.Transcript) -> Cues:
    assert transcript.problems == ()
    return [(c.start_us // 1000, c.end_us // 1000, c.text) for c in transcript.cues]


def read(data: bytes, name: str = "clip.srt", **config: Any) -> tuple[list[dict[str, Any]], list[Bad]]:
    made = list(TimedTextNormalizer(TimedTextNormalizer.Config(**config)).open(Item(BytesBlob(name, data), None)))
    return [m.to_pylist()[0] for m in made if not isinstance(m, Bad)], [m for m in made if isinstance(m, Bad)]


@settings(max_examples=80, deadline=None)
@given(cue_lists(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_subrip_comes_back(cues: Cues, newline: str, counters: bool) -> None:
    wanted = [(s, e, strip_srt(t)) for s, e, t in cues]
    if not counters:  # without counters a last line of digits cannot be told from one
        wanted = [w for w in wanted if not any(line.strip().isdigit() for line in w[2].split("\n"))]
        cues = [c for c in cues if not any(line.strip().isdigit() for line in strip_srt(c[2]).split("\n"))]
    assert plain(parse_srt(srt(cues, newline, counters))) == wanted


@settings(max_examples=80, deadline=None)
@given(cue_lists())
def test_webvtt_comes_back(cues: Cues) -> None:
    assert plain(parse_webvtt(webvtt(cues))) == cues


@settings(max_examples=80, deadline=None)
@given(cue_lists())
def test_ttml_comes_back(cues: Cues) -> None:
    transcript = parse_ttml(ttml(cues))
    assert plain(transcript) == cues and transcript.language == "fi"


@settings(max_examples=50, deadline=None)
@given(cue_lists())
def test_a_record_holds_every_cue_at_its_place(cues: Cues) -> None:
    (record,), bads = read(ttml(cues), "clip.ttml")
    extra = json.loads(record["extra"])
    assert bads == [] and record["language"] == "fi" and extra["timed_text"] == "ttml"
    assert [(s // 1000, e // 1000, record["text"][a:b]) for s, e, a, b in extra["cues"]] == cues
    assert record["text"] == "\n".join(text for _, _, text in cues)


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for head in (b"", b"WEBVTT\n\n", b"<tt><body>", b"00:00:01,0 --> 00:00:02,0\n"):
        for name in ("a.srt", "a.vtt", "a.ttml"):
            try:
                read(head + data, name)
            except RecordError as exc:
                assert exc.reason.split(":")[0] in (
                    "corrupt",
                    "empty",
                    "bad_encoding",
                    "unsupported",
                    "bomb",
                    "truncated",
                )


def test_a_sloppy_subrip_file_gives_what_it_can() -> None:
    text = (
        '\ufeff1\r\n00:00:01,5 --> 00:00:02,25  X1:40 X2:600\r\n'
        '{\\an8}<i>Hi</i> <font color="#fff">you</font> <3\r\n\r\n'
        "7\n1:00:00.000-->1:00:01.000\nno spaces, points\n\nan empty line inside\n\n"
        "8\n00:00:09,000 --> nine\nlost\n\n"
        "9\n00:00:05,000 --> 00:00:04,000\nbackwards\n"
    )
    (record,), (bad,) = read(text.encode(), "clip.en-GB.srt")
    cues = json.loads(record["extra"])["cues"]
    assert [c[:2] for c in cues] == [[1_500_000, 2_250_000], [3_600_000_000, 3_601_000_000]]
    assert record["text"] == "Hi you <3\nno spaces, points\n\nan empty line inside"
    assert record["flags"] == ["cues_left_out:2"] and record["language"] == "en-GB"
    assert bad.reason == "invalid_row" and "nine" in bad.message and json.loads(bad.locator)["cues_left_out"] == 2


def test_cues_come_in_order_of_time() -> None:
    (record,), _ = read(b"1\n00:00:09,000 --> 00:00:10,000\nlater\n\n2\n00:00:01,000 --> 00:00:02,000\nsooner\n")
    assert record["text"] == "sooner\nlater"


def test_markup_goes_and_text_stays() -> None:
    assert strip_webvtt("<v Anna>Hello</v> &amp; <c.loud>good</c> <00:00:01.000>bye&lrm;") == "Hello & good bye\u200e"
    assert strip_srt("a < b, <b>bold</b>, {not an override}") == "a < b, bold, {not an override}"
    assert strip_ass(r"{\i1}One\Ntwo\hthree{\p1}m 0 0 l 1 1{\p0}!") == "One\ntwo three!"


def test_webvtt_needs_its_signature() -> None:
    with pytest.raises(ValueError, match="WEBVTT"):
        parse_webvtt("WEBVTTX\n\n00:01.000 --> 00:02.000\nx")
    assert plain(parse_webvtt("WEBVTT\r\r01:01.000 --> 01:02.000\rx")) == [(61_000, 62_000, "x")]


@pytest.mark.parametrize(
    ("data", "config", "text"),
    [
        ("1\n00:00:01,000 --> 00:00:02,000\nä".encode("utf-16"), {}, "ä"),
        ("\ufeff1\n00:00:01,000 --> 00:00:02,000\nä".encode("utf-16-be"), {}, "ä"),
        ("1\n00:00:01,000 --> 00:00:02,000\nä".encode("cp1252"), {"encoding": "cp1252"}, "ä"),
    ],
)
def test_encodings_are_told_by_mark_or_by_the_user(data: bytes, config: dict[str, str], text: str) -> None:
    normalizer = TimedTextNormalizer(TimedTextNormalizer.Config(**config))
    (made,) = normalizer.open(Item(BytesBlob("a.srt", data), None, headers={"format": "srt"}))
    assert not isinstance(made, Bad) and made.to_pylist()[0]["text"] == text


def test_an_unknown_encoding_is_bad_encoding_and_a_wrong_setting_stops() -> None:
    with pytest.raises(RecordError) as caught:
        read("1\n00:00:01,000 --> 00:00:02,000\nä".encode("cp1252"))
    assert caught.value.reason == "bad_encoding"
    with pytest.raises(ValidationError, match="encoding"):
        TimedTextNormalizer.Config(encoding="cp9999")


TT = (
    '<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter" '
    'xmlns:ttm="http://www.w3.org/ns/ttml#metadata" ttp:frameRate="30" ttp:frameRateMultiplier="1000 1001" '
    'ttp:tickRate="10000000" xml:lang="en"><head><layout/></head><body{body}>{inside}</body></tt>'
)


def cues_of(inside: str, body: str = "") -> Cues:
    return plain(parse_ttml(TT.format(inside=inside, body=body).encode()))


def test_ttml_times_are_relative_to_the_parent_and_cannot_outlast_it() -> None:
    div = '<div begin="10s" dur="5s"><p begin="1s" end="2s">a</p><p begin="4s" dur="9s">b</p><p>c</p></div>'
    assert cues_of(div, ' begin="100s"') == [(111_000, 112_000, "a"), (114_000, 115_000, "b"), (110_000, 115_000, "c")]


def test_ttml_in_sequence_follows_the_sibling_before() -> None:
    div = '<div timeContainer="seq"><p dur="2s">a</p><p begin="1s" dur="2s">b</p></div>'
    assert cues_of(div) == [(0, 2_000, "a"), (3_000, 5_000, "b")]


def test_ttml_spans_with_times_are_cues_and_others_are_text() -> None:
    p = '<p begin="1s" end="9s">One <span>two</span><br/>three<metadata><ttm:desc>no</ttm:desc></metadata></p>'
    assert cues_of(f"<div>{p}</div>") == [(1_000, 9_000, "One two\nthree")]
    p = '<p begin="1s" end="9s"><span begin="0s" end="1s">a</span> <span begin="1s">b</span></p>'
    assert cues_of(f"<div>{p}</div>") == [(1_000, 2_000, "a"), (2_000, 9_000, "b")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("01:02:03", Fraction(3723)),
        ("01:02:03.25", Fraction(14893, 4)),
        ("00:00:01:15", 1 + Fraction(15 * 1001, 30_000)),
        ("00:00:00:15.1", (15 + Fraction(1, 2)) * Fraction(1001, 30_000)),
        ("1.5h", Fraction(5400)),
        ("2m", Fraction(120)),
        ("1500ms", Fraction(3, 2)),
        ("30f", 30 * Fraction(1001, 30_000)),
        ("5000000t", Fraction(1, 2)),
    ],
)
def test_ttml_time_expressions_are_exact(value: str, seconds: Fraction) -> None:
    assert Clock(Fraction(30_000, 1001), 2, Fraction(10_000_000)).seconds(value) == seconds


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'<!DOCTYPE tt [<!ENTITY a "b">]><tt/>', "bomb"),
        (b'<!DOCTYPE tt SYSTEM "http://127.0.0.1:9/x.dtd"><tt/>', "bomb"),
        (b"<tt><body>", "corrupt"),
        (b"<html/>", "corrupt"),
        (TT.format(inside="", body="").encode().replace(b'"30"', b'"0"'), "corrupt"),
    ],
)
def test_ttml_that_is_none_or_wants_entities_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse_ttml(data)
    assert caught.value.reason == reason


def test_ttml_that_nests_without_end_is_cut_short_with_a_problem() -> None:
    deep = "<div>" * 5000 + '<p begin="0s" end="1s">deep</p>' + "</div>" * 5000
    assert parse_ttml(TT.format(inside=deep, body="").encode()).problems


def test_a_very_long_track_is_divided_between_cues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_text_cues, "MAX_CHARACTERS", 40)
    cues = [(1000 * i, 1000 * i + 500, f"cue number {i}") for i in range(10)]
    records, _ = read(srt(cues).encode())
    assert [(r["part"], r["parts"]) for r in records] == [(i, 4) for i in range(4)]
    assert "\n".join(r["text"] for r in records) == "\n".join(t for _, _, t in cues)
    assert len({r["locator"] for r in records}) == 4


def test_nothing_but_silence_is_empty() -> None:
    for data, name in [(b"WEBVTT\n\nNOTE none\n", "a.vtt"), (b"1\n00:00:01,000 --> 00:00:02,000\n \n", "a.srt")]:
        with pytest.raises(RecordError) as caught:
            read(data, name)
        assert caught.value.reason == "empty"


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("eng", "en"),
        ("ger", "de"),
        ("deu", "de"),
        ("fil", "fil"),
        ("pt-BR", "pt-BR"),
        ("und", None),
        ("", None),
        ("???", None),
    ],
)
def test_language_codes_become_bcp47(code: str, tag: str | None) -> None:
    assert bcp47(code) == tag
