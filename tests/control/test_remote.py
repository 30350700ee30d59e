"""What can go wrong between a command and the gate that it asks: each is told clearly, and nothing goes elsewhere."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import certificates
from tests.support.admin import ADMIN, READER, desk
from tests.support.redis_server import Server
from tests.support.scene import scene
from tests.support.servers import Behaviour, Conversation, free_port, raw_server
from tests.support.terminal import command
from tokengate.control import Invalid, Unavailable
from tokengate.control import remote as remote_module
from tokengate.control.remote import RemoteControl
from tokengate.control.words import Kind, Query

TOKEN = "a-token-that-nobody-else-shall-see"


def answering(head: str, body: bytes = b"") -> Behaviour:
    """A server that answers every request alike."""

    async def answer(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(f"HTTP/1.1 {head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await conversation.gone()

    return answer


@asynccontextmanager
async def asking(behaviour: Behaviour) -> AsyncIterator[RemoteControl]:
    async with raw_server(behaviour) as server, RemoteControl(server.url, TOKEN) as control:
        yield control


async def told(behaviour: Behaviour) -> str:
    """What is said of a server that behaves so."""
    async with asking(behaviour) as control:
        with pytest.raises(Unavailable) as found:
            await control.stats()
        return str(found.value)


class TestAnAnswer:
    async def test_of_something_else_is_no_gates(self) -> None:
        html = b"<html>Welcome to nginx!</html>"
        assert "answers what no gate of this version does" in await told(answering("200 OK", html))
        assert "there is no admin API" in await told(answering("404 Not Found", html))
        assert "there is no admin API" in await told(answering("401 Unauthorized"))
        for body in (b"\xff\xfe", b"[" * 100_000, b"{}"):
            assert "answers what no gate" in await told(answering("200 OK", body))

    async def test_of_something_that_stands_before_a_gate_is_told_apart(self) -> None:
        assert "fails (HTTP 502)" in await told(answering("502 Bad Gateway", b"<html>Bad Gateway</html>"))
        assert "fails (HTTP 500)" in await told(answering("500 Internal Server Error"))

    async def test_of_a_gate_that_fails_is_in_its_words(self) -> None:
        body = b'{"error":{"type":"internal","message":"The console failed; its log says why."}}'
        assert await told(answering("500 Internal Server Error", body)) == "The console failed; its log says why."

    async def test_that_leads_elsewhere_is_not_followed(self) -> None:
        async with raw_server(answering("200 OK")) as elsewhere:
            said = await told(answering(f"302 Found\r\nlocation: {elsewhere.url}/api/dashboard/stats"))
            assert f"sends us to {elsewhere.url}/api/dashboard/stats" in said
            assert elsewhere.connections == 0

    async def test_in_another_protocol_is_none(self) -> None:
        async def secure_shell(conversation: Conversation) -> None:
            await conversation.say(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            await conversation.gone()

        assert "cannot be reached" in await told(secure_shell)

    async def test_that_breaks_off_is_none(self) -> None:
        async def short(conversation: Conversation) -> None:
            await conversation.request()
            await conversation.say(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"rows":')

        async def reset(conversation: Conversation) -> None:
            await conversation.request()
            conversation.reset()

        for behaviour in (short, reset):
            assert "cannot be reached" in await told(behaviour)

    async def test_that_does_not_come_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def silent(conversation: Conversation) -> None:
            await conversation.request()
            await conversation.gone()

        async def dripping(conversation: Conversation) -> None:
            """Never silent for long, and never done."""
            await conversation.request()
            await conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while True:
                await conversation.say(b" ")
                await asyncio.sleep(0.01)

        monkeypatch.setattr(remote_module, "ANSWER_TIMEOUT_S", 0.2)
        for behaviour in (silent, dripping):
            assert "has not answered within 0.2 s; whether it was done is not known" in await told(behaviour)

    async def test_without_an_end_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def endless(conversation: Conversation) -> None:
            await conversation.request()
            await conversation.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                await conversation.say(b"1000\r\n" + b" " * 0x1000 + b"\r\n")

        monkeypatch.setattr(remote_module, "ANSWER_BYTES_MAX", 100_000)
        assert "more than 100000 bytes" in await told(endless)


class TestWhatIsAskedFor:
    @pytest.mark.parametrize(
        "url",
        ["", "gate:8000", "ftp://gate", "http://", "http://ann:secret@gate", "http://gate/dashboard", "http://gate?a=b",
         "http://gate:0", "http://gate:99999", "http://[gate"],
    )  # fmt: skip
    def test_a_url_that_is_none_of_a_gate_is_refused(self, url: str) -> None:
        with pytest.raises(Invalid):
            RemoteControl(url, TOKEN)

    @pytest.mark.parametrize("token", ["", "a b", "a\nhost: elsewhere", "é"])
    def test_a_token_that_is_none_is_refused_and_not_repeated(self, token: str) -> None:
        with pytest.raises(Invalid) as found:
            RemoteControl("http://127.0.0.1:1", token)
        assert not token or token not in str(found.value)

    async def test_a_name_is_no_way_through_the_path(self) -> None:
        async with asking(answering("200 OK")) as control:
            for name in (".", "..", ""):
                with pytest.raises(Invalid):
                    await control.detail(Kind.SESSION, name)

    async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(self, tmp_path: Path) -> None:
        made = certificates.make(tmp_path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(made.certificate, made.key)
        async with raw_server(answering("200 OK"), context) as server, RemoteControl(server.url, TOKEN) as control:
            with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await control.sessions(Query())
            assert server.requests == []


class TestACommand:
    """The same at a prompt: one line on standard error, an exit code, and nothing on standard output."""

    async def said(self, folder: Path, url: str, *arguments: str, token: str = ADMIN) -> tuple[int, str]:
        done = await asyncio.to_thread(command, folder, *arguments, TOKENGATE_SERVER=url, ADMIN_TOKEN=token)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr

    async def test_that_is_not_allowed_says_so(self, tmp_path: Path) -> None:
        async with desk() as at:
            code, said = await self.said(tmp_path, at.url, "list-sessions", token="a-wrong-token-of-somebody")
            assert (code, "ADMIN_TOKEN" in said or "token" in said) == (4, True)
            code, said = await self.said(tmp_path, at.url, "freeze-session", "x", "--reason", "y", token=READER)
            assert (code, "reading only" in said) == (4, True)

    async def test_that_asks_nobody_says_so(self, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        code, said = await self.said(tmp_path, url, "show-session", "x")
        assert (code, f"{url} cannot be reached" in said) == (1, True)

    async def test_that_asks_a_gate_without_administrators_says_where_there_are_some(
        self, tmp_path: Path, store: Server
    ) -> None:
        async with scene(store.url, role="sidecar") as at:
            code, said = await self.said(tmp_path, str(at.http.base_url).rstrip("/"), "list-sessions")
            assert (code, "a sidecar has none, a console has one" in said) == (1, True)

    async def test_needs_a_token_and_a_url(self, tmp_path: Path) -> None:
        code, said = await self.said(tmp_path, "http://127.0.0.1:9", "list-sessions", token="")
        assert (code, "ADMIN_TOKEN" in said) == (2, True)
        code, said = await self.said(tmp_path, "gate", "list-sessions")
        assert (code, "is no URL of a gate" in said) == (2, True)
        code, said = await self.said(
            tmp_path, "http://127.0.0.1:9", "list-sessions", "--token-file", "/nowhere", token=""
        )
        assert (code, "cannot be read" in said) == (2, True)
