"""Lines of what agents did, read back: TokenGate's own request log, or calls as they were sent. Pure: no I/O.

A call is a line as of OpenAI's batch files (https://platform.openai.com/docs/guides/batch) with the time and the
session added; docs/reference/transcripts.md has the format. A line that cannot be read is a fault, with words for its
author, and never ends the reading.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Final
from urllib.parse import urlsplit

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, ValidationError
from msgspec.json import Decoder

from tokengate.destination import Destination, Destinations
from tokengate.domain import NAME_CHARACTERS_MAX, NAME_PATTERN, Call, Session, Usage
from tokengate.money import AMOUNT_NANO_MAX, NANO_PER_USD
from tokengate.providers import Asked, Count, Meter, Quirks, Request, RequestError, Route, Router
from tokengate.session import HEADER

LINE_BYTES_MAX: Final = 32 * 1024 * 1024
"""The longest line that is read, as the largest body that a gate takes by default."""

SECONDS_MAX: Final = 10**11
"""Times above this many seconds (the year 5138) are taken to be milliseconds."""

GUESS_MS: Final = 500
GUESS_MS_A_TOKEN: Final = 20
"""What an answer is taken to last if nothing says so: half a second, and 20 ms for each token of it."""

STATUS_FAILED: Final = 300
"""From this HTTP status on an answer costs nothing."""

DURATION_MS_MAX: Final = 86_400_000
"""No call takes longer than a day."""

_NAME: Final = re.compile(NAME_PATTERN, re.ASCII)
_JSON: Final = "application/json"
_DRAWN: Final = frozenset({"image_generations", "image_edits"})
_HEARD: Final = frozenset({"transcriptions", "translations"})
_SPEECH: Final = "speech"
_UNCAPPED: Final = _DRAWN | _HEARD | {_SPEECH, "embeddings"}
"""Endpoints whose calls have no output that a cap could bound, by their names in the log."""
_BLOCKED: Final = "blocked"
_GUESSES: Final = (
    ("messages", b'"claude', "/v1/messages"),
    ("messages", b"", "/v1/chat/completions"),
    ("input", b"", "/v1/embeddings"),
    ("prompt", b"", "/v1/completions"),
)
"""Where a call without a `url` went, by a member of its body and the beginning of its model's name."""


class TranscriptError(ValueError):
    """A line cannot be read; the message says why, for whoever made the file."""


class Entry(Struct, frozen=True):
    """One call, as it came and as it ended."""

    at_ms: int
    ended_ms: int
    timed: bool
    """False: nobody wrote down how long it took, and `ended_ms` is a guess."""
    section: str
    """The section of the price table that has the model."""
    session: Session
    request: Request
    status: int
    usage: Usage | None
    """None: nobody wrote down what was used."""
    cost_nano: int | None
    """What a gate charged for it; None: no gate did."""
    blocked: bool
    """A gate has refused it already: it never reached the provider, and what it would have used is not known."""


class Logged:
    """A request of which only the log line is left: what is known of it is enough for budgets, rates and spending."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    def count_input(self, count: Count) -> int:  # noqa: ARG002 - there is no text
        return self.call.input_tokens_max

    def suited(self, quirks: Quirks) -> Request:
        raise NotImplementedError("a log line cannot be forwarded")

    def body(self, output_cap_tokens: int | None) -> bytes:
        raise NotImplementedError("a log line cannot be forwarded")

    def asked(self) -> Asked | None:
        return None

    def meter(self, status: int, content_type: str) -> Meter:
        raise NotImplementedError("a log line has no answer")


_NONE: Final = Raw()


class _Answer(Struct):
    status_code: int = 200
    body: Raw = _NONE
    usage: Raw = _NONE


class _Line(Struct):
    """The members of either kind of line; a member that is in neither is not looked at."""

    timestamp: str | int | float | None = None
    session_id: str | None = None
    agent: str | None = None
    tenant: str | None = None
    duration_ms: float | None = None
    status: int | None = None
    # of a call
    url: str = ""
    body: Raw = _NONE
    headers: dict[str, str] | None = None
    usage: Raw = _NONE
    response: _Answer | None = None
    # of the log
    event: str | None = None
    decision: str | UnsetType = UNSET
    endpoint: str = ""
    model: str = ""
    stream: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    pieces: dict[str, int] | None = None
    actual_cost: Decimal | None = None


class _Head:
    """What stands before a body, as far as a line tells it."""

    def __init__(self, line: _Line) -> None:
        parts = urlsplit(line.url)
        self.path = parts.path
        self.raw_path = parts.path.encode()
        self.query = parts.query.encode()
        headers = (line.headers or {}).items()
        self.given = {name.lower().encode(): value.encode() for name, value in headers}
        self.content_type = self.given.get(b"content-type")


_decode: Final = Decoder(_Line).decode
_decode_members: Final = Decoder(dict[str, Raw]).decode


class Reader:
    """Reads lines, given who called where a line does not say it."""

    def __init__(self, routes: Sequence[Route], destinations: Destinations, fallback: Session) -> None:
        self._router = Router(routes)
        self._destinations = destinations
        # Several providers may have an endpoint of the same name: those that have a destination of their own go first.
        self._dialects = {
            route.name: route.dialect.name
            for has in (False, True)
            for route in reversed(routes)
            if route.endpoint is not None and destinations.has(route.dialect.name) is has
        }
        self._fallback = fallback

    def read(self, line: bytes) -> Entry | None:
        """One line; None if it is a line of the log that is about no metered request, or blank.

        Raises:
            TranscriptError: it is neither that nor a call.
        """
        if not line.strip():
            return None
        try:
            found = _decode(line)
        except ValidationError as error:
            raise TranscriptError(_words(error)) from None
        except (DecodeError, UnicodeDecodeError) as error:
            raise TranscriptError(f"not a JSON object: {error}") from None
        except RecursionError:
            raise TranscriptError("nested too deeply") from None
        if found.body:
            return self._called(found, found.body)
        if found.decision is not UNSET:
            return self._logged(found)
        if found.event is not None:
            return None
        raise TranscriptError("neither a call (it has no body) nor a request of the log (it has no decision)")

    def _called(self, line: _Line, body: Raw) -> Entry:
        answer = line.response or _Answer()
        status = line.status if line.status is not None else answer.status_code
        head = _Head(line)
        chosen = self._destinations.by_prefix(head.path)
        route = self._route(head, body, head.path if chosen is None else chosen.path(head.path))
        if route.endpoint is None:
            raise TranscriptError(f"{head.path[:NAME_CHARACTERS_MAX]} is no endpoint that is metered")
        try:
            request = route.endpoint.parse(bytes(body), head)
        except RequestError as error:
            raise TranscriptError(f"body: {error.message}") from None
        destination = chosen or self._destination(route.dialect.name, request.call.model)
        if destination.quirks is not None:
            request = request.suited(destination.quirks)
        at_ms = _time_ms(line.timestamp)
        usage = _usage(request, line.usage, answer) if status < STATUS_FAILED else None
        return Entry(
            at_ms=at_ms,
            ended_ms=at_ms + _duration_ms(line, usage),
            timed=line.duration_ms is not None,
            section=destination.section,
            session=self._session(line, head.given.get(HEADER)),
            request=request,
            status=status,
            usage=usage,
            cost_nano=None,
            blocked=False,
        )

    def _logged(self, line: _Line) -> Entry | None:
        if not line.model or line.session_id is None:
            # A free endpoint, or a request that was refused before anybody knew what it asked for.
            return None
        dialect = self._dialects.get(line.endpoint)
        if dialect is None:
            return None
        at_ms = _time_ms(line.timestamp)
        pieces = tuple(sorted((line.pieces or {}).items()))
        usage = Usage(
            input_tokens=line.input_tokens,
            output_tokens=line.output_tokens,
            cache_read_tokens=line.cached_tokens,
            reasoning_tokens=line.reasoning_tokens,
            calls=pieces,
        )
        call = Call(
            model=line.model,
            stream=line.stream,
            input_tokens_max=line.input_tokens,
            text_bytes=0,
            output_tokens_asked=None,
            produces_output=line.endpoint not in _UNCAPPED,
            output_tokens_fixed=line.output_tokens,
            pieces=pieces,
            input_audio=line.endpoint in _HEARD,
            output_audio=line.endpoint == _SPEECH,
            output_images=line.endpoint in _DRAWN,
        )
        blocked = line.decision == _BLOCKED
        return Entry(
            at_ms=at_ms,
            ended_ms=at_ms + _duration_ms(line, usage),
            timed=line.duration_ms is not None,
            section=self._destination(dialect, line.model).section,
            session=self._session(line, None),
            request=Logged(call),
            status=line.status or 0,
            usage=None if blocked else usage,
            cost_nano=None if line.actual_cost is None else _nano(line.actual_cost),
            blocked=blocked,
        )

    def _route(self, head: "_Head", body: Raw, path: str) -> Route:
        if not path:
            members = _members(body)
            model = bytes(members.get("model", _NONE))
            path = next((path for member, named, path in _GUESSES if member in members and model.startswith(named)), "")
            if not path:
                raise TranscriptError("it is not clear where it went: add its url, like /v1/chat/completions")
        route = self._router.match("POST", path, head.given)
        if route is None:
            raise TranscriptError(f"{path[:NAME_CHARACTERS_MAX]} is no endpoint that is metered")
        return route

    def _destination(self, dialect: str, model: str) -> Destination:
        if not self._destinations.has(dialect):
            raise TranscriptError(f"there is no upstream of the kind {dialect} (UPSTREAMS_FILE)")
        return self._destinations.of(dialect, model)

    def _session(self, line: _Line, header: bytes | None) -> Session:
        name = line.session_id
        if name is None and header is not None:
            name = header.decode()
        names = (
            ("session_id", self._fallback.id if name is None else name),
            ("tenant", self._fallback.tenant if line.tenant is None else line.tenant),
            ("agent", self._fallback.agent if line.agent is None else line.agent),
        )
        for field, value in names:
            if _NAME.fullmatch(value) is None and (value or field != "agent"):
                raise TranscriptError(f"{field}: {value[:NAME_CHARACTERS_MAX]!r} is not a name")
        (_, session_id), (_, tenant), (_, agent) = names
        return Session(session_id, tenant, agent)


def _members(body: Raw) -> dict[str, Raw]:
    try:
        return _decode_members(body)
    except (ValidationError, DecodeError, UnicodeDecodeError):
        return {}


def _usage(request: Request, usage: Raw, answer: _Answer) -> Usage | None:
    """What was used, by the meter that would have read the answer."""
    if answer.body:
        content = bytes(answer.body)
    elif told := bytes(usage) or bytes(answer.usage):
        # Gemini's name for it is another one.
        content = b'{"usage":%b,"usageMetadata":%b}' % (told, told)
    else:
        return None
    meter = request.meter(200, _JSON)
    meter.feed(content)
    meter.finish()
    return meter.reading().usage


def _time_ms(timestamp: str | float | None) -> int:
    if timestamp is None:
        raise TranscriptError("it has no timestamp")
    if isinstance(timestamp, str):
        try:
            moment = datetime.fromisoformat(timestamp)
        except ValueError:
            raise TranscriptError(f"timestamp: {timestamp[:NAME_CHARACTERS_MAX]!r} is not ISO 8601") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    if not 0 <= timestamp < SECONDS_MAX * 1000:
        raise TranscriptError(f"timestamp: {timestamp} is not a time since 1970, in seconds or milliseconds")
    return round(timestamp * 1000 if timestamp < SECONDS_MAX else timestamp)


def _duration_ms(line: _Line, usage: Usage | None) -> int:
    if line.duration_ms is None:
        return 0 if usage is None else min(GUESS_MS + GUESS_MS_A_TOKEN * usage.output_tokens, DURATION_MS_MAX)
    if not 0 <= line.duration_ms <= DURATION_MS_MAX:
        raise TranscriptError(f"duration_ms: {line.duration_ms} is not from 0 to {DURATION_MS_MAX}")
    return round(line.duration_ms)


def _nano(usd: Decimal) -> int:
    if not 0 <= usd <= AMOUNT_NANO_MAX // NANO_PER_USD:
        raise TranscriptError(f"actual_cost: {usd} is not an amount in USD")
    return int((usd * NANO_PER_USD).to_integral_value(ROUND_CEILING))


def _words(error: ValidationError) -> str:
    """The words of msgspec, with the place first: `body: expected ...`."""
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {what[:1].lower()}{what[1:]}" if where else what
