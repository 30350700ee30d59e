"""What an answer of Anthropic's API says it used.

Fields by `anthropic/types/usage.py` and `message_delta_usage.py` of the official SDK. Input, cache reads and cache
writes are reported side by side and are added up here; the figures of a stream are cumulative, so that the last of each
counts (https://platform.claude.com/docs/en/build-with-claude/streaming). `thinking_tokens` are a part of
`output_tokens`. Figures that cannot be true are no figures.
"""

from typing import Any, Final, TypeGuard

from tokengate.domain import Usage

TOKENS_REPORTED_MAX: Final = 2**31 - 1
"""No call uses more; a larger figure is a fault of the server."""

_WEB_SEARCH: Final = "web_search"


def read_usage(usage: dict[str, Any], model: object) -> Usage | None:
    """The usage in an answer, or in the events of one put together; None if it has none that can be believed."""
    created = _object(usage, "cache_creation")
    thought, tools = _object(usage, "output_tokens_details"), _object(usage, "server_tool_use")
    if created is None or thought is None or tools is None:
        return None
    plain, output = usage.get("input_tokens"), usage.get("output_tokens")
    counts: tuple[Any, ...] = (
        plain,
        output,
        usage.get("cache_read_input_tokens") or 0,
        usage.get("cache_creation_input_tokens") or 0,
        created.get("ephemeral_1h_input_tokens") or 0,
        thought.get("thinking_tokens") or 0,
        tools.get("web_search_requests") or 0,
    )
    if not all(_is_count(count) for count in counts):
        return None
    plain, output, read, written, written_long, thinking, searches = counts
    whole = plain + read + written
    if not whole:
        return None
    return Usage(
        input_tokens=whole,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_long_tokens=min(written_long, written),
        reasoning_tokens=min(thinking, output),
        model=model if type(model) is str else "",
        service_tier=_tier(usage),
        calls=((_WEB_SEARCH, searches),) if searches else (),
    )


def _tier(usage: dict[str, Any]) -> str:
    """What the price depends on, by its names in the price table: the fast mode and the region, else the service tier.

    Priority is capacity that was bought before.
    """
    fast = usage.get("speed") == "fast"
    if usage.get("inference_geo") == "us":
        return "fast-us" if fast else "us"
    if fast:
        return "fast"
    tier = usage.get("service_tier")
    return tier if type(tier) is str and tier != "priority" else ""


def _object(usage: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = usage.get(name)
    return {} if value is None else value if type(value) is dict else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= TOKENS_REPORTED_MAX
