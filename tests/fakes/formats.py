"""Answers in the formats of Anthropic and Gemini, with a web search.

The search finds `PAGES`: the text cites the first; the second was only read.
"""

from __future__ import annotations

from collections.abc import Iterator

from litellm_openai_example.json_object import JsonObject

PAGES = (("https://noodles.example/history", "A history of noodles"), ("https://noodles.example/lamian", "Lamian"))
REPORT = "Noodles were made in China four thousand years ago."


def message(body: JsonObject) -> JsonObject:
    """Return Anthropic's answer to `POST /v1/messages`."""
    content: list[JsonObject] = [{"type": "text", "text": REPORT}]
    searches = any(str(tool.get("type")).startswith("web_search") for tool in body.get("tools") or ())
    if searches:
        found = [
            {"type": "web_search_result", "url": url, "title": title, "encrypted_content": "x", "page_age": None}
            for url, title in PAGES
        ]
        url, title = PAGES[0]
        location = {"type": "web_search_result_location", "url": url, "title": title, "encrypted_index": "x"}
        content = [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "noodles"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": found},
            {"type": "text", "text": REPORT, "citations": [{**location, "cited_text": "4000 years"}]},
        ]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 12, "server_tool_use": {"web_search_requests": int(searches)}},
    }


def message_events(whole: JsonObject) -> Iterator[JsonObject]:
    """Return the events of Anthropic's answer as a stream."""
    yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}
    for index, block in enumerate(whole["content"]):
        deltas: list[JsonObject] = []
        start = dict(block)
        if block["type"] == "text":
            start = {"type": "text", "text": ""}
            deltas = [{"type": "citations_delta", "citation": one} for one in block.get("citations", ())]
            deltas += [{"type": "text_delta", "text": piece} for piece in (block["text"][:8], block["text"][8:])]
        elif block["type"] == "server_tool_use":
            start = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": '{"query": "noodles"}'}]
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": 12},
    }
    yield {"type": "message_stop"}


def content(body: JsonObject) -> JsonObject:
    """Return Gemini's answer to `POST /models/NAME:generateContent`."""
    candidate: JsonObject = {
        "content": {"role": "model", "parts": [{"text": REPORT}]},
        "finishReason": "STOP",
        "index": 0,
    }
    if any("googleSearch" in tool or "google_search" in tool for tool in body.get("tools") or ()):
        # Where a part of the text begins is left out when that is its first character.
        segment = {"startIndex": 8, "endIndex": len(REPORT), "text": REPORT[8:]}
        candidate["groundingMetadata"] = {
            "webSearchQueries": ["noodles"],
            "searchEntryPoint": {"renderedContent": "<div></div>"},
            "groundingChunks": [{"web": {"uri": url, "title": title}} for url, title in PAGES],
            "groundingSupports": [
                {"segment": {"endIndex": 8, "text": REPORT[:8]}, "groundingChunkIndices": [1]},
                {"segment": segment, "groundingChunkIndices": [0, 1]},
            ],
        }
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 12, "totalTokenCount": 21}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini", "responseId": "gemini-1"}
