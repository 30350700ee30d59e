"""Writes docs/reference/endpoints.md from the tables of the providers: `python .ci/endpoints.py`; a test compares."""

from pathlib import Path
from typing import Final

from tokengate.providers import ANY_METHOD, Route, anthropic, gemini, openai

PAGE: Final = Path(__file__).parent.parent / "docs" / "reference" / "endpoints.md"

_HEAD: Final = """# Endpoints

What of the providers' APIs passes the gate, and what does not, with the reason that its caller is told. A `*` stands
for one name, and at the end of a path for all that is left. Whatever is not here is refused with 404
`endpoint_not_metered`, in the words of the API that the caller speaks. A path without a method stands for all
of them, and for all below it. This page is written from the code, by `make endpoints`.

Where a call goes is told by its path; `GET /v1/models`, which three providers have, by its headers. Base URLs for the
SDKs: `http://localhost:8000/v1` for OpenAI's, `http://localhost:8000` for Anthropic's and Google's, and
`http://localhost:8000/v1beta/openai` for Gemini by OpenAI's.
"""


def _kind(route: Route) -> str:
    if route.refused:
        return f"refused: {route.refused}"
    told = f", if `{route.told_by.decode()}` is sent" if route.told_by else ""
    if route.own:
        return "free, passed through for the session that made it"
    return ("metered" if route.endpoint is not None else "free, passed through") + told


def _asked(route: Route) -> str:
    return route.path if route.method == ANY_METHOD else f"{route.method} {route.path}"


def _below(route: Route) -> bool:
    """Whether it is what lies below a path that has a row."""
    return route.method == ANY_METHOD and route.path.endswith("/*") and "completions" not in route.path


def page() -> str:
    """The text of the page."""
    sections = [_HEAD]
    for name, routes in (("OpenAI", openai.ROUTES), ("Anthropic", anthropic.ROUTES), ("Gemini", gemini.ROUTES)):
        rows = [f"| `{_asked(route)}` | {_kind(route)} |" for route in routes if not _below(route)]
        sections.append("\n".join([f"## {name}\n", "| Endpoint | |", "|---|---|", *rows]) + "\n")
    sections.append((Path(__file__).parent / "features.md").read_text())
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page())
