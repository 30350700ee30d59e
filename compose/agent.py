"""The agent of the demonstration: it asks until its budget is used up, as an agent in a loop does, and begins anew.

It needs nothing but Python, and knows of the gate nothing but OPENAI_BASE_URL, as any client does.
"""

import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

URL: Final = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
PAUSE_S: Final = float(os.environ.get("PAUSE_S", "0.5"))
MODELS: Final = ("gpt-4o-mini", "gpt-4o", "gpt-5")
TIMEOUT_S: Final = 60
ASKED: Final = Path(os.environ.get("TMPDIR", "/tmp")) / "asked"  # noqa: S108 - of a container of its own
"""Touched with every call, for the health check."""
REFUSALS_MAX: Final = 10
"""How often a session that is refused for good asks again, as runaway agents do."""


def ask(session: str, model: str) -> tuple[int, str]:
    """One call: its status (0: there was no answer), and how it ended or why it was refused."""
    body = {"model": model, "messages": [{"role": "user", "content": "Go on."}], "max_tokens": 400}
    head = {"content-type": "application/json", "authorization": "Bearer dummy-key", "x-session-id": session}
    request = urllib.request.Request(URL, json.dumps(body).encode(), head)  # noqa: S310 - the gate's own URL
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status, json.load(answer)["choices"][0]["finish_reason"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]
    except OSError as error:
        return 0, str(error)


def main() -> None:
    """Ask for ever; one line for each call."""
    number = 0
    while True:
        number += 1
        session, refused = f"demo-{int(time.time())}-{number}", 0
        while refused < REFUSALS_MAX:
            status, words = ask(session, random.choice(MODELS))  # noqa: S311 - any will do
            ASKED.touch()
            refused += status == 429
            sys.stdout.write(f"{session} {status} {words}\n")
            sys.stdout.flush()
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
