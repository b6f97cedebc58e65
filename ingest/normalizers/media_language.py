"""Language codes of media files (ISO 639-2) as BCP 47 wants them: two letters where ISO 639-1 has two."""

from __future__ import annotations

import re

#: ISO 639-2 code, bibliographic or terminological, followed by the ISO 639-1 code of the same language.
_TABLE = """
aar aa abk ab afr af aka ak alb sq sqi sq amh am ara ar arg an arm hy hye hy asm as ava av ave ae aym ay aze az bak ba
bam bm baq eu eus eu bel be ben bn bis bi bos bs bre br bul bg bur my mya my cat ca cha ch che ce chi zh zho zh chu cu
chv cv cor kw cos co cre cr cze cs ces cs dan da div dv dut nl nld nl dzo dz eng en epo eo est et ewe ee fao fo fij fj
fin fi fre fr fra fr fry fy ful ff geo ka kat ka ger de deu de gla gd gle ga glg gl glv gv gre el ell el grn gn guj gu
hat ht hau ha heb he her hz hin hi hmo ho hrv hr hun hu ibo ig ice is isl is ido io iii ii iku iu ile ie ina ia ind id
ipk ik ita it jav jv jpn ja kal kl kan kn kas ks kau kr kaz kk khm km kik ki kin rw kir ky kom kv kon kg kor ko kua kj
kur ku lao lo lat la lav lv lim li lin ln lit lt ltz lb lub lu lug lg mac mk mkd mk mah mh mal ml mao mi mri mi mar mr
may ms msa ms mlg mg mlt mt mon mn nau na nav nv nbl nr nde nd ndo ng nep ne nno nn nob nb nor no nya ny oci oc oji oj
ori or orm om oss os pan pa per fa fas fa pli pi pol pl por pt pus ps que qu roh rm rum ro ron ro run rn rus ru sag sg
san sa sin si slo sk slk sk slv sl sme se smo sm sna sn snd sd som so sot st spa es srd sc srp sr ssw ss sun su swa sw
swe sv tah ty tam ta tat tt tel te tgk tg tgl tl tha th tib bo bod bo tir ti ton to tsn tn tso ts tuk tk tur tr twi tw
uig ug ukr uk urd ur uzb uz ven ve vie vi vol vo wel cy cym cy wln wa wol wo xho xh yid yi yor yo zha za zul zu
"""
_CODES = _TABLE.split()
_SHORT = dict(zip(_CODES[::2], _CODES[1::2]))
_KNOWN = frozenset(_SHORT.values())
_SHAPE = re.compile(r"^[a-z]{2,3}(-[a-z0-9]{2,8})*$", re.IGNORECASE)


def bcp47(code: str | None) -> str | None:
    """The language tag for a code found in a file; None if it names none (`und`, `zxx`, `mis`, `mul`, not a code)."""
    if not code or not _SHAPE.match(code := code.strip().replace("_", "-")):
        return None
    first, _, rest = code.partition("-")
    first = first.lower()
    if first in ("und", "zxx", "mis", "mul"):
        return None
    first = _SHORT.get(first, first)
    return f"{first}-{rest}" if rest else first


def is_known(code: str) -> bool:
    """Whether a code is listed above, its region aside; for guessing a language from a file's name."""
    first = code.replace("_", "-").split("-")[0].lower()
    return first in _SHORT or first in _KNOWN
