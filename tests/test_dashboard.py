"""The dashboard in a real browser: what people see and do, by mouse, by keyboard alone and with assistance.

A script's error, or anything that the page's policy forbids, fails whichever test it happens in.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.support.admin import ADMIN, MemoryControl, account, desk, spend_points
from tests.support.browser import View, chromium, view
from tests.support.gate import ROOT
from tokengate.control.words import Kind, Nano
from tokengate.dashboard import POLICY, Dashboard

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "javascript:alert(1)",
    "{{7*7}}${7*7}",
    "\u202egnp.exe",
    "a" * 128,
    "%00%2e%2e%2f",
    "'; DROP TABLE sessions; --",
    "tab\tand  two spaces",
    "🧊é漢字",
]
ASSETS_BYTES_MAX = 150 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


def team() -> MemoryControl:
    """A tenant like others: two frozen, one at its end, some at work."""
    control = MemoryControl()
    now = control.now_ms
    control.put(
        account("loops", spent=7.5, held=0.25, agent="researcher", frozen=True, frozen_reason="The same call 8 times in a row",
                frozen_until_ms=now + 3_600_000, last_active_ms=now - 60_000, requests=40, blocked=9),
        account("stopped", spent=1, frozen=True, frozen_reason="Suspicious activity", last_active_ms=now - 90_000),
        account("finished", spent=10, last_active_ms=now - 120_000, requests=3),
        account("busy", spent=8.5, held=0.5, last_active_ms=now - 5_000, requests=12),
        account("quiet", spent=0.0042, last_active_ms=now - 86_400_000),
        account("researcher", kind=Kind.AGENT, spent=9, budget=100),
    )  # fmt: skip
    control.happen(
        "freeze",
        "loops",
        at_ms=now - 60_000,
        reason="The same call 8 times in a row",
        rule="loop",
        first="tg-1",
        last="tg-8",
        before="open",
        after="frozen",
    )
    control.happen("budget", "busy", by="alice, admin from 10.0.0.7", at_ms=now - 30_000, before="5.00", after="10.00")
    control.points = spend_points(now, [("gpt-5", 0.4), ("gpt-4o-mini", 0.1)])
    control.figures = {"requests_today": 900, "blocked_today": {"budget_exceeded": 90, "session_frozen": 10},
                       "spent_today_nano": Nano(12_340_000_000), "overhead_p50_us": 500, "overhead_p99_us": 2_000, "saved_today_nano": Nano(3_000_000_000)}  # fmt: skip
    return control


@asynccontextmanager
async def looking(
    browser: Browser,
    control: MemoryControl | None = None,
    *,
    who: str | None = "admin",
    query: str = "",
    **options: Any,
) -> AsyncIterator[View]:
    """Somebody looks at a console, and nothing may be wrong in the end."""
    async with desk(team() if control is None else control) as at, view(browser, at, **options) as seen:
        if who is not None:
            await seen.log_in(who, query)
        yield seen
        assert seen.wrong == []


class TestLogin:
    async def test_the_address_that_is_printed_logs_in_and_keeps_the_token_out_of_it(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            assert ADMIN not in seen.page.url
            assert seen.page.url.endswith("/dashboard")
            await expect(seen.page.locator("#sessions-body tr")).to_have_count(5)
            assert ADMIN not in await seen.page.evaluate(
                "JSON.stringify([localStorage, sessionStorage, document.cookie])"
            )

    async def test_it_may_be_pasted_over_the_login(self, browser: Browser) -> None:
        async with looking(browser, who=None) as seen:
            await seen.page.goto(f"{seen.at.url}/dashboard")
            await seen.page.goto(f"{seen.at.url}/dashboard#token={ADMIN}")
            await seen.loaded()

    async def test_by_hand_with_a_wrong_token_first(self, browser: Browser) -> None:
        async with looking(browser, who=None) as seen:
            page = seen.page
            await page.goto(f"{seen.at.url}/dashboard?show=frozen")
            await expect(page.get_by_label("Token")).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_have_text("Enter the token.")
            await page.keyboard.type("wrong-token-0123456789")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_have_text("This is not the token.")
            await page.keyboard.type(ADMIN)
            await page.keyboard.press("Enter")
            await seen.loaded()
            # It comes to where it was going.
            await expect(page.get_by_role("button", name="Frozen", exact=True)).to_have_attribute(
                "aria-pressed", "true"
            )

    async def test_a_logout_ends_it(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.page.get_by_role("button", name="Log out").click()
            await expect(seen.page.get_by_label("Token")).to_be_visible()
            await seen.page.reload()
            await expect(seen.page.get_by_label("Token")).to_be_visible()

    async def test_a_session_that_is_over_asks_for_the_token_and_comes_back_to_the_same_place(
        self, browser: Browser
    ) -> None:
        async with looking(browser) as seen:
            await seen.page.get_by_label("Search by name").fill("bus")
            await expect(seen.page.locator("#sessions-body tr")).to_have_count(1)
            await seen.page.context.clear_cookies()
            await seen.page.get_by_role("button", name="Refresh now").click()
            await seen.page.get_by_label("Token").fill(ADMIN)
            await seen.page.get_by_role("button", name="Log in").click()
            await seen.loaded()
            assert await seen.names() == ["busy"]

    async def test_who_may_only_look_has_nothing_to_press(self, browser: Browser) -> None:
        async with looking(browser, who="reader") as seen:
            page = seen.page
            await expect(page.get_by_text("Read only")).to_be_visible()
            await seen.open("loops")
            await expect(seen.dialog.get_by_text("The same call 8 times in a row").first).to_be_visible()
            for verb in ("Freeze", "Unfreeze", "Reset", "Set budget"):
                await expect(page.get_by_role("button", name=re.compile(f"^{verb}"))).to_have_count(0)


class TestWhatIsSeen:
    async def test_what_is_frozen_comes_first_with_its_reason_and_evidence(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            assert await seen.page.locator("main > *").first.get_attribute("id") == "frozen"
            await expect(seen.page.get_by_role("heading", name="2 frozen")).to_be_visible()
            card = seen.card("loops")
            for text in (
                "The same call 8 times in a row",
                "1 min ago, thaws in",
                "tg-8",
                "75% of $10.00",
                "$7.50 spent, $0.25 held, $2.25 left",
            ):
                await expect(card).to_contain_text(text)
            await expect(seen.card("stopped")).to_contain_text("until it is lifted")

    async def test_budgets_have_bars_and_the_same_in_words(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            busy = seen.row("busy")
            await expect(busy).to_contain_text("85% of $10.00")
            await expect(busy).to_contain_text("$0.50 held")
            bar = busy.locator(".bar")
            whole = await bar.bounding_box()
            spent, held = [await bar.locator(f".{part}").bounding_box() for part in ("spent", "held")]
            assert whole is not None and spent is not None and held is not None  # noqa: PT018
            assert spent["width"] == pytest.approx(0.85 * whole["width"], abs=1)
            assert held["width"] == pytest.approx(0.90 * whole["width"], abs=1)
            await expect(seen.row("finished")).to_contain_text("Used up")
            await expect(seen.row("quiet")).to_contain_text("$0.0042")

    async def test_the_figures_charts_and_events(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            page = seen.page
            for name, value in {
                "Spent today": "$12.34", "Requests today": "900", "Blocked today": "100", "Saved today": "$3.00",
                "Store": "OK", "Overhead": "≤ 0.50 ms", "Sessions": "5",
            }.items():  # fmt: skip
                tile = page.locator(".tile").filter(has=page.locator(f"dt:text-is('{name}')"))
                await expect(tile.locator(".value")).to_have_text(value)
            await expect(page.locator("#spend-chart svg .bars rect")).to_have_count(48)
            await expect(page.locator("#models-chart .rank .name")).to_have_text(["gpt-5", "gpt-4o-mini"])
            await expect(page.locator("#blocked-chart .rank")).to_have_text(
                [re.compile("Budget used up.*90"), re.compile("Frozen.*10")]
            )
            await expect(page.locator("#events li")).to_have_count(2)
            await expect(page.locator("#events li").first).to_contain_text("$5.00 → $10.00")
            await expect(page.locator("#events li").first).to_contain_text("by alice, admin from 10.0.0.7")

    @pytest.mark.parametrize(
        ("kind", "fields", "badge", "text"),
        [
            ("freeze", {"reason": "It loops", "rule": "loop", "first": "a", "last": "b", "before": "open",
                        "after": "frozen until 1900000000000"},
             "Frozen", "mine until Mar 17, 2030, 17:46:40 · It loops · rule loop · first call a · last call b"),
            ("freeze", {"reason": "By hand", "before": "open", "after": "frozen"}, "Frozen", "mine By hand"),
            ("unfreeze", {"before": "frozen", "after": "open"}, "Unfrozen", "mine"),
            ("shadow", {"rule": "velocity", "reason": "$5 in a minute"}, "Would freeze", "mine $5 in a minute · rule velocity"),
            ("budget", {"before": "5.000000000", "after": ""}, "Budget", "mine $5.00 → the default"),
            ("reset", {"before": "0.004200000"}, "Reset", "mine $0.0042 → $0.00"),
            ("delete", {"before": "1.5"}, "Deleted", "mine $1.50 had been spent"),
            ("threshold", {"percent": "80", "budget": "10", "spent": "8.1", "resets": "1900000000000"},
             "Threshold", "mine 80% passed: $8.10 of $10.00 spent · starts anew Mar 17, 2030, 17:46:40"),
            ("threshold", {"percent": "100", "budget": "10", "spent": "9.99", "resets": ""},
             "Used up", "mine $9.99 of $10.00 spent, and a call was refused"),
            ("relief", {"budget": "10", "spent": "0"}, "Relief", "mine below its thresholds: $0.00 of $10.00"),
            ("overrun", {"hold": "tg-1", "usd": "0.000412"}, "Overrun", "mine cost $0.000412 more than was held · call tg-1"),
            ("expired", {"hold": "tg-1", "usd": "1"}, "Expired", "mine $1.00 charged in full: its gate was gone · call tg-1"),
            ("late", {"hold": "tg-1", "usd": "1"}, "Settled late", "mine $1.00 after all · call tg-1"),
            ("lost", {"hold": "tg-1", "usd": "1"}, "Hold lost", "mine $1.00 charged all the same · call tg-1"),
            ("constructor", {"odd_field": "x"}, "Constructor", "mine odd field x"),
        ],
    )  # fmt: skip
    async def test_what_happened_is_told_in_words(
        self, browser: Browser, kind: str, fields: dict[str, str], badge: str, text: str
    ) -> None:
        control = MemoryControl()
        control.happen(kind, "mine", fields=fields)
        async with looking(browser, control) as seen:
            await expect(seen.page.locator("#events .badge")).to_have_text(badge)
            await expect(seen.page.locator("#events .what")).to_have_text(text)

    async def test_a_chart_is_also_a_table_and_a_tip(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            page = seen.page
            await page.get_by_text("Show the figures").click()
            await expect(page.locator(".figures tbody tr")).to_have_count(24)
            await expect(page.locator(".figures thead")).to_contain_text("gpt-4o-mini")
            await page.locator("#spend-chart .column").nth(3).hover()
            await expect(page.locator("#tip")).to_contain_text("gpt-5")
            await page.locator("h1").hover()
            await expect(page.locator("#tip")).to_be_hidden()

    @pytest.mark.parametrize(("text", "per"), [("7 d", "hour"), ("30 d", "day"), ("12 mo", "month")])
    async def test_other_ranges(self, browser: Browser, text: str, per: str) -> None:
        async with looking(browser) as seen:
            with pytest.raises(AssertionError):
                await expect(seen.page.get_by_text(text, exact=True)).to_have_attribute(
                    "aria-pressed", "true", timeout=1
                )
            async with seen.page.expect_response(
                lambda answer: f"per={per}" in answer.url and "/spend" in answer.url
            ) as asked:
                await seen.page.get_by_text(text, exact=True).click()
            assert (await asked.value).status == 200
            await expect(seen.page.locator("#spend-chart svg .bars rect").first).to_be_attached()

    async def test_all_about_one_is_in_a_drawer(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.open("loops")
            for text in (
                "Why it is frozen",
                "tg-8",
                "40 answered, 9 blocked",
                "agent researcher",
                "9% of $100.00",
            ):
                await expect(seen.dialog).to_contain_text(text)
            await seen.page.get_by_role("button", name="Close the details").click()
            await expect(seen.page.locator("dialog")).to_have_count(0)

    async def test_with_nothing_to_see_it_says_what_to_do(self, browser: Browser) -> None:
        async with looking(browser, MemoryControl()) as seen:
            page = seen.page
            await expect(page.locator("#sessions-empty")).to_contain_text("No calls yet")
            await expect(page.locator("#sessions-empty pre")).to_contain_text(f"curl {seen.at.url}/v1/chat/completions")
            for text in (
                "Nothing was spent in the last 24 hours",
                "Nothing was blocked today",
                "Nothing has happened yet",
            ):
                await expect(page.get_by_text(text).first).to_be_visible()
            await page.get_by_role("button", name="Agents").click()
            await expect(page.locator("#sessions-empty")).to_contain_text("AGENT_BUDGET")
            await page.get_by_role("button", name="Frozen", exact=True).click()
            await expect(page.locator("#sessions-empty")).to_contain_text("Nothing is frozen")
            assert await seen.violations() == []

    async def test_hostile_names_are_text_and_nothing_else(self, browser: Browser) -> None:
        control = MemoryControl()
        now = control.now_ms
        for number, name in enumerate(HOSTILE):
            control.put(
                account(
                    name,
                    spent=1,
                    agent=name,
                    frozen=True,
                    frozen_reason=name,
                    fault=name,
                    last_active_ms=now - number,
                )
            )
            control.happen("freeze", name, by=name, reason=name, fields={name: name})
        control.points = spend_points(control.now_ms, [(name, 0.1) for name in HOSTILE[:6]])
        control.figures = {"blocked_today": dict.fromkeys(HOSTILE, 1), "tenant": HOSTILE[0]}
        async with looking(browser, control) as seen:
            page = seen.page
            dialogs: list[str] = []
            page.on("dialog", lambda dialog: dialogs.append(dialog.message))
            shown = await page.locator("#sessions-body .session-link").evaluate_all(
                "nodes => nodes.map(n => n.textContent)"
            )
            assert shown == HOSTILE
            assert await page.locator("main :is(img, script, iframe, a, style)").count() == 0
            for name in HOSTILE[:3]:
                await page.locator("#sessions-body .session-link").nth(HOSTILE.index(name)).click()
                await expect(seen.dialog.locator("h2")).to_have_text(name)
                await seen.dialog.get_by_role("button", name=re.compile("^Unfreeze")).click()
                await expect(seen.dialog.locator("h2")).to_have_text(f"Unfreeze {name}?")
                await seen.dialog.get_by_role("button", name="Unfreeze", exact=True).click()
                await expect(page.locator(".toast").last).to_have_text(f"{name} is free again.")
                await page.keyboard.press("Escape")
            assert dialogs == []
            freed = [event.scope_name for event in control.happened if event.kind == "unfreeze"]
            assert freed == HOSTILE[:3]
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


class TestWhatIsDone:
    async def test_freeze_for_a_time_with_a_reason(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.row("busy").get_by_role("button", name="Freeze").click()
            await expect(seen.dialog).to_contain_text("Freeze busy?")
            await seen.dialog.get_by_label("Reason").fill("It writes the same file")
            await seen.dialog.get_by_label("For").select_option(label="1 hour")
            await seen.dialog.get_by_role("button", name="Freeze").click()
            await expect(seen.card("busy")).to_contain_text("It writes the same file")
            await expect(seen.row("busy")).to_contain_text("Frozen")
            row = seen.at.control.rows[Kind.SESSION, "busy"]
            assert row.frozen_until_ms is not None
            assert seen.at.control.happened[-1].by == "admin from 127.0.0.1"

    async def test_unfreeze_shows_why_it_was_frozen(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.card("loops").get_by_role("button", name="Unfreeze").click()
            await expect(seen.dialog).to_contain_text("The same call 8 times in a row")
            await expect(seen.dialog).to_contain_text("$2.25 left of $10.00")
            await seen.dialog.get_by_role("button", name="Unfreeze").click()
            await expect(seen.page.locator(".toast")).to_have_text("loops is free again.")
            await expect(seen.card("loops")).to_have_count(0)
            await expect(seen.page.get_by_role("heading", name="1 frozen")).to_be_focused()

    async def test_reset_says_what_it_does(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.row("finished").get_by_role("button", name="Reset").click()
            await expect(seen.dialog).to_contain_text("What it has spent, $10.00, is set back to $0.00")
            await seen.dialog.get_by_role("button", name="Reset").click()
            await expect(seen.row("finished")).to_contain_text("0% of $10.00")
            await expect(seen.row("finished")).to_contain_text("Active")

    async def test_set_a_budget_and_follow_the_default_again(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.row("finished").get_by_role("button", name="Set budget").click()
            await seen.dialog.get_by_role("button", name="Add 5 dollars").click()
            await expect(seen.dialog.get_by_label("Budget in USD")).to_have_value("15.00")
            await seen.dialog.get_by_role("button", name="Set budget").click()
            await expect(seen.row("finished")).to_contain_text("66% of $15.00")
            await seen.row("finished").get_by_role("button", name="Set budget").click()
            await seen.dialog.get_by_role("button", name="Follow the default").click()
            await seen.dialog.get_by_role("button", name="Set budget").click()
            await expect(seen.row("finished")).to_contain_text("100% of $10.00")
            assert seen.at.control.rows[Kind.SESSION, "finished"].budget_is_default

    @pytest.mark.parametrize("amount", ["-5", "ten", "1e3", "", "99999999999"])
    async def test_what_cannot_be_is_said_and_nothing_typed_is_lost(self, browser: Browser, amount: str) -> None:
        async with looking(browser) as seen:
            await seen.row("busy").get_by_role("button", name="Set budget").click()
            await seen.dialog.get_by_label("Budget in USD").fill(amount)
            await seen.dialog.get_by_role("button", name="Set budget").click()
            await expect(seen.dialog.get_by_role("alert")).to_contain_text("amount")
            await expect(seen.dialog.get_by_label("Budget in USD")).to_have_value(amount)
            await seen.page.keyboard.press("Escape")
            assert seen.at.control.rows[Kind.SESSION, "busy"].budget_nano == 10_000_000_000

    async def test_no_is_no(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            before = dict(seen.at.control.rows)
            for verb in ("Set budget", "Reset", "Freeze"):
                await seen.row("busy").get_by_role("button", name=verb).click()
                await seen.dialog.get_by_role("button", name="Cancel").click()
                await seen.row("busy").get_by_role("button", name=verb).click()
                await seen.page.keyboard.press("Escape")
                await expect(seen.row("busy").get_by_role("button", name=verb)).to_be_focused()
            assert seen.at.control.rows == before

    async def test_a_change_that_cannot_be_made_can_be_tried_again(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            await seen.row("busy").get_by_role("button", name="Reset").click()
            seen.at.control.away = True
            await seen.dialog.get_by_role("button", name="Reset").click()
            await expect(seen.dialog.get_by_role("alert")).to_contain_text("the store did not answer")
            seen.at.control.away = False
            await seen.dialog.get_by_role("button", name="Reset").click()
            await expect(seen.row("busy")).to_contain_text("0% of $10.00")

    async def test_by_keyboard_alone(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            page, keys = seen.page, seen.page.keyboard
            await keys.press("Tab")
            await expect(page.get_by_role("link", name="Skip to the sessions")).to_be_focused()
            await keys.press("Enter")
            visited = []
            for _ in range(60):
                await keys.press("Tab")
                visited.append(
                    await page.evaluate(
                        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
                    )
                )
                if visited[-1] == "Freeze: busy":
                    break
            assert "Sessions" in visited
            assert visited[-1] == "Freeze: busy"
            await keys.press("Enter")
            await expect(seen.dialog.get_by_label("Reason")).to_be_focused()
            await keys.type("By keyboard")
            await keys.press("Enter")
            await expect(seen.card("busy")).to_contain_text("By keyboard")
            # What had the focus is gone from the row; it is not lost from the page.
            await expect(page.locator("body")).not_to_be_focused()

    async def test_every_focus_can_be_seen(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            for _ in range(25):
                await seen.page.keyboard.press("Tab")
                outline = await seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", await seen.page.evaluate("document.activeElement.outerHTML")


class TestManySessions:
    async def test_ten_thousand_are_paged_sorted_and_searched(self, browser: Browser) -> None:
        control = MemoryControl()
        now = control.now_ms
        control.put(
            *(
                account(f"worker-{number:05d}", spent=number / 1000, last_active_ms=now - number)
                for number in range(10_000)
            )
        )
        async with looking(browser, control) as seen:
            page = seen.page
            await expect(page.locator("#sessions-count")).to_have_text("10,000 sessions")
            await expect(page.locator("#sessions-body tr")).to_have_count(25)
            await page.get_by_role("button", name="Next").click()
            await expect(page.locator("#page-text")).to_have_text("26 to 50")
            assert (await seen.names())[0] == "worker-00025"
            await page.get_by_role("button", name="Previous").click()
            await expect(page.locator("#page-text")).to_have_text("1 to 25")
            await page.get_by_role("columnheader", name="Spent").get_by_role("button").click()
            await expect(page.get_by_role("columnheader", name="Spent")).to_have_attribute("aria-sort", "descending")
            await expect(page.locator("#sessions-body .session-link").first).to_have_text("worker-09999")
            await page.get_by_role("columnheader", name="Name").get_by_role("button").click()
            await expect(page.locator("#sessions-body .session-link").first).to_have_text("worker-00000")
            await page.get_by_label("Search by name").fill("0777")
            await expect(page.locator("#sessions-body tr")).to_have_count(11)
            await page.get_by_role("button", name="Over 80%").click()
            await expect(page.locator("#sessions-body tr")).to_have_count(0)
            await page.get_by_role("button", name="Show all").click()
            await expect(page.locator("#sessions-body tr")).to_have_count(25)
            await expect(page.get_by_label("Search by name")).to_have_value("")

    async def test_what_is_asked_is_in_the_address_and_survives_a_reload(self, browser: Browser) -> None:
        async with looking(browser) as seen:
            page = seen.page
            await page.get_by_label("Search by name").fill("i")
            await page.get_by_role("columnheader", name="Budget").get_by_role("button").click()
            await expect(page.locator("#sessions-body tr")).to_have_count(2)
            before = await seen.names()
            assert "text=i" in page.url
            await page.reload()
            await seen.loaded()
            assert await seen.names() == before == ["finished", "quiet"]
            await expect(page.get_by_role("columnheader", name="Budget")).to_have_attribute("aria-sort", "descending")


class TestRefreshing:
    async def test_it_brings_itself_up_to_date_and_changes_nothing_else(self, browser: Browser) -> None:
        async with looking(browser, clock=True) as seen:
            page, control = seen.page, seen.at.control
            await page.get_by_text("Show the figures").click()
            await page.evaluate(
                "window.kept = [...document.querySelectorAll('#sessions-body tr, .card, .tile, #spend-chart svg')]"
            )
            await page.get_by_label("Search by name").focus()
            await page.evaluate("window.scrollTo(0, 400)")
            control.put(account("busy", spent=9.75, last_active_ms=control.now_ms - 5_000))
            control.put(account("new", spent=1, last_active_ms=control.now_ms))
            control.figures |= {"spent_today_nano": Nano(99_000_000_000)}
            await seen.refresh()
            await expect(seen.row("busy")).to_contain_text("97% of $10.00")
            await expect(page.get_by_text("$99.00")).to_be_visible()
            assert (await seen.names())[0] == "new"
            assert await page.evaluate("window.kept.every((node) => node.isConnected)")
            assert await page.evaluate("scrollY") == 400
            await expect(page.get_by_label("Search by name")).to_be_focused()
            await expect(page.locator(".figures")).to_have_attribute("open", "")

    async def test_what_is_being_typed_and_what_is_open_stay(self, browser: Browser) -> None:
        async with looking(browser, clock=True) as seen:
            control = seen.at.control
            await seen.open("busy")
            await seen.dialog.get_by_role("button", name=re.compile("^Freeze")).click()
            await seen.dialog.get_by_label("Reason").fill("half a sent")
            control.put(account("busy", spent=9.75, requests=77, last_active_ms=control.now_ms))
            await seen.refresh()
            await expect(seen.page.locator("dialog.drawer")).to_contain_text("77 answered")
            await expect(seen.dialog.get_by_label("Reason")).to_have_value("half a sent")
            await expect(seen.dialog.get_by_label("Reason")).to_be_focused()

    async def test_a_row_that_moves_keeps_its_focus(self, browser: Browser) -> None:
        async with looking(browser, clock=True) as seen:
            await seen.row("quiet").get_by_role("button", name="Reset").focus()
            seen.at.control.put(account("quiet", spent=2, last_active_ms=seen.at.control.now_ms))
            await seen.refresh()
            await expect(seen.page.locator("#sessions-body .session-link").first).to_have_text("quiet")
            await expect(seen.row("quiet").get_by_role("button", name="Reset")).to_be_focused()

    async def test_it_can_be_paused(self, browser: Browser) -> None:
        async with looking(browser, clock=True) as seen:
            pause = seen.page.get_by_role("button", name="Pause")
            await pause.click()
            await expect(pause).to_have_attribute("aria-pressed", "true")
            asked = len(seen.at.control.asked)
            for _ in range(3):
                await seen.refresh()
            assert len(seen.at.control.asked) == asked
            await expect(seen.page.locator("#live")).to_contain_text("Paused")
            await pause.click()
            await expect(seen.page.locator("#live")).to_contain_text("Live")
            assert len(seen.at.control.asked) > asked

    async def test_a_server_that_is_gone_is_said_to_be_and_comes_back(self, browser: Browser) -> None:
        async with looking(browser, clock=True) as seen:
            page = seen.page
            await page.context.set_offline(True)
            await seen.refresh()
            await expect(page.locator("#stale")).to_contain_text("The server cannot be reached (no connection).")
            await expect(page.locator("#stale")).to_contain_text("Shown is how things stood at")
            await expect(page.locator("#live")).to_contain_text("Not up to date")
            await expect(page.locator("#sessions-body tr")).to_have_count(5)
            assert await seen.violations() == []
            await page.context.set_offline(False)
            await seen.refresh()
            await expect(page.locator("#stale")).to_be_hidden()
            await expect(page.locator("#live")).to_contain_text("Live")

    async def test_a_store_that_is_away_is_said_to_be_and_tried_again(self, browser: Browser) -> None:
        async with looking(browser, clock=True) as seen:
            seen.at.control.away = True
            await seen.refresh()
            await expect(seen.page.locator("#stale")).to_contain_text("the store did not answer within 2000 ms")
            seen.at.control.away = False
            await seen.page.get_by_role("button", name="Try now").click()
            await expect(seen.page.locator("#stale")).to_be_hidden()

    async def test_a_console_that_cannot_be_reached_at_first_is_waited_for(self, browser: Browser) -> None:
        control = team()
        control.away = True
        async with desk(control) as at, view(browser, at, clock=True) as seen:
            await seen.page.goto(f"{at.url}/dashboard#token={ADMIN}")
            await expect(seen.page.locator("#stale")).to_contain_text("the store did not answer")
            control.away = False
            await seen.refresh()
            await expect(seen.page.locator("#sessions-body tr")).to_have_count(5)
            assert seen.wrong == []


class TestLooks:
    @pytest.mark.parametrize(("scheme", "page_colour"), [("light", "rgb(244, 246, 247)"), ("dark", "rgb(14, 19, 22)")])
    async def test_it_is_as_the_system_has_it_until_somebody_chooses(
        self, browser: Browser, scheme: Any, page_colour: str
    ) -> None:
        async with looking(browser, color_scheme=scheme) as seen:
            page = seen.page
            colour = "getComputedStyle(document.body).backgroundColor"
            assert await page.evaluate(colour) == page_colour
            await page.get_by_role("button", name="Colours: as the system").click()
            assert await page.evaluate(colour) == "rgb(244, 246, 247)"
            await page.get_by_role("button", name="Colours: light").click()
            assert await page.evaluate(colour) == "rgb(14, 19, 22)"
            await page.reload()
            assert await page.evaluate(colour) == "rgb(14, 19, 22)"

    @pytest.mark.parametrize("width", [320, 390, 768, 1024, 1920, 3440])
    async def test_it_fits(self, browser: Browser, width: int) -> None:
        async with looking(browser, viewport={"width": width, "height": 844}) as seen:
            page = seen.page
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            await seen.open("busy")
            await expect(seen.dialog).to_contain_text("busy")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            await page.keyboard.press("Escape")
            await seen.row("busy").get_by_role("button", name="Freeze").click()
            box = await seen.dialog.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [390, 1280])
    async def test_axe_finds_nothing_wrong(self, browser: Browser, scheme: Any, width: int) -> None:
        async with looking(browser, color_scheme=scheme, viewport={"width": width, "height": 900}) as seen:
            page = seen.page
            assert await seen.violations() == []
            await page.get_by_text("Show the figures").click()
            await seen.open("loops")
            await expect(seen.dialog).to_contain_text("Why it is frozen")
            assert await seen.violations() == []
            await page.keyboard.press("Escape")
            for verb in ("Set budget", "Reset", "Unfreeze"):
                await seen.row("loops").get_by_role("button", name=verb).click()
                assert await seen.violations() == []
                await page.keyboard.press("Escape")
            await page.get_by_role("button", name="Log out").click()
            await expect(page.get_by_label("Token")).to_be_visible()
            assert await seen.violations() == []


class TestFiles:
    async def test_nothing_is_loaded_from_elsewhere_and_little_in_all(self, browser: Browser) -> None:
        async with desk(team()) as at, view(browser, at) as seen:
            urls: list[str] = []
            seen.page.on("request", lambda request: urls.append(request.url))
            await seen.log_in()
            assert all(url.startswith(f"{at.url}/") for url in urls)
            assert sum("/dashboard/assets/" in url for url in urls) >= 14
            names = {url.rpartition("/")[2] for url in urls}
        dashboard = Dashboard()
        assert set(dashboard._assets) <= names
        plain = sum(len(each.plain) for each in (*dashboard._assets.values(), *dashboard._pages.values()))
        zipped = sum(len(each.zipped) for each in (*dashboard._assets.values(), *dashboard._pages.values()))
        assert plain < ASSETS_BYTES_MAX
        assert zipped < ASSETS_BYTES_MAX / 3

    async def test_the_page_knows_every_kind_of_event(self) -> None:
        reference = (ROOT / "docs" / "reference" / "store.md").read_text()
        table = reference[reference.index("## Events") :].split("\n## ")[0]
        kinds = set(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)) - {"kind"}
        script = Dashboard()._assets["events.js"].plain.decode()
        assert len(kinds) > 8
        assert kinds <= set(re.findall(r"^  ([a-z]+): \{ text:", script, re.MULTILINE))

    async def test_the_page_has_no_code_in_it_and_allows_none(self) -> None:
        async with desk() as at, httpx.AsyncClient(base_url=at.url) as http:
            for headers in ({}, {"cookie": at.cookie()}):
                answer = await http.get("/dashboard", headers=headers)
                assert answer.headers["content-security-policy"] == POLICY
                assert "unsafe" not in POLICY
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["x-frame-options"] == "DENY"
                assert not re.search(r"\son\w+=|\sstyle=|<style|<script>|javascript:|https?://", answer.text)
                assert ("sessions-body" in answer.text) == bool(headers)

    async def test_assets_are_kept_for_good_and_only_their_own_paths_are_served(self) -> None:
        async with desk() as at, httpx.AsyncClient(base_url=at.url) as http:
            page = (await http.get("/dashboard/")).text
            (path,) = set(re.findall(r'href="(/dashboard/assets/\w+/base\.css)"', page))
            answer = await http.get(path)
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert (await http.get(path, headers={"accept-encoding": "identity"})).content == answer.content
            head = await http.head(path)
            assert (head.status_code, head.content) == (200, b"")
            for other in ("/dashboard/nothing", path.replace("base", "other"), path + "/", "/dashboard/assets/", "/dashboard/assets/0/base.css",
                          path.replace("base.css", "index.html"), path.replace("base.css", "..%2f__init__.py")):  # fmt: skip
                assert (await http.get(other)).status_code == 404, other
            assert (await http.post("/dashboard")).status_code == 405
