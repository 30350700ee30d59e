"""The transcripts: what is kept is what is generated, every call in them is one that a client could make."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.transcripts.collection import GENERATED, REPETITIONS_MAX, Transcript, files, label, read, transcripts
from tests.transcripts.evaluation import fault, judge
from tests.transcripts.kinds import KINDS, Kind
from tokengate.providers import Router
from tokengate.providers.openai import ROUTES

ROOT = Path(__file__).parent.parent
ROUTER = Router(ROUTES)
MADE = files()
KEPT = transcripts()


def lines(transcript: Transcript) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read(transcript.path).splitlines()]


def test_what_is_kept_is_what_is_generated() -> None:
    assert {path.name for path in GENERATED.iterdir()} == MADE.keys()
    for name, text in MADE.items():
        assert read(GENERATED / name) == text, f"{name}: write it anew with python -m tests.transcripts write"


def test_there_are_enough_of_both() -> None:
    runaways = [each for each in KEPT if each.label["verdict"] == "runaway"]
    assert len(runaways) >= 30
    assert len(KEPT) - len(runaways) >= 60


def test_the_documents_name_as_many_as_there_are() -> None:
    runaways = sum(each.label["verdict"] == "runaway" for each in KEPT)
    said = " ".join((ROOT / "docs" / "explanation" / "runaways.md").read_text().split())
    assert (
        f"{runaways} of {runaways} runaways are frozen by the beginning of their {REPETITIONS_MAX}th repetition" in said
    )
    assert f"none of {len(KEPT) - runaways} healthy ones is touched" in said


def test_another_seed_is_another_transcript_of_the_same_kind() -> None:
    for kind in KINDS.values():
        first, second = kind.tape(0), kind.tape(1)
        assert first.text() != second.text(), kind.name
        assert first.repetition >= REPETITIONS_MAX if kind.runaway else first.repetition == 0, kind.name


@pytest.mark.parametrize("transcript", KEPT, ids=lambda each: each.name)
def test_every_call_is_one_that_the_gate_would_take(transcript: Transcript) -> None:
    calls = lines(transcript)
    assert [call["timestamp"] for call in calls] == sorted(call["timestamp"] for call in calls)
    for call in calls:
        route = ROUTER.match("POST", call.get("url", "/v1/chat/completions"))
        assert route is not None
        assert route.endpoint is not None
        parsed = route.endpoint.parse(json.dumps(call["body"]).encode()).call
        # A usage beyond what the body can hold would be no transcript but a tale.
        assert call.get("usage", {}).get("prompt_tokens", 0) <= parsed.input_tokens_max
    frozen_by = transcript.label.get("frozen_by_call")
    assert frozen_by is None or frozen_by <= len(calls)


@pytest.mark.parametrize("transcript", KEPT, ids=lambda each: each.name)
def test_the_rules_are_right_about_it(transcript: Transcript) -> None:
    assert fault(judge(read(transcript.path)), transcript.label) == ""


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda each: each.name)
def test_the_rules_are_right_about_others_of_its_kind(kind: Kind) -> None:
    for seed in (1, 2):
        tape = kind.tape(seed)
        assert fault(judge(tape.text().encode()), label(kind, tape)) == "", seed
