"""Text files as tools all over the world write them: read where the encoding is known."""

from __future__ import annotations

import codecs
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from sssd.data.faults import DataError

UNKNOWN = "\ufffd"  # stands for each byte beyond ASCII of a text whose encoding nobody says
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
DECLARATION = re.compile(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)")
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932"}  # what writers really mean


def read_text(path: Path) -> str:
    """Read a text file: by its byte order mark, or as UTF-8; `require_known` guards the rest.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    return _decode(_read(path), "utf-8")


def read_json(path: Path) -> Any:
    """Read a json file in any of the encodings of Unicode.

    Raises:
        DataError: the file is missing, cannot be read, or is no json.
    """
    data = _read(path)
    text = _decode(data, json.detect_encoding(data))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        require_known(path, text)
        raise DataError(f"{path}: not a json file: {error}") from None


def read_xml(path: Path) -> ElementTree.Element:
    """Read an xml file by the encoding that it declares, also those that expat does not know.

    Raises:
        DataError: the file is missing, cannot be read, or is no xml.
    """
    data = _read(path)
    declared = DECLARATION.match(data)
    text = _decode(data, declared[1].decode().lower() if declared else "utf-8")
    try:
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, count=1, flags=re.S))
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not an xml file: {error}") from None


def lines_of(text: str) -> list[str]:
    """Give the lines of a text: `splitlines` also splits at form feeds and Unicode's separators."""
    return re.split(r"\r\n?|\n", text)


def require_known(path: str | Path, text: str) -> None:
    """Refuse a text that is needed but not known."""
    if UNKNOWN in text:
        sample = next(line for line in lines_of(text) if UNKNOWN in line).strip()[:60]
        raise DataError(
            f"{path}: {sample!r} is not UTF-8, and its encoding is unknown; save the file as UTF-8 "
            "(for example with `iconv -f GBK -t UTF-8`, or -f SHIFT_JIS, LATIN1)"
        )


def _read(path: Path) -> bytes:
    if not path.is_file():
        what = "is a folder or a device, not a file" if path.exists() else "does not exist"
        raise DataError(f"{path}: the file {what}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read: {error}") from error


def _decode(data: bytes, encoding: str) -> str:
    for mark, stated in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(stated, "replace")
    try:
        return data.decode(WIDER.get(encoding, encoding))
    except (UnicodeError, LookupError):  # no UTF-8, or an encoding that is none
        return data.decode("ascii", "replace")
