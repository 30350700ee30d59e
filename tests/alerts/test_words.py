"""What an event has to say, and how its receivers are told."""

import json
from typing import Any

import pytest

from tokengate.alerts import DEDUP_CHARACTERS_MAX, Alert, alert_of, example, store_alert, topic
from tokengate.alerts.bodies import PAGERDUTY_SUMMARY_MAX, json_body, pagerduty_body, slack_body, writer
from tokengate.ledger.events import Event

AT_MS = 1_790_000_000_000
SESSION = "tokengate:{default}:session:my-session"


def threshold(percent: str = "80", scope: str = SESSION, tenant: str = "default", **fields: str) -> Alert:
    given = {
        "scope": scope,
        "percent": percent,
        "budget": "10.000000000",
        "spent": "8.123456789",
        "resets": "",
    } | fields
    alert = alert_of(Event("1-0", AT_MS, "threshold", given), tenant)
    assert alert is not None
    return alert


def relief() -> Alert:
    given = {"scope": SESSION, "budget": "20.000000000", "spent": "8.123456789"}
    alert = alert_of(Event("2-0", AT_MS, "relief", given), "default")
    assert alert is not None
    return alert


def freeze(kind: str = "freeze", **fields: str) -> Alert:
    alert = alert_of(Event("3-0", AT_MS, kind, {"scope": SESSION} | fields), "default")
    assert alert is not None
    return alert


class TestEvents:
    @pytest.mark.parametrize(
        ("percent", "severity", "words"),
        [
            ("50", "info", "50% of the budget of the session my-session is spent: $8.12 of $10.00."),
            ("80", "warning", "80% of the budget of the session my-session is spent: $8.12 of $10.00."),
            ("95", "error", "95% of the budget of the session my-session is spent: $8.12 of $10.00."),
            (
                "100",
                "critical",
                "The budget of the session my-session is used up: $8.12 of $10.00 spent. Calls are refused.",
            ),
        ],
    )
    def test_a_threshold(self, percent: str, severity: str, words: str) -> None:
        alert = threshold(percent)
        assert (alert.type, alert.state, alert.severity, alert.summary) == (
            "budget.threshold",
            "firing",
            severity,
            words,
        )

    def test_what_has_room_again_resolves_what_had_none(self) -> None:
        assert relief().state == "resolved"
        assert relief().dedup_key == threshold().dedup_key == "tokengate/default/session/my-session/budget"

    def test_small_budgets_are_told_to_the_millionth(self) -> None:
        assert "$0.008123 of $0.01" in threshold(budget="0.010000000", spent="0.008123456").summary

    def test_a_freeze_and_a_thaw(self) -> None:
        frozen, thawed = (
            freeze(reason="100 identical calls", after=f"frozen until {AT_MS + 60_000}", by="anomaly"),
            freeze("unfreeze"),
        )
        assert frozen.summary == "The session my-session is frozen: 100 identical calls."
        assert (frozen.state, thawed.state) == ("firing", "resolved")
        assert frozen.dedup_key == thawed.dedup_key
        assert (frozen.until_ms, frozen.by) == (AT_MS + 60_000, "anomaly")
        assert freeze(after="frozen").until_ms is None
        assert (freeze(by="ann").rule, freeze(by="anomaly", rule="tool_loop").rule) == (None, "tool_loop")

    def test_a_reason_has_a_bound(self) -> None:
        assert len(freeze(reason="x" * 10_000).summary) < 600

    @pytest.mark.parametrize(
        "event",
        [
            Event("1-0", AT_MS, "overrun", {"scope": SESSION, "usd": "1"}),
            Event("1-0", AT_MS, "threshold", {"scope": SESSION, "percent": "80"}),
            Event("1-0", AT_MS, "threshold", {"scope": SESSION, "percent": "80", "budget": "x", "spent": "1"}),
            Event("1-0", AT_MS, "threshold", {"scope": "rubbish", "percent": "80", "budget": "1", "spent": "1"}),
            Event("1-0", AT_MS, "freeze", {}),
            Event("1-0", AT_MS, "", {}),
        ],
    )
    def test_others_say_nothing(self, event: Event) -> None:
        assert alert_of(event, "default") is None

    def test_names_with_colons_stay_whole(self) -> None:
        alert = threshold(scope="tokengate:{a:b}:agent:team:crawler", tenant="a:b")
        assert alert.subject is not None
        assert (alert.subject.kind, alert.subject.name) == ("agent", "team:crawler")

    def test_the_longest_names_have_a_key_that_is_short_enough(self) -> None:
        name = "n" * 128
        keys = {
            threshold(scope=f"tokengate:{{{name}}}:{kind}:{name}", tenant=name).dedup_key
            for kind in ("session", "agent")
        }
        assert len(keys) == 2
        assert all(len(key) <= DEDUP_CHARACTERS_MAX for key in keys)

    def test_the_store_is_one_thing_for_all_gates(self) -> None:
        lost = store_alert("default", "pod-1", AT_MS, "closed", lost=True)
        back = store_alert("default", "pod-2", AT_MS, "closed", lost=False)
        assert lost.dedup_key == back.dedup_key
        assert (lost.severity, back.state) == ("critical", "resolved")
        assert "refuses calls (ON_STORE_FAILURE=closed)" in lost.summary

    def test_topics(self) -> None:
        lost = store_alert("default", "one", AT_MS, "open", lost=True)
        assert [topic(each) for each in (threshold(), relief(), freeze(), freeze("unfreeze"), lost)] == [
            "budget",
            "budget",
            "freeze",
            "freeze",
            "store",
        ]


class TestBodies:
    def test_json(self) -> None:
        body = json.loads(json_body(threshold(resets=str(AT_MS + 1000))))
        assert body == {
            "version": 1,
            "id": "1-0",
            "type": "budget.threshold",
            "state": "firing",
            "severity": "warning",
            "dedup_key": "tokengate/default/session/my-session/budget",
            "at": "2026-09-21T14:13:20.000Z",
            "summary": "80% of the budget of the session my-session is spent: $8.12 of $10.00.",
            "tenant": "default",
            "scope": {"kind": "session", "name": "my-session"},
            "budget": {
                "percent": 80,
                "budget": 10.0,
                "spent": 8.123456789,
                "remaining": 1.876543211,
                "resets_at": "2026-09-21T14:13:21.000Z",
            },
            "reason": None,
            "until": None,
            "by": None,
            "rule": None,
            "gate": None,
            "source": body["source"],
        }

    def test_json_has_the_same_fields_whatever_it_is(self) -> None:
        every = [
            threshold(),
            relief(),
            freeze(),
            example("default", AT_MS),
            store_alert("a", "b", 0, "open", lost=True),
        ]
        assert len({tuple(json.loads(json_body(alert))) for alert in every}) == 1

    def test_slack(self) -> None:
        body = json.loads(slack_body(freeze(reason="<!channel> & co", after=f"frozen until {AT_MS}", by="a<b")))
        text = "🟠 The session my-session is frozen: &lt;!channel&gt; &amp; co."
        assert body["text"] == text
        assert body["blocks"][0] == {"type": "section", "text": {"type": "mrkdwn", "text": text}}
        notes = body["blocks"][1]["elements"][0]["text"]
        assert "until 2026-09-21T14:13:20.000Z" in notes
        assert "by a&lt;b" in notes
        assert json.loads(slack_body(relief()))["text"].startswith("✅")

    def test_pagerduty(self) -> None:
        body: dict[str, Any] = json.loads(pagerduty_body(threshold("100"), "R0UT1NG"))
        payload = body.pop("payload")
        assert body == {
            "routing_key": "R0UT1NG",
            "event_action": "trigger",
            "dedup_key": "tokengate/default/session/my-session/budget",
            "client": "TokenGate",
        }
        assert {name: payload[name] for name in ("severity", "source", "class", "group")} == {
            "severity": "critical",
            "source": "tokengate/default",
            "class": "budget.threshold",
            "group": "default",
        }
        assert payload["custom_details"]["budget"]["spent"] == 8.123456789
        assert (
            len(json.loads(pagerduty_body(freeze(reason="x" * 5000), ""))["payload"]["summary"])
            <= PAGERDUTY_SUMMARY_MAX
        )

    def test_pagerduty_resolves_by_key_alone(self) -> None:
        body = json.loads(pagerduty_body(relief(), "R0UT1NG"))
        assert body["event_action"] == "resolve"
        assert "payload" not in body

    def test_each_form_has_its_writer(self) -> None:
        alert = threshold()
        assert writer("json", "")(alert) == json_body(alert)
        assert writer("slack", "")(alert) == slack_body(alert)
        assert writer("pagerduty", "key")(alert) == pagerduty_body(alert, "key")
