"""The admin API over HTTP: who gets in, what a browser can be tricked into, and one shape for whatever goes wrong."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.support.admin import ADMIN, READER, USD, Desk, MemoryControl, account, desk, spend_points
from tests.support.scene import client
from tokengate.api.access import GUESSES_MAX
from tokengate.api.guard import BODY_BYTES_MAX, LOOPBACK_NAMES, STATUS
from tokengate.control.encoding import decode
from tokengate.control.words import (
    Account,
    Detail,
    EventPage,
    FaultAnswer,
    Kind,
    Page,
    Spend,
    Stats,
)

ROOT = "/api/dashboard"
MINE = f"{ROOT}/session/mine"
BEARER = {"authorization": f"Bearer {ADMIN}"}
READING = {"authorization": f"Bearer {READER}"}

READS = [
    "access",
    "stats",
    "sessions",
    "spend?from_ms=0&to_ms=1",
    "events",
    "session/mine",
    "session/mine/budget",
]
CHANGES: list[tuple[str, str, Any]] = [
    ("POST", "session/mine/budget", {"budget_usd": "25"}),
    ("POST", "session/mine/freeze", {"reason": "it loops"}),
    ("POST", "session/mine/unfreeze", {}),
    ("POST", "session/mine/reset", {}),
    ("DELETE", "session/mine", {}),
]


def mine() -> MemoryControl:
    control = MemoryControl(clock_ms=1_900_000_000_000)
    control.put(account("mine", spent=7.5, held=0.25), account("other", spent=1), account("team", kind=Kind.AGENT))
    return control


def fault(answer: httpx.Response) -> tuple[int, str, str]:
    """The status, type and message of what went wrong; it always has one shape."""
    error = decode(answer.content, FaultAnswer).error
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert STATUS[error.type] == answer.status_code
    return answer.status_code, error.type, error.message


def browser(at: Desk, name: str = "admin") -> dict[str, str]:
    """What a browser that is logged in sends from the page itself."""
    return {"cookie": at.cookie(name), "sec-fetch-site": "same-origin", "origin": at.url}


async def change(http: httpx.AsyncClient, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    return await http.request(method, f"{ROOT}/{path}", json=body, headers=headers)


class TestWhoGetsIn:
    @pytest.mark.parametrize("path", [*READS, "openapi.json", "nothing", "session/mine/nothing"])
    async def test_nobody_without_a_token_whatever_is_asked(self, path: str) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.get(f"{ROOT}/{path}")
            assert fault(answer)[:2] == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert at.control.asked == []

    @pytest.mark.parametrize(("method", "path", "body"), CHANGES)
    async def test_nobody_changes_anything_without_a_token(self, method: str, path: str, body: Any) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            assert fault(await change(http, method, path, body, {}))[:2] == (401, "unauthorized")
            assert at.control.asked == []

    @pytest.mark.parametrize("headers", [BEARER, READING, {"authorization": f"bearer  {ADMIN}"}])
    @pytest.mark.parametrize("path", READS)
    async def test_both_tokens_read(self, path: str, headers: dict[str, str]) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.get(f"{ROOT}/{path}", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize(("method", "path", "body"), CHANGES)
    async def test_the_token_for_reading_changes_nothing(self, method: str, path: str, body: Any) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            assert fault(await change(http, method, path, body, READING))[:2] == (403, "forbidden")
            assert fault(await change(http, method, path, body, browser(at, "reader")))[:2] == (403, "forbidden")
            assert at.control.asked == []

    @pytest.mark.parametrize(
        "given", ["", "Bearer", f"Basic {ADMIN}", f"Bearer {ADMIN}x", f"Bearer {ADMIN} {ADMIN}", "Bearer é"]
    )
    async def test_what_is_not_the_token_is_not(self, given: str) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.get(f"{ROOT}/stats", headers=[(b"authorization", given.encode("latin-1"))])
            assert fault(answer)[:2] == (401, "unauthorized")

    async def test_a_wrong_bearer_is_not_made_good_by_a_session(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.get(f"{ROOT}/stats", headers=browser(at) | {"authorization": "Bearer wrong"})
            assert fault(answer)[:2] == (401, "unauthorized")

    async def test_guessing_is_slowed_down_by_either_way_and_ends_by_itself(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            for number in range(GUESSES_MAX):
                if number % 2:
                    answer = await http.get(f"{ROOT}/stats", headers={"authorization": "Bearer wrong"})
                else:
                    answer = await http.post(f"{ROOT}/login", json={"token": "wrong"})
                assert fault(answer)[:2] == (401, "unauthorized")
            refused = [
                await http.get(f"{ROOT}/stats", headers=BEARER),
                await http.post(f"{ROOT}/login", json={"token": ADMIN}),
            ]
            for answer in refused:
                assert fault(answer)[:2] == (429, "too_many_attempts")
                assert 1 <= int(answer.headers["retry-after"]) <= 6
            # Whoever is logged in is not held up by those who guess.
            assert (await http.get(f"{ROOT}/stats", headers=browser(at))).status_code == 200


class TestLogin:
    async def test_a_token_opens_a_session_and_a_logout_ends_it(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.post(f"{ROOT}/login", json={"token": ADMIN}, headers={"origin": at.url})
            assert answer.json()["role"] == "admin"
            cookie = answer.headers["set-cookie"]
            assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
                "httponly", "max-age=43200", "path=/", "samesite=strict",
            }  # fmt: skip
            assert ADMIN not in cookie
            stolen = dict(http.cookies)
            assert (await http.get(f"{ROOT}/access")).json()["name"] == "admin"
            left = await http.post(f"{ROOT}/logout", json={}, headers={"origin": at.url})
            assert left.status_code == 204
            assert "max-age=0" in left.headers["set-cookie"].lower()
            http.cookies.update(stolen)
            assert (await http.get(f"{ROOT}/access")).status_code == 401

    @pytest.mark.parametrize("token", [ADMIN, READER])
    async def test_the_cookie_is_what_a_browser_gives_back(self, token: str) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.post(f"{ROOT}/login", json={"token": token})
            assert re.match(r"\w+=[\w.-]+;", answer.headers["set-cookie"])
            assert (await http.get(f"{ROOT}/access")).json() == answer.json()

    async def test_a_reader_may_log_out(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            headers = browser(at, "reader")
            assert (await http.post(f"{ROOT}/logout", headers=headers)).status_code == 204
            assert (await http.get(f"{ROOT}/access", headers=headers)).status_code == 401

    async def test_over_https_the_cookie_is_for_https_alone(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.post(f"{ROOT}/login", json={"token": READER}, headers={"x-forwarded-proto": "https"})
            assert "; secure" in answer.headers["set-cookie"].lower()

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b"[]", b'{"token": 1}', b'{"token": ""}', b'{"token": "' + b"x" * 600 + b'"}', b"\xff", b'{"token":']
    )  # fmt: skip
    async def test_what_is_no_token_is_said_to_be_none(self, body: bytes) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.post(f"{ROOT}/login", content=body, headers={"content-type": "application/json"})
            assert fault(answer)[:2] == (400, "invalid")
            assert "set-cookie" not in answer.headers

    async def test_no_answer_and_no_log_line_has_the_token(self, capfd: pytest.CaptureFixture[str]) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            texts = [
                (await http.post(f"{ROOT}/login", json={"token": ADMIN})).text,
                (await http.post(f"{ROOT}/login", json={"token": f"{ADMIN}x"})).text,
                (await http.get(f"{ROOT}/stats", headers={"authorization": f"Bearer {ADMIN}y"})).text,
            ]
        printed = capfd.readouterr()
        assert ADMIN not in "".join([*texts, printed.out, printed.err])
        assert printed.out.count("a wrong token was shown") == 2


class TestOtherPages:
    """A browser that is logged in must not be made to change anything by another page."""

    @pytest.mark.parametrize(
        "sent",
        [
            {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
            {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
            {"sec-fetch-site": "none"},
            {"origin": "https://evil.example"},
            {"origin": "http://127.0.0.1:1"},
            {"origin": "null"},
            {},
        ],
    )
    @pytest.mark.parametrize(("method", "path", "body"), CHANGES)
    async def test_a_session_is_of_no_use_to_them(
        self, method: str, path: str, body: Any, sent: dict[str, str]
    ) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await change(http, method, path, body, {"cookie": at.cookie()} | sent)
            assert fault(answer)[:2] == (403, "forbidden")
            assert at.control.asked == []

    async def test_nor_can_they_log_a_browser_in_or_out(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            evil = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
            answer = await http.post(f"{ROOT}/login", json={"token": ADMIN}, headers=evil)
            assert fault(answer)[:2] == (403, "forbidden")
            answer = await http.post(f"{ROOT}/logout", headers={"cookie": at.cookie()} | evil)
            assert fault(answer)[:2] == (403, "forbidden")

    async def test_a_form_is_no_change_even_from_the_page_itself(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                headers = browser(at) | {"content-type": kind}
                answer = await http.post(f"{MINE}/budget", content=b'{"budget_usd": "25"}', headers=headers)
                assert fault(answer)[:2] == (400, "invalid")
            assert at.control.asked == []

    async def test_no_page_is_let_to_read_an_answer(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
            for method in ("OPTIONS", "GET"):
                answer = await http.request(method, f"{ROOT}/stats", headers=headers | BEARER)
                assert not [name for name in answer.headers if name.startswith("access-control")]
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"

    @pytest.mark.parametrize(
        "name", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[", "127.0.0.1.evil.example"]
    )
    @pytest.mark.parametrize("path", ["/dashboard", f"{ROOT}/stats", f"{ROOT}/login"])
    async def test_by_a_name_that_was_pointed_at_it_nothing_is_served(self, name: str, path: str) -> None:
        async with desk(mine(), hosts=LOOPBACK_NAMES) as at, client(at.url) as http:
            answer = await http.get(path, headers=BEARER | {"host": name})
            assert fault(answer)[:2] == (403, "forbidden")

    @pytest.mark.parametrize("name", ["localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000"])
    async def test_by_its_own_names_it_is(self, name: str) -> None:
        async with desk(mine(), hosts=LOOPBACK_NAMES) as at, client(at.url) as http:
            assert (await http.get(f"{ROOT}/stats", headers=BEARER | {"host": name})).status_code == 200


class TestWhatThereIsToSee:
    async def test_each_is_a_word_that_the_command_line_reads(self) -> None:
        control = mine()
        control.happen("freeze", "mine", by="alice", reason="it loops")
        control.points = spend_points(control.now_ms, [("gpt-5", 0.4)])
        async with desk(control) as at, client(at.url) as http:

            async def ask(path: str) -> bytes:
                answer = await http.get(f"{ROOT}/{path}", headers=READING)
                assert answer.status_code == 200, answer.text
                return answer.content

            page = decode(await ask("sessions?sort=spent&limit=1"), Page)
            assert [row.name for row in page.rows] == ["mine"]
            assert (page.total, page.of, page.next_offset) == (2, 2, 1)
            assert [row.name for row in decode(await ask("sessions?kind=agent"), Page).rows] == ["team"]
            detail = decode(await ask("session/mine"), Detail)
            assert detail.account.spent_nano == 7.5 * USD
            assert [event.by for event in detail.evidence] == ["alice"]
            assert decode(await ask("session/never-seen/budget"), Account).known is False
            assert decode(await ask("stats"), Stats).sessions == 2
            assert decode(await ask("events?limit=5"), EventPage).events[0].kind == "freeze"
            range_ms = f"from_ms={control.now_ms - 10**8}&to_ms={control.now_ms + 1}"
            assert len(decode(await ask(f"spend?per=hour&{range_ms}"), Spend).points) == 24

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("sessions?sort=luck", "sort"),
            ("sessions?limit=501", "limit"),
            ("sessions?limit=ten", "limit"),
            ("sessions?over_percent=null", "over_percent"),
            ("sessions?over=80", "there is no parameter 'over'; there are: descending, frozen"),
            ("sessions?limit=1&limit=2", "the parameter limit is given more than once"),
            (f"sessions?text={'x' * 129}", "text"),
            ("events?after=1-0%20COUNT", "after"),
            ("spend", "from_ms"),
            ("spend?from_ms=-1&to_ms=2", "from_ms"),
            ("spend?from_ms=1&to_ms=99999999999999999999", "to_ms"),
        ],
    )
    async def test_a_parameter_that_cannot_be_is_named(self, path: str, message: str) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            status, kind, said = fault(await http.get(f"{ROOT}/{path}", headers=READING))
            assert (status, kind) == (400, "invalid")
            assert message in said
            assert "`$" not in said


class TestChanges:
    async def test_each_is_made_and_says_how_it_stands_then(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:

            async def post(path: str, body: Any = None) -> Account:
                answer = await http.post(f"{MINE}/{path}", json=body, headers=BEARER)
                assert answer.status_code == 200, answer.text
                return decode(answer.content, Account)

            assert (await post("budget", {"budget_usd": "$25.50"})).budget_nano == 25.5 * USD
            assert (await post("budget", {"budget_usd": None})).budget_is_default
            frozen = await post("freeze", {"reason": "it loops", "for_ms": 60_000})
            assert (frozen.frozen, frozen.frozen_reason) == (True, "it loops")
            assert frozen.frozen_until_ms == at.control.now_ms + 60_000
            assert not (await post("unfreeze")).frozen
            assert (await post("reset", {})).spent_nano == 0
            assert (await http.delete(MINE, headers=BEARER)).status_code == 204
            assert (Kind.SESSION, "mine") not in at.control.rows
        assert [event.kind for event in at.control.happened] == [
            "budget",
            "budget",
            "freeze",
            "unfreeze",
            "reset",
            "delete",
        ]

    @pytest.mark.parametrize(
        ("headers", "claimed", "by"),
        [
            (BEARER, "", "admin from 127.0.0.1"),
            (BEARER, "alice@laptop", "alice@laptop, admin from 127.0.0.1"),
            (BEARER, "a\x1b[2J\nb\u202ec", "a?[2J?b?c, admin from 127.0.0.1"),
            (BEARER, "x" * 128, "admin from 127.0.0.1"),
            (None, "", "admin from 127.0.0.1"),
        ],
    )
    async def test_each_says_whose_token_it_was_and_where_it_came_from(
        self, headers: dict[str, str] | None, claimed: str, by: str
    ) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            sent = browser(at) if headers is None else headers
            assert (await http.post(f"{MINE}/reset", json={"by": claimed}, headers=sent)).status_code == 200
            assert at.control.happened[-1].by == by

    @pytest.mark.parametrize(
        "amount", ["-1", "NaN", "Infinity", "1e3", "", " ", "1,5", "0.0000000001", "9007199.254740992", "１", 25, 2.5, [], True, "2" * 33]
    )  # fmt: skip
    async def test_a_budget_that_is_no_amount_is_refused(self, amount: Any) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.post(f"{MINE}/budget", json={"budget_usd": amount}, headers=BEARER)
            assert fault(answer)[:2] == (400, "invalid")
            assert "set_budget" not in at.control.asked

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("freeze", b"{}"),
            ("freeze", b'{"reason": "x", "for_ms": 0}'),
            ("freeze", b'{"reason": "x", "for_ms": 1e99}'),
            ("freeze", b'{"reason": "' + b"x" * 501 + b'"}'),
            ("freeze", b'{"reason": "\\ud800"}'),
            ("reset", b"[" * 10_000),
            ("reset", b'{"a":' * 1600),
            ("reset", b'{"by": null}'),
            ("reset", b"null"),
            ("reset", b"{} {}"),
            ("reset", b"\xff\xfe{}"),
        ],
    )
    async def test_a_body_that_is_none_is_refused(self, path: str, body: bytes) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            headers = BEARER | {"content-type": "application/json"}
            answer = await http.post(f"{MINE}/{path}", content=body, headers=headers)
            assert fault(answer)[:2] == (400, "invalid")
            assert at.control.asked == []

    async def test_a_name_that_nobody_has_is_told_with_those_like_it(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.post(f"{ROOT}/session/min/reset", headers=BEARER)
            assert fault(answer) == (404, "not_found", "no session min; did you mean mine?")
            assert answer.json()["error"]["similar"] == ["mine"]

    async def test_names_are_taken_as_they_are_written(self) -> None:
        control = mine()
        name = "a b%2F<script>&\"'é\u202e"
        control.put(account(name))
        async with desk(control) as at, client(at.url) as http:
            path = "".join(f"%{byte:02X}" for byte in name.encode())
            assert (await http.post(f"{ROOT}/session/{path}/reset", headers=BEARER)).json()["name"] == name


class TestWhatGoesWrong:
    async def test_a_store_that_is_away_is_said_to_be(self) -> None:
        control = mine()
        control.away = True
        async with desk(control) as at, client(at.url) as http:
            for path in ("stats", "sessions", "session/mine", "session/mine/budget"):
                status, kind, message = fault(await http.get(f"{ROOT}/{path}", headers=READING))
                assert (status, kind, message) == (503, "unavailable", "the store did not answer within 2000 ms")

    async def test_a_fault_of_ours_says_nothing_of_itself_but_in_the_log(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def stats(_: MemoryControl) -> Stats:
            raise ZeroDivisionError("a secret of ours")

        monkeypatch.setattr(MemoryControl, "stats", stats)
        async with desk(mine()) as at, client(at.url) as http:
            answer = await http.get(f"{ROOT}/stats", headers=READING)
            assert fault(answer) == (500, "internal", "The console failed; its log says why.")
        printed = capfd.readouterr().out
        assert printed.count("[error") == 1
        assert "a secret of ours" in printed

    async def test_what_there_is_not_is_not_found_and_methods_are_named(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            for path in (
                "",
                "/",
                "/nothing",
                "/key/mine",
                "/session",
                "/session/",
                "/session/mine/",
                "/session/mine/nothing",
                "/docs",
            ):
                assert fault(await http.get(f"{ROOT}{path}", headers=BEARER))[:2] == (404, "not_found"), path
            answer = await http.put(f"{MINE}/budget", headers=BEARER)
            assert fault(answer)[:2] == (405, "method_not_allowed")
            assert answer.headers["allow"] == "GET, POST"

    async def test_a_body_that_is_too_large_is_not_read(self) -> None:
        async with desk(mine()) as at, client(at.url) as http:
            headers = BEARER | {"content-type": "application/json"}
            large = b'{"by": "' + b"x" * BODY_BYTES_MAX + b'"}'
            assert fault(await http.post(f"{MINE}/reset", content=large, headers=headers))[:2] == (413, "too_large")

            async def pieces() -> Any:
                for start in range(0, len(large), 1000):
                    yield large[start : start + 1000]

            assert fault(await http.post(f"{MINE}/reset", content=pieces(), headers=headers))[:2] == (413, "too_large")
            assert at.control.asked == []


class TestTheDocument:
    async def test_it_has_every_path_with_its_words_and_faults(self) -> None:
        async with desk() as at, client(at.url) as http:
            document = (await http.get(f"{ROOT}/openapi.json", headers=READING)).json()
        operations = {
            f"{method.upper()} {path}": operation
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        assert len(operations) == 14
        for name, operation in operations.items():
            assert operation["summary"], name
            assert operation["description"], name
            assert operation["security"] == ([] if name.endswith("/login") else [{"token": []}])
            assert {"401", "403", "500"} <= operation["responses"].keys()
            assert "422" not in operation["responses"]
            changes = name.startswith(("POST", "DELETE")) and not name.endswith("/logout")
            assert ("requestBody" in operation) == changes, name
        (listed,) = (operations[f"GET {ROOT}/sessions"],)
        parameters = {each["name"]: each for each in listed["parameters"]}
        assert parameters["limit"]["schema"]["maximum"] == 500
        assert "so much of their budget" in parameters["over_percent"]["schema"]["description"]
        assert set(parameters["sort"]["schema"]["enum"]) == {"activity", "spent", "share", "name"}
        assert "HTTPValidationError" not in json.dumps(document)
