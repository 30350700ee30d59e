"""One delivery: to whom, signed how, and what an answer means; against a receiver on a real socket."""

import base64
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.certificates import make
from tests.support.receiver import HANG, OK, answer, receiver
from tests.support.servers import Conversation, free_port, raw_server
from tokengate.alerts import example, webhook
from tokengate.alerts.bodies import json_body
from tokengate.alerts.webhook import (
    ANSWER_BYTES_MAX,
    RETRY_AFTER_S_MAX,
    Attempt,
    Receiver,
    ReceiverError,
    Result,
    Webhook,
    judged,
    signed,
)
from tokengate.upstream.transport import HttpTransport

ALERT = example("default", 1_790_000_000_000)
NOW_S = 1_790_000_000.0


def checked(
    url: str, form: str = "json", secret: str = "", routing_key: str = "", allowed: tuple[str, ...] = ()
) -> Receiver:
    return webhook.receiver(url, form, secret=secret, routing_key=routing_key, hosts_allowed=allowed)


@asynccontextmanager
async def way(to: Receiver) -> AsyncIterator[Webhook]:
    transport = HttpTransport(connect_timeout_s=5, read_timeout_s=5, connections_max=1, environ={})
    try:
        yield Webhook(to, transport, lambda: NOW_S)
    finally:
        await transport.aclose()


async def attempted(url: str, secret: str = "") -> Attempt:
    async with way(checked(url, secret=secret)) as out:
        return await out.attempt(ALERT)


class TestReceiver:
    @pytest.mark.parametrize(
        "url",
        [
            "https://hooks.slack.com/services/T0/B0/x",
            "https://events.pagerduty.com/v2/enqueue",
            "http://127.0.0.1:9000/hook",
            "http://127.8.9.10/hook",
            "http://[::1]:9000/hook",
            "http://localhost/hook?a=b",
        ],
    )
    def test_may_be(self, url: str) -> None:
        assert checked(url).url == url

    @pytest.mark.parametrize(
        "url",
        [
            "http://hooks.slack.com/services/x",
            "http://127.0.0.1.example.com/",
            "http://localhost.example.com/",
            "http://10.0.0.1/",
            "http://2130706433/",
            "http://0.0.0.0/",
            "https://user:secret@example.com/",
            "https://example.com/#part",
            "https:///path",
            "https://example.com:port/",
            "https://[::1/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://exämple.com/",
            "hooks.slack.com/services",
        ],
    )
    def test_may_not_be_and_the_reason_does_not_quote_it(self, url: str) -> None:
        with pytest.raises(ReceiverError) as refused:
            checked(url)
        assert str(refused.value).startswith("ALERT_WEBHOOK_URL")
        assert "secret" not in str(refused.value)

    @pytest.mark.parametrize(
        ("url", "allowed", "fine"),
        [
            ("https://hooks.slack.com/x", ("hooks.slack.com",), True),
            ("https://HOOKS.slack.com/x", ("hooks.slack.com",), True),
            ("https://hooks.slack.com/x", ("*.slack.com", "example.com"), True),
            ("https://slack.com/x", ("*.slack.com",), False),
            ("https://evil-slack.com/x", ("*.slack.com", "slack.com"), False),
            ("https://hooks.slack.com.example.com/x", ("hooks.slack.com", "*.slack.com"), False),
            ("http://127.0.0.1/x", ("hooks.slack.com",), False),
        ],
    )
    def test_only_hosts_that_are_allowed(self, url: str, allowed: tuple[str, ...], fine: bool) -> None:
        if fine:
            checked(url, allowed=allowed)
        else:
            with pytest.raises(ReceiverError, match="ALERT_HOSTS_ALLOWED"):
                checked(url, allowed=allowed)

    def test_pagerduty_needs_its_key(self) -> None:
        with pytest.raises(ReceiverError, match="ALERT_ROUTING_KEY"):
            checked("https://events.pagerduty.com/v2/enqueue", "pagerduty")

    def test_a_secret_of_standard_webhooks_is_base64(self) -> None:
        assert checked("https://a.example/", secret="whsec_c2VjcmV0").secret == b"secret"
        assert checked("https://a.example/", secret="c2VjcmV0").secret == b"c2VjcmV0"
        with pytest.raises(ReceiverError, match="ALERT_SECRET"):
            checked("https://a.example/", secret="whsec_?")

    def test_its_name_tells_receivers_apart_and_tells_nothing(self) -> None:
        one, two = checked("https://a.example/token"), checked("https://a.example/other")
        assert one.name != two.name
        assert one.name == checked("https://a.example/token").name
        assert "token" not in one.name
        assert "token" not in repr(one)


class TestSignature:
    def test_it_is_that_of_standard_webhooks(self) -> None:
        # The example of https://docs.svix.com/receiving/verifying-payloads/how-manual, whose scheme this is.
        secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        found = dict(signed(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'))
        assert found == {
            b"webhook-id": b"msg_p5jXN8AQM9LWM0D4loKWxJek",
            b"webhook-timestamp": b"1614265330",
            b"webhook-signature": b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }

    async def test_a_receiver_can_check_it(self) -> None:
        async with receiver() as hook:
            attempt = await attempted(hook.url, "whsec_" + base64.b64encode(b"our secret").decode())
            ((headers, body),) = hook.received
        assert attempt.result is Result.DELIVERED
        assert body == json_body(ALERT)
        assert headers["content-type"] == "application/json"
        assert headers["webhook-timestamp"] == str(int(NOW_S))
        said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(b"our secret", said, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"

    async def test_without_a_secret_there_is_none(self) -> None:
        async with receiver() as hook:
            await attempted(hook.url)
            ((headers, _),) = hook.received
        assert headers["webhook-id"] == ALERT.id
        assert "webhook-signature" not in headers


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "result"),
        [
            (200, Result.DELIVERED),
            (202, Result.DELIVERED),
            (204, Result.DELIVERED),
            (301, Result.REFUSED),
            (307, Result.REFUSED),
            (400, Result.REFUSED),
            (401, Result.REFUSED),
            (404, Result.REFUSED),
            (410, Result.REFUSED),
            (408, Result.FAILED),
            (425, Result.FAILED),
            (429, Result.FAILED),
            (500, Result.FAILED),
            (503, Result.FAILED),
        ],
    )
    def test_what_they_mean(self, status: int, result: Result) -> None:
        assert judged(status, [], NOW_S).result is result

    @pytest.mark.parametrize(
        ("text", "wait_s"),
        [
            (b"7", 7.0),
            (b"0", 0.0),
            (b"99999999999999", RETRY_AFTER_S_MAX),
            (b"Mon, 21 Sep 2026 14:13:30 GMT", 10.0),
            (b"Mon, 21 Sep 2020 14:13:30 GMT", 0.0),
            (b"Mon, 21 Sep 2099 14:13:30 GMT", RETRY_AFTER_S_MAX),
            (b"soon", None),
            (b"-1", None),
            (b"", None),
            (b"\xb2", None),
        ],
    )
    def test_retry_after(self, text: bytes, wait_s: float | None) -> None:
        assert judged(503, [(b"retry-after", text)], NOW_S).wait_s == wait_s

    async def test_a_redirect_is_not_followed(self) -> None:
        async with receiver() as other, receiver(answer(307, f"location: {other.url}")) as hook:
            attempt = await attempted(hook.url)
            assert attempt == Attempt(Result.REFUSED, "the receiver answered 307; redirects are not followed")
            assert len(hook.received) == 1
            assert not other.received

    async def test_nobody_there(self) -> None:
        attempt = await attempted(f"http://127.0.0.1:{free_port()}/secret-path")
        assert attempt.result is Result.FAILED
        assert "secret-path" not in attempt.words

    async def test_nothing_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webhook, "ATTEMPT_S_MAX", 0.05)
        async with receiver(HANG) as hook:
            assert (await attempted(hook.url)).result is Result.FAILED

    async def test_half_an_answer_is_none(self) -> None:
        async with receiver(b"HTTP/1.1 2") as hook, way(checked(hook.url)) as out:
            hook.answers.append(HANG)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(webhook, "ATTEMPT_S_MAX", 0.05)
                assert (await out.attempt(ALERT)).result is Result.FAILED

    async def test_an_answer_without_end_does_not_matter(self) -> None:
        endless = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * (ANSWER_BYTES_MAX + 1)
        async with receiver(endless) as hook:
            async with way(checked(hook.url)) as out:
                assert (await out.attempt(ALERT)).result is Result.DELIVERED
                assert (await out.attempt(ALERT)).result is Result.DELIVERED
            assert len(hook.received) == 2

    async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(self, tmp_path: Path) -> None:
        async def behave(talk: Conversation) -> None:
            await talk.request()
            await talk.say(OK)

        files = make(tmp_path)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.certificate, files.key)
        async with raw_server(behave, tls) as server:
            assert (await attempted(server.url)).result is Result.FAILED
            assert not server.requests
            transport = HttpTransport(
                connect_timeout_s=5, read_timeout_s=5, connections_max=1, ca_file=str(files.authority), environ={}
            )
            assert (await Webhook(checked(server.url), transport).attempt(ALERT)).result is Result.DELIVERED
            await transport.aclose()
