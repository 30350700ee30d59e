"""Take the pictures of the documentation: `make screenshots`. A tenant that is always the same, in a real browser."""

import sys
from pathlib import Path
from typing import Any, Final

import uvloop

from tests.support.admin import HOUR_MS, USD, MemoryControl, account, desk, spend_points
from tests.support.browser import chromium, view
from tokengate.control.words import Hold, Kind, ModelSpend, Nano

FOLDER: Final = Path(__file__).parent.parent / "docs" / "images"
NOW_MS: Final = 1_795_444_920_000
MINUTE_MS: Final = 60_000

WORKING: Final = [
    ("checkout-bot", 9.42, 0.11, 10, "shop", 7),
    ("support-triage-eu", 6.2, 0, 10, "support", 26),
    ("eval-sweep-2026-11-23", 40.7, 1.4, 50, "evals", 64),
    ("alice@laptop", 0.0042, 0, 10, "", 190),
    ("batch-classify-07", 3.3, 0.4, 10, "batch", 448),
    ("rag-answers", 1.27, 0, 5, "rag", 870),
    ("code-review-pr-5121", 0.83, 0.02, 2, "ci", 1500),
    ("default", 10, 0, 10, "", 3600),
]


def tenant() -> MemoryControl:
    """A team at work; two of its agents went astray."""
    control = MemoryControl(clock_ms=NOW_MS)
    loop, velocity = "The same call 8 times in a row", "Spent $4.10 in a minute, 22 times its own mean"
    control.put(
        account("research-agent-0412", 7.5, 0.21, agent="researcher", requests=412, blocked=37, frozen=True,
                frozen_reason=loop, frozen_until_ms=NOW_MS + 47 * MINUTE_MS, last_active_ms=NOW_MS - 40_000,
                created_ms=NOW_MS - 3 * HOUR_MS),
        account("nightly-crawler", 21.044, budget=25, agent="crawler", requests=1204, blocked=3, frozen=True,
                frozen_reason=velocity, last_active_ms=NOW_MS - 5 * MINUTE_MS, created_ms=NOW_MS - 24 * HOUR_MS),
        account("researcher", 41, budget=100, kind=Kind.AGENT, last_active_ms=NOW_MS - 40_000),
    )  # fmt: skip
    for name, spent, held, budget, agent, ago_s in WORKING:
        control.put(account(name, spent, held, budget, agent=agent, requests=int(spent * 83) + 3, blocked=12 if spent >= budget else 0,
                            last_active_ms=NOW_MS - ago_s * 1000, created_ms=NOW_MS - 24 * HOUR_MS))  # fmt: skip
    for number in range(120):
        control.put(account(f"worker-{number:03d}", number * 37 % 100 / 11, requests=number * 3, agent="workers",
                            last_active_ms=NOW_MS - HOUR_MS - number * MINUTE_MS))  # fmt: skip
    control.happen(
        "budget",
        "eval-sweep-2026-11-23",
        "alice@laptop, admin from 10.2.0.7",
        NOW_MS - 50 * MINUTE_MS,
        before="10.00",
        after="50.00",
    )
    control.happen(
        "threshold",
        "eval-sweep-2026-11-23",
        at_ms=NOW_MS - 40 * MINUTE_MS,
        percent="80",
        budget="50",
        spent="40.02",
        resets="",
    )
    control.happen("overrun", "batch-classify-07", at_ms=NOW_MS - 31 * MINUTE_MS, hold="tg-a81c4e-77", usd="0.000412")
    control.happen("reset", "rag-answers", "admin from 127.0.0.1", NOW_MS - 20 * MINUTE_MS, before="4.912")
    control.happen("freeze", "research-agent-0412", at_ms=NOW_MS - 13 * MINUTE_MS, reason=loop, rule="loop", before="open",
                   after=f"frozen until {NOW_MS + 47 * MINUTE_MS}", first="tg-a81c4e-9f1", last="tg-a81c4e-9f8")  # fmt: skip
    control.happen("freeze", "nightly-crawler", at_ms=NOW_MS - 5 * MINUTE_MS, reason=velocity, rule="velocity", before="open", after="frozen",
                   first="tg-a81c4e-9aa", last="tg-a81c4e-a41")  # fmt: skip
    control.points = spend_points(
        NOW_MS, [("gpt-5", 0.42), ("claude-sonnet-4-5", 0.31), ("o4-mini", 0.08), ("gpt-4o-mini", 0.05), ("text-embedding-3-small", 0.004)]
    )  # fmt: skip
    control.models = [
        ModelSpend(model="gpt-5", spent_nano=Nano(6_200_000_000)),
        ModelSpend(model="gpt-4o-mini", spent_nano=Nano(1_300_000_000)),
    ]
    control.holds = [
        Hold(id="tg-a81c4e-9f9", model="gpt-5", held_nano=Nano(210_000_000), since_ms=NOW_MS - 12_000,
             expires_ms=NOW_MS + 48_000, owner="pod-7:1:ab")
    ]  # fmt: skip
    amounts = {"spent_today": 63.41, "spent_yesterday": 58.1, "spent_hour": 4.27, "spent_month": 1204.33,
               "projected_today": 88.02, "projected_month": 1690, "saved_today": 11.73}  # fmt: skip
    control.figures = {f"{name}_nano": Nano(round(amount * USD)) for name, amount in amounts.items()} | {
        "in_flight": 14, "requests_today": 18_240, "input_tokens_today": 42_100_000, "output_tokens_today": 6_300_000,
        "blocked_today": {"budget_exceeded": 212, "session_frozen": 37, "budget_busy": 9}, "overhead_p50_us": 500, "overhead_p99_us": 2000,
    }  # fmt: skip
    return control


async def take(folder: Path) -> None:
    """Take all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    async with desk(tenant()) as at, chromium() as browser:
        wide: dict[str, Any] = {"viewport": {"width": 1360, "height": 1000}}
        async with view(browser, at, **wide) as seen:
            await seen.page.clock.set_fixed_time(NOW_MS / 1000)
            await seen.log_in()
            await seen.page.mouse.move(0, 0)
            await seen.page.screenshot(path=folder / "dashboard.png")
            await seen.open("research-agent-0412")
            await seen.dialog.get_by_text("Calls under way").wait_for()
            await seen.page.screenshot(path=folder / "session.png")
        narrow: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
        async with view(browser, at, **narrow) as seen:
            await seen.page.clock.set_fixed_time(NOW_MS / 1000)
            await seen.log_in()
            await seen.page.screenshot(path=folder / "phone.png")


if __name__ == "__main__":
    uvloop.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
