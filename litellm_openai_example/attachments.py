"""Files as parts of a prompt: text under its name, images and PDFs as the APIs' own parts."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .json_object import JsonObject

ApiName = Literal["chat", "responses"]
Path_ = str | os.PathLike[str]

MAX_FILE = 32 * 1024 * 1024  # bytes of one file
MAX_FILES = 36 * 1024 * 1024  # bytes of all files; as base64 they stay below OpenAI's limit of 50 MB
_IMAGES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
_WHITE = b"\t\n\x0b\x0c\r\x1b"  # control characters of texts, such as the colour escapes of a log


def file_part(path: Path_, api: ApiName = "responses") -> JsonObject:
    """Return a file as a part of a message's content, for `responses.create` or `chat.completions.create`.

    Its first bytes decide: a PNG, JPEG, GIF or WebP image becomes `input_image` (`image_url` for chat), a PDF
    `input_file` (`file`), both as a data URL; UTF-8 becomes a text under the file's name.

    Args:
        path: a regular file of at most 32 MB.
        api: the API of the message.

    Raises:
        OSError: the file cannot be read, or is a directory.
        ValueError: the file is empty, too large, not a regular file, or of an unsupported type.
    """
    name = _name(path)
    content = _read(path, name)
    image = _image_type(content)
    if image:
        url = _data_url(f"image/{image}", content)
        if api == "chat":
            return {"type": "image_url", "image_url": {"url": url}}
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    if content.startswith(b"%PDF-"):
        file = {"filename": name, "file_data": _data_url("application/pdf", content)}
        return {"type": "file", "file": file} if api == "chat" else {"type": "input_file", **file}
    return text_part(f"File: {name}\n\n{_text(content, name)}", api)


def text_part(text: str, api: ApiName) -> JsonObject:
    """Return a text as a part of a message's content."""
    return {"type": "text" if api == "chat" else "input_text", "text": text}


def content_of(prompt: str, files: Sequence[Path_], api: ApiName) -> str | list[JsonObject]:
    """Return the content of a chat message, or the input of a response: the files, then the prompt.

    Raises:
        OSError, ValueError: one of the files cannot be sent (see `file_part`), or together they are too large.
    """
    # A text is a sequence too: each of its characters would be opened as a file.
    if isinstance(files, str | bytes | os.PathLike):
        raise ValueError("files is a list of paths, not a single one")
    if not files:
        return prompt
    parts: list[JsonObject] = []
    size = 0
    for path in files:
        parts.append(file_part(path, api))
        size += os.stat(path).st_size
        if size > MAX_FILES:
            raise ValueError(f"the files are larger than {MAX_FILES // 2**20} MB together")
    parts.append(text_part(prompt, api))
    return parts if api == "chat" else [{"type": "message", "role": "user", "content": parts}]


def _read(path: Path_, name: str) -> bytes:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{name} is not a regular file")  # opening a pipe could block
    # One byte beyond the limit shows that a file is too large, even while it grows.
    with open(path, "rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ValueError(f"{name} is larger than {MAX_FILE // 2**20} MB")
    if not content.strip():
        raise ValueError(f"{name} is empty")
    return content


def _image_type(content: bytes) -> str | None:
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in _IMAGES.items() if content.startswith(start)), None)


def _text(content: bytes, name: str) -> str:
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # the "Unicode" of Windows
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:  # a binary file: the check below refuses it
        text = "\0"
    if any(character < " " and character.encode() not in _WHITE for character in set(text)):
        raise ValueError(f"{name} is neither a text in UTF-8, nor an image (PNG, JPEG, GIF, WebP), nor a PDF")
    return text


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _name(path: Path_) -> str:
    """Return the file's name without its folder, printable: a name on Unix may have any byte."""
    name = os.fsencode(Path(path).name or os.fspath(path)).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in name)
