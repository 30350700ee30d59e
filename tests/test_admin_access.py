"""Who may see and change what: tokens, sessions of the page, and a brake on guessing. No clock but the tests' own."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.admin import ADMIN, READER
from tokengate.api.access import (
    ADDRESSES_MAX,
    COOKIE_CHARACTERS_MAX,
    ENDED_MAX,
    GUESS_EVERY_S,
    GUESSES_MAX,
    SESSION_S,
    Access,
    Brake,
    Principal,
    Role,
)

NOW = 1_900_000_000
THE_ADMIN = Principal("admin", Role.ADMIN)
THE_READER = Principal("reader", Role.READ)


class TestTokens:
    def test_each_names_somebody_and_what_they_may(self) -> None:
        access = Access(ADMIN, READER)
        assert access.by_token(ADMIN) == THE_ADMIN
        assert access.by_token(READER) == THE_READER

    @pytest.mark.parametrize("token", ["", ADMIN[:-1], f"{ADMIN} ", ADMIN.upper(), "\ud800", "é" * 1000])
    def test_another_names_nobody(self, token: str) -> None:
        assert Access(ADMIN, READER).by_token(token) is None

    def test_without_one_for_readers_there_are_none(self) -> None:
        assert Access(ADMIN, None).by_token("") is None
        assert Access(ADMIN, None).by_token("None") is None

    def test_two_that_are_one_are_refused(self) -> None:
        with pytest.raises(ValueError, match="ADMIN_READ_TOKEN are the same"):
            Access(ADMIN, ADMIN)


class TestSessions:
    def test_one_is_known_until_it_is_over(self) -> None:
        access = Access(ADMIN, READER)
        cookie = access.open_session(THE_READER, NOW)
        assert len(cookie) < COOKIE_CHARACTERS_MAX
        assert access.by_session(cookie, NOW + SESSION_S - 1) == THE_READER
        assert access.by_session(cookie, NOW + SESSION_S) is None

    def test_another_console_with_the_same_token_knows_it(self) -> None:
        cookie = Access(ADMIN, READER).open_session(THE_ADMIN, NOW)
        assert Access(ADMIN, None).by_session(cookie, NOW) == THE_ADMIN

    def test_a_token_that_is_changed_ends_the_sessions_that_it_opened_and_no_others(self) -> None:
        before = Access(ADMIN, READER)
        admins, readers = before.open_session(THE_ADMIN, NOW), before.open_session(THE_READER, NOW)
        after = Access(ADMIN, "another-token-for-readers")
        assert after.by_session(readers, NOW) is None
        assert after.by_session(admins, NOW) == THE_ADMIN
        assert Access(ADMIN, None).by_session(readers, NOW) is None

    def test_one_that_was_ended_is_unknown_and_the_others_are_not(self) -> None:
        access = Access(ADMIN, READER)
        ended, other = access.open_session(THE_ADMIN, NOW), access.open_session(THE_ADMIN, NOW)
        access.end_session(ended)
        assert access.by_session(ended, NOW) is None
        assert access.by_session(other, NOW) == THE_ADMIN

    def test_what_was_ended_is_remembered_within_bounds(self) -> None:
        access = Access(ADMIN, READER)
        first = access.open_session(THE_ADMIN, NOW)
        access.end_session(first)
        for _ in range(ENDED_MAX):
            access.end_session(access.open_session(THE_ADMIN, NOW))
        assert len(access._ended) == ENDED_MAX
        access.end_session("nonsense")
        assert len(access._ended) == ENDED_MAX

    def test_no_letter_of_it_can_be_changed(self) -> None:
        access = Access(ADMIN, READER)
        cookie = access.open_session(THE_READER, NOW)
        for place, letter in enumerate(cookie):
            forged = f"{cookie[:place]}{'A' if letter != 'A' else 'B'}{cookie[place + 1 :]}"
            assert access.by_session(forged, NOW) is None

    def test_a_reader_cannot_make_an_admin_of_it(self) -> None:
        access = Access(ADMIN, READER)
        said, _, signature = access.open_session(THE_READER, NOW).partition(".")
        statement = json.loads(base64.urlsafe_b64decode(said + "=="))
        assert statement[0] == "reader"
        for name in ("admin", "root", ""):
            forged = base64.urlsafe_b64encode(json.dumps([name, *statement[1:]]).encode()).decode()
            assert access.by_session(f"{forged}.{signature}", NOW) is None

    @given(st.text(max_size=600) | st.from_regex(r"[A-Za-z0-9_=-]{0,80}\.[A-Za-z0-9_=-]{0,80}"))
    def test_nothing_else_is_one(self, cookie: str) -> None:
        assert Access(ADMIN, READER).by_session(cookie, NOW) is None

    def test_gates_with_different_tokens_have_cookies_of_different_names(self) -> None:
        assert Access(ADMIN, READER).cookie == Access(ADMIN, None).cookie != Access(ADMIN + "2", READER).cookie


class TestBrake:
    def test_so_many_guesses_are_free_and_then_one_at_a_time(self) -> None:
        brake = Brake()
        for _ in range(GUESSES_MAX):
            assert brake.wait_s("10.0.0.7", NOW) == 0
            brake.count("10.0.0.7", NOW)
        wait_s = brake.wait_s("10.0.0.7", NOW)
        assert wait_s == GUESS_EVERY_S
        assert brake.wait_s("10.0.0.7", NOW + wait_s) == 0
        brake.count("10.0.0.7", NOW + wait_s)
        assert brake.wait_s("10.0.0.7", NOW + wait_s) == GUESS_EVERY_S

    def test_the_wait_is_true_at_every_moment(self) -> None:
        brake = Brake()
        for _ in range(GUESSES_MAX):
            brake.count("a", NOW)
        for tenth in range(int(GUESS_EVERY_S * 10)):
            now_s = NOW + tenth / 10
            wait_s = brake.wait_s("a", now_s)
            assert wait_s >= 1
            assert brake.wait_s("a", now_s + wait_s) == 0

    def test_asking_while_refused_does_not_lengthen_it(self) -> None:
        brake = Brake()
        for _ in range(GUESSES_MAX):
            brake.count("a", NOW)
        for _ in range(1000):
            brake.wait_s("a", NOW)
        assert brake.wait_s("a", NOW) == GUESS_EVERY_S

    def test_others_are_not_held_up(self) -> None:
        brake = Brake()
        for _ in range(2 * GUESSES_MAX):
            brake.count("10.0.0.7", NOW)
        assert brake.wait_s("10.0.0.8", NOW) == 0

    def test_a_host_with_many_addresses_is_one(self) -> None:
        brake = Brake()
        for number in range(GUESSES_MAX):
            brake.count(f"2001:db8::{number}", NOW)
        assert brake.wait_s("2001:db8::ffff", NOW) > 0
        assert brake.wait_s("2001:db8:0:1::1", NOW) == 0
        assert brake.wait_s("not:an:address", NOW) == 0

    def test_however_many_addresses_guess_a_bounded_number_is_remembered(self) -> None:
        brake = Brake()
        for number in range(3 * ADDRESSES_MAX):
            brake.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", NOW)
        assert len(brake._guesses) == ADDRESSES_MAX
