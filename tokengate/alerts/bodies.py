"""An alert as its receiver wants it: our own JSON, a Slack message, or an event of PagerDuty. Pure.

`slack` is understood by whatever takes Slack's incoming webhooks (Mattermost, Rocket.Chat, Discord with `/slack`);
`pagerduty` by whatever takes the Events API v2. docs/reference/alerts.md describes all three.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from tokengate import __version__
from tokengate.alerts import Alert, Budget
from tokengate.money import usd_number
from tokengate.telemetry import timestamp

VERSION: Final = 1
"""Of the body `json`: raised when a field changes its meaning or goes away; new fields do not raise it."""

PAGERDUTY_SUMMARY_MAX: Final = 1024
"""https://developer.pagerduty.com/docs/send-alert-event"""

SLACK_TEXT_MAX: Final = 3000
"""Of one text object (https://docs.slack.dev/reference/block-kit/composition-objects/text-object)."""

_MARKS: Final = {"info": "🔵", "warning": "🟡", "error": "🟠", "critical": "🔴"}


def json_body(alert: Alert) -> bytes:
    """Our own, with everything that is known."""
    return orjson.dumps(_fields(alert))


def slack_body(alert: Alert) -> bytes:
    """A message for Slack's incoming webhooks (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""
    mark = "✅" if alert.state == "resolved" else _MARKS[alert.severity]
    text = f"{mark} {_escaped(alert.summary)}"[:SLACK_TEXT_MAX]
    notes = [f"tenant {alert.tenant}", timestamp(alert.at_ms)]
    if alert.budget is not None and alert.budget.resets_at_ms is not None:
        notes.append(f"resets at {timestamp(alert.budget.resets_at_ms)}")
    if alert.until_ms is not None:
        notes.append(f"until {timestamp(alert.until_ms)}")
    if alert.by is not None:
        notes.append(f"by {alert.by}")
    return orjson.dumps(
        {
            "text": text,
            "blocks": [
                {"type": "section", "text": {"type": "mrkdwn", "text": text}},
                {"type": "context", "elements": [{"type": "mrkdwn", "text": _escaped(" · ".join(notes))}]},
            ],
        }
    )


def pagerduty_body(alert: Alert, routing_key: str) -> bytes:
    """An event of the Events API v2 (https://developer.pagerduty.com/docs/send-alert-event)."""
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "resolve" if alert.state == "resolved" else "trigger",
        "dedup_key": alert.dedup_key,
        "client": "TokenGate",
    }
    if alert.state != "resolved":
        event["payload"] = {
            "summary": alert.summary[:PAGERDUTY_SUMMARY_MAX],
            "source": alert.gate or f"tokengate/{alert.tenant}",
            "severity": alert.severity,
            "timestamp": timestamp(alert.at_ms),
            "component": "tokengate",
            "group": alert.tenant,
            "class": alert.type,
            "custom_details": _fields(alert),
        }
    return orjson.dumps(event)


def writer(form: str, routing_key: str) -> Callable[[Alert], bytes]:
    """The function that writes bodies of a form: `json`, `slack` or `pagerduty`."""
    forms: Mapping[str, Callable[[Alert], bytes]] = {
        "json": json_body,
        "slack": slack_body,
        "pagerduty": lambda alert: pagerduty_body(alert, routing_key),
    }
    return forms[form]


def _fields(alert: Alert) -> dict[str, Any]:
    return {
        "version": VERSION,
        "id": alert.id,
        "type": alert.type,
        "state": alert.state,
        "severity": alert.severity,
        "dedup_key": alert.dedup_key,
        "at": timestamp(alert.at_ms),
        "summary": alert.summary,
        "tenant": alert.tenant,
        "scope": {"kind": alert.subject.kind, "name": alert.subject.name} if alert.subject else None,
        "budget": _budget(alert.budget) if alert.budget else None,
        "reason": alert.reason,
        "until": _time(alert.until_ms),
        "by": alert.by,
        "rule": alert.rule,
        "gate": alert.gate,
        "source": f"tokengate/{__version__}",
    }


def _budget(budget: Budget) -> dict[str, Any]:
    return {
        "percent": budget.percent,
        "budget": usd_number(budget.cap_nano),
        "spent": usd_number(budget.spent_nano),
        "remaining": usd_number(max(0, budget.cap_nano - budget.spent_nano)),
        "resets_at": _time(budget.resets_at_ms),
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else timestamp(ms)


def _escaped(text: str) -> str:
    """Slack's three control characters (https://docs.slack.dev/messaging/formatting-message-text#escaping)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
