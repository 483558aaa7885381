"""The pages that an answer cites or that its search read."""

from __future__ import annotations

from typing import Any

from litellm_openai_example.calls.answer import Source, read_chat, read_response

A, B, C = "https://a.example/1", "https://b.example/2", "https://c.example/3"


def cited(*urls: str) -> dict[str, Any]:
    notes = [{"type": "url_citation", "url": url, "title": f"Title of {url}"} for url in urls]
    return {"type": "message", "content": [{"type": "output_text", "text": "Found.", "annotations": notes}]}


def searched(*urls: str) -> dict[str, Any]:
    action = {"type": "search", "query": "q", "sources": [{"type": "url", "url": url} for url in urls]}
    return {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}


def test_sources_are_cited_and_searched_pages_without_duplicates() -> None:
    answer = read_response({"status": "completed", "output": [searched(B, A, B), cited(A, C, A)]})
    assert answer.sources == (Source(A, f"Title of {A}"), Source(C, f"Title of {C}"), Source(B, ""))
    assert answer.searched


def test_a_bridged_answer_has_sources_in_the_search_item_only() -> None:
    answer = read_response({"status": "completed", "output": [searched(A), cited()]})
    assert answer.sources == (Source(A),)


def test_an_answer_without_search_item_or_citation_did_not_search() -> None:
    assert not read_response({"status": "completed", "output": [cited()]}).searched
    assert read_response({"status": "completed", "output": [searched(), cited()]}).searched
    assert read_response({"status": "completed", "output": [cited(A)]}).searched


def test_chat_citations_are_nested_under_the_annotations_type() -> None:
    notes = [{"type": "url_citation", "url_citation": {"url": A, "title": "T"}}]
    answer = read_chat(
        {"choices": [{"message": {"content": "x", "annotations": notes}, "finish_reason": "stop"}], "citations": [B, A]}
    )
    assert answer.sources == (Source(A, "T"), Source(B))
    assert answer.searched


def test_malformed_sources_are_dropped() -> None:
    odd: list[Any] = [None, 5, {"url": None}, {"url": ["x"]}, {"url": "javascript:alert(1)"}, {"url": "https://a b"}]
    part = {"type": "output_text", "text": "x", "annotations": [*odd, {"url": A, "title": 7}]}
    items = [{"type": "web_search_call", "action": action} for action in (None, "x", {"sources": 3}, {"sources": odd})]
    answer = read_response({"output": [*items, {"type": "message", "content": [part]}]})
    assert answer.sources == (Source(A),)


def test_pages_cited_by_anthropic_models_come_first_with_titles() -> None:
    extra = {
        "citations": [[{"type": "web_search_result_location", "url": B, "title": "Two"}], None, "x"],
        "web_search_results": [
            {"type": "web_search_tool_result", "content": [{"url": A, "title": "One"}, {"url": B, "title": "Two"}]},
            {"type": "web_search_tool_result", "content": {"error_code": "max_uses_exceeded"}},
            5,
        ],
    }
    expected = (Source(B, "Two"), Source(A, "One"))
    output = [searched(A, B), cited()]
    assert read_response({"output": output, "provider_specific_fields": extra}).sources == expected
    message = {"content": "x", "provider_specific_fields": extra}
    assert read_chat({"choices": [{"message": message}]}).sources == expected
    odd: list[Any] = [None, 5, {"citations": 3, "web_search_results": "x"}]
    assert all(read_response({"output": output, "provider_specific_fields": one}).sources for one in odd)
