"""A real Chromium that looks at a console, and remembers whatever it did not like about it.

Debian's (`apt-get install chromium`), driven by Playwright. The clock of a page can be the test's own, so that nothing
waits ten seconds for a refresh.
"""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, async_playwright, expect

from tests.support.admin import ADMIN, READER, Desk

FLAGS: Final[Sequence[str]] = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--force-color-profile=srgb", "--hide-scrollbars",
)  # fmt: skip
REFRESH_MS: Final = 10_000
WAIT_MS_MAX: Final = 20_000

AXE: Final = files("axe_playwright_python").joinpath("axe.min.js")
AXE_TAGS: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

EXPECTED: Final = "Failed to load resource"
"""What Chromium says of every answer that is not a success; the tests look at what the page says of it."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("chromium is not installed: apt-get install -y --no-install-recommends chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class View:
    """A page that somebody looks at."""

    page: Page
    at: Desk
    wrong: list[str] = field(default_factory=list)
    """Errors of scripts, and whatever the policy of the page forbade."""

    async def log_in(self, name: str = "admin", query: str = "") -> None:
        """Come by the address that a console prints at its start, and wait for what there is to see."""
        token = {"admin": ADMIN, "reader": READER}[name]
        await self.page.goto(f"{self.at.url}/dashboard{query}#token={token}")
        await self.loaded()

    async def loaded(self) -> None:
        await expect(self.page.locator("#main")).not_to_have_attribute("aria-busy", "true")

    async def refresh(self) -> None:
        """Let the time of one refresh pass (only with a clock of the test's own)."""
        await self.page.clock.run_for(REFRESH_MS + 100)

    def row(self, name: str) -> Locator:
        """The row of an account in the table."""
        return self.page.locator("#sessions-body tr").filter(has=self.page.get_by_role("button", name=name, exact=True))

    async def open(self, name: str) -> None:
        """Open the details of an account in the table."""
        await self.row(name).get_by_role("button", name=name, exact=True).click()

    def card(self, name: str) -> Locator:
        """The card of what is frozen."""
        return self.page.locator("#frozen-list li").filter(has=self.page.get_by_role("button", name=name, exact=True))

    async def violations(self) -> list[str]:
        """What axe finds wrong (https://github.com/dequelabs/axe-core/blob/develop/doc/rule-descriptions.md)."""
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("(options) => axe.run(document, options)", {"runOnly": list(AXE_TAGS)})
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found["violations"]]

    @property
    def dialog(self) -> Locator:
        return self.page.locator("dialog[open]").last

    async def names(self) -> list[str]:
        """The names in the table, in order."""
        return await self.page.locator("#sessions-body .session-link").all_inner_texts()


@asynccontextmanager
async def view(browser: Browser, at: Desk, *, clock: bool = False, **options: Any) -> AsyncIterator[View]:
    """A new browser profile with one page in it."""
    given: dict[str, Any] = {
        "viewport": {"width": 1280, "height": 900},
        "reduced_motion": "reduce",
        "locale": "en-US",
        "timezone_id": "UTC",
    }
    context = await browser.new_context(**(given | options))
    context.set_default_timeout(WAIT_MS_MAX)
    expect.set_options(timeout=WAIT_MS_MAX)
    page = await context.new_page()
    seen = View(page, at)

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(EXPECTED):
            seen.wrong.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    if clock:
        await page.clock.install()
    try:
        yield seen
    finally:
        await context.close()
