"""Compressed bodies: the first bytes decide, and the decompressed size is bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import pytest

from litellm_openai_example import AsyncLiteLLMClient, CutShortError, ErrorKind, GatewayError, LiteLLMClient
from litellm_openai_example.http_library import httpx
from litellm_openai_example.transport.packing import Packing

from ..fakes.raw import RawServer
from ..fakes.scripted import KEY, Answer, ScriptedServer, chat_body, chat_events

BODY = json.dumps(chat_body("짜장면 " * 40), ensure_ascii=False).encode()


def deflated(body: bytes) -> bytes:
    """Deflate without the zlib header, as some servers send it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


# Bodies that are read in full, with the Content-Encoding that they arrive under, right or wrong.
READ = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip in capitals": ("GZIP", gzip.compress(BODY)),
    "x-gzip": ("x-gzip", gzip.compress(BODY)),
    "gzip in members": ("gzip", gzip.compress(BODY[:7]) + gzip.compress(b"") + gzip.compress(BODY[7:])),
    "gzip without its trailer": ("gzip", gzip.compress(BODY)[:-8]),
    "gzip with zeros behind": ("gzip", gzip.compress(BODY) + b"\0" * 512),
    "gzip with a text behind": ("gzip", gzip.compress(BODY) + b"<!-- cached -->"),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
    "gzip once, said twice": ("gzip, gzip", gzip.compress(BODY)),
    "gzip twice, said once": ("gzip", gzip.compress(gzip.compress(BODY))),
    "gzip with a parameter": ("gzip;q=1.0", gzip.compress(BODY)),
    "gzip in an encoding of no kind": ("rot13", gzip.compress(BODY)),
    "deflate": ("deflate", zlib.compress(BODY)),
    "deflate, stored": ("deflate", zlib.compress(BODY, 0)),
    "raw deflate": ("deflate", deflated(BODY)),
    "deflate and gzip": ("deflate, gzip", gzip.compress(zlib.compress(BODY))),
    "deflate said to be gzip": ("gzip", zlib.compress(BODY)),
    "raw deflate said to be gzip": ("gzip", deflated(BODY)),
    "gzip said to be deflate": ("deflate", gzip.compress(BODY)),
    "gzip said to be zstd": ("zstd", gzip.compress(BODY)),
    "gzip in a character set": ("utf-8, gzip", gzip.compress(BODY)),
    "gzip and nothing": ("identity, gzip,", gzip.compress(BODY)),
    "text said to be gzip": ("gzip", BODY),
    "text said to be br": ("br", BODY),
    "text said to be zstd": ("zstd", BODY),
    "text said to be deflate": ("deflate", BODY),
    "text said to be twice packed": ("gzip, br", BODY),
    "text in a character set": ("utf-8", BODY),
    "text in chunks": ("aws-chunked", BODY),
    "text with a byte order mark": ("gzip", b"\xef\xbb\xbf" + BODY),
    "no bytes": ("gzip", b""),
}
# Bodies that cannot be decompressed: the error must name the encoding.
LOST = {
    "half a header": ("gzip", gzip.compress(BODY)[:6]),
    "a wrong checksum": ("gzip", gzip.compress(BODY)[:-8] + b"\0" * 8),
    "a broken member": ("gzip", gzip.compress(BODY[:90]) + b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 40),
    "bytes of no kind": ("gzip", bytes(range(256))),
    "an encoding of no kind": ("rot13", bytes(range(256))),
    "compress": ("compress", b"\x1f\x9d\x90" + BODY),
}


def unpacked(encoding: str, content: bytes, step: int, *, asynchronous: bool = False) -> bytes:
    response = httpx.Response(200, headers={"content-encoding": encoding})
    packing = Packing.of(response)
    assert packing is not None
    assert "content-encoding" not in response.headers
    chunks = (content[at : at + step] for at in range(0, len(content), step))
    if not asynchronous:
        return b"".join(packing.unpack(chunks))

    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def read() -> bytes:
        return b"".join([piece async for piece in packing.unpack_async(arriving())])

    return asyncio.run(read())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("name", READ)
def test_a_body_is_decompressed_under_any_header(name: str, step: int, asynchronous: bool) -> None:
    encoding, content = READ[name]
    plain = unpacked(encoding, content, step, asynchronous=asynchronous)
    assert plain.removeprefix(b"\xef\xbb\xbf") == (BODY if content else b"")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize("name", LOST)
def test_the_error_of_a_broken_body_names_its_encoding(name: str, step: int, asynchronous: bool) -> None:
    encoding, content = LOST[name]
    with pytest.raises(httpx.DecodingError, match=rf"its encoding \({encoding}\) cannot be read"):
        unpacked(encoding, content, step, asynchronous=asynchronous)


def test_an_uncompressed_body_stays_unchanged() -> None:
    for encoding in ("", "identity", " , identity"):
        assert Packing.of(httpx.Response(200, headers={"content-encoding": encoding})) is None


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_an_encoding_without_its_package_names_the_package(encoding: str, gateway: ScriptedServer) -> None:
    content = b"\x0b\x02\x80Hi\n\x03" if encoding == "br" else b"\x28\xb5\x2f\xfd\x20\x03\x19\x00\x00Hi\n"
    gateway.answers(Answer(200, content, {"content-type": "application/json", "content-encoding": encoding}))
    with LiteLLMClient(gateway.url, KEY) as client, pytest.raises(GatewayError, match=rf"\({encoding}\)") as caught:
        client.create_chat_completion("hi")
    assert f"{httpx.__name__}[" in str(caught.value)
    assert caught.value.outcome_unknown
    assert len(gateway.posts) == 1


def test_an_answer_without_its_header_is_decompressed(gateway: ScriptedServer) -> None:
    gateway.answers(Answer(200, gzip.compress(BODY), {"content-type": "application/json"}))
    with LiteLLMClient(gateway.url, KEY) as client:
        assert client.create_chat_completion("hi") == "짜장면 " * 40


def bomb(encoding: str) -> bytes:
    """Return 60 MB compressed to some 60 kB, or compressed twice to a few hundred bytes."""
    whole = b" " * 60_000_000
    if encoding == "deflate":
        return deflated(whole)
    return gzip.compress(gzip.compress(whole)) if encoding == "gzip, gzip" else gzip.compress(whole)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_decompressed_size_is_bounded(encoding: str, asynchronous: bool, gateway: ScriptedServer) -> None:
    gateway.answers(Answer(200, bomb(encoding), {"content-type": "application/json", "content-encoding": encoding}))

    async def ask() -> None:
        async with AsyncLiteLLMClient(gateway.url, KEY, max_answer=10_000) as client:
            await client.create_chat_completion("hi")

    with pytest.raises(GatewayError) as caught:
        if asynchronous:
            asyncio.run(ask())
        else:
            with LiteLLMClient(gateway.url, KEY, max_answer=10_000) as client:
                client.create_chat_completion("hi")
    assert caught.value.kind in (ErrorKind.ANSWER_TOO_LARGE, ErrorKind.UNREADABLE)


def packed_stream(encoding: str) -> bytes:
    """Return a stream, uncompressed if its encoding requires another package."""
    events = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in chat_events("Hel", "lo"))
    whole = events + b"data: [DONE]\n\n"
    return gzip.compress(whole) if encoding == "gzip" else deflated(whole) if encoding == "deflate" else whole


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_compressed_stream_is_read_byte_by_byte(encoding: str, raw_gateway: RawServer) -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": encoding}
    raw_gateway.answers(Answer(200, packed_stream(encoding), headers, drip=0.0001))
    with LiteLLMClient(raw_gateway.url, KEY) as client:
        assert "".join(client.stream_chat_completion("hi")) == "Hello"


def test_a_broken_compressed_stream_keeps_its_text_and_names_the_encoding(raw_gateway: RawServer) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    # The sync flush completes the first event in the compressed bytes; the rest is no deflate data.
    begun = packer.compress(b"data: " + json.dumps(chat_events("Hel", reason=None)[0]).encode() + b"\n\n")
    content = begun + packer.flush(zlib.Z_SYNC_FLUSH) + b"\xff" * 50
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    raw_gateway.answers(Answer(200, content, headers, drip=0.0001))
    with LiteLLMClient(raw_gateway.url, KEY) as client, pytest.raises(CutShortError, match=r"\(gzip\)") as caught:
        list(client.stream_chat_completion("hi"))
    assert caught.value.text == "Hel"


@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_unreadable_error_body_keeps_the_status(status: int, gateway: ScriptedServer) -> None:
    gateway.answers(Answer(status, bytes(range(256)), {"content-encoding": "br", "retry-after": "90"}))
    with LiteLLMClient(gateway.url, KEY, timeout=5) as client, pytest.raises(GatewayError) as caught:
        client.create_chat_completion("hi")
    assert caught.value.status == status
