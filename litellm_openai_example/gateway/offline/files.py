"""The offline provider's files: uploaded, listed, read and deleted; kept in memory for as long as it runs."""

from __future__ import annotations

import email.parser
import email.policy
import secrets
import threading
import time
from collections import OrderedDict

from ...json_object import JsonObject
from .rules import BadRequest

_KEPT = 100


class Files:
    """The files that were uploaded; the oldest ones go when there are too many."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[JsonObject, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def upload(self, content_type: str, body: bytes) -> JsonObject:
        """Keep the file of a form, and tell about it. Raises BadRequest."""
        fields = _form(content_type, body)
        name, content = fields.get("file", (None, b""))
        purpose = fields.get("purpose", (None, b""))[1].decode(errors="replace")
        if name is None:
            raise BadRequest("'file' is a required property", param="file")
        if not purpose:
            raise BadRequest("'purpose' is a required property", param="purpose")
        about: JsonObject = {
            "id": f"file-{secrets.token_hex(12)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        with self._lock:
            self._files[about["id"]] = (about, content)
            while len(self._files) > _KEPT:
                self._files.popitem(last=False)
        return about

    def list(self, purpose: str = "") -> JsonObject:
        """All files, or those for one purpose; newest first."""
        with self._lock:
            found = [about for about, _ in reversed(self._files.values()) if purpose in ("", about["purpose"])]
        ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {}
        return {"object": "list", "data": found, "has_more": False, **ends}

    def find(self, file_id: str) -> tuple[JsonObject, bytes] | None:
        """What is known of a file, and its content."""
        with self._lock:
            return self._files.get(file_id)

    def delete(self, file_id: str) -> bool:
        """Forget a file; whether it was known."""
        with self._lock:
            return self._files.pop(file_id, None) is not None


def _form(content_type: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """The fields of a `multipart/form-data` body (RFC 7578): name to file name and content."""
    if not content_type.lower().startswith("multipart/form-data"):
        raise BadRequest("The body must be multipart/form-data.")
    head = f"content-type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields: dict[str, tuple[str | None, bytes]] = {}
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = (part.get_filename(), content)
    return fields
