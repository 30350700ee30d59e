"""Agents that have run away by saying the same again and again: whole requests, turns of a talk, cycles of roles.

A repetition is counted where the model is asked anew for what it has answered already, the first time included.
"""

from tests.transcripts.kinds import runaway
from tests.transcripts.tape import COMPLETIONS, EMBEDDINGS, Chat, Tape, once, stamp

EXTRACTOR = "Extract the invoice number, the total and the due date. Answer with JSON only."
USAGE_TOO = {"stream": True, "stream_options": {"include_usage": True}}


def times(tape: Tape) -> int:
    """How often a loop goes round before somebody would notice."""
    return tape.random.randint(11, 16)


# --- one request ---


@runaway("one call")
def identical_calls(tape: Tape) -> None:
    """Code waits for an answer that it can use, and asks with the very same request until it gets one."""
    document, temperature = tape.prose(6), tape.pick(0, 0.2, 0.7)
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, EXTRACTOR, document, "Sure! Here is the JSON you asked for.", members={"temperature": temperature})
        tape.wait(0.01, 0.8)


@runaway("one call")
def identical_streams(tape: Tape) -> None:
    """The same request is streamed again and again, because the reader stops too early each time."""
    document = tape.prose(5)
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "You are a careful editor.", document, tape.prose(8), model="gpt-4o", members=USAGE_TOO)
        tape.wait(0.01, 0.5)


@runaway("one call")
def slow_identical_calls(tape: Tape) -> None:
    """The same question goes to a reasoning model that takes most of a minute to answer, without end."""
    question = tape.prose(8)
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "", question, tape.prose(30), model="gpt-5", took_s=tape.random.uniform(20, 55))
        tape.wait(0.05, 2)


@runaway("one call")
def clock_in_the_prompt(tape: Tape) -> None:
    """The same request again and again, but for the current time in its system prompt and a trace id beside it."""
    task = tape.prose(3)
    for _ in range(times(tape)):
        tape.repeat()
        system = f"You are an agent of the finance team.\nCurrent time: {stamp(tape.now_ms)}\nDecide what to do next."
        members = {"metadata": {"trace_id": tape.uuid()}, "user": "agent-7"}
        once(tape, system, task, "I will look into it.", members=members)
        tape.wait(0.1, 2)


@runaway("one call of the agent's code: up to three attempts of its SDK")
def retry_storm(tape: Tape) -> None:
    """The provider fails; the SDK tries three times, and the code around it starts over at once, for ever."""
    chat = Chat(tape, model="gpt-4o", system="You are a planner.").user(tape.prose(4))
    for _ in range(times(tape)):
        tape.repeat()
        for attempt in range(3):
            tape.send(chat.body, status=tape.pick(500, 503, 529), retry=attempt, took_s=tape.random.uniform(0.1, 0.6))
            tape.wait(0.5 * 2**attempt, 0.6 * 2**attempt)


@runaway("one call")
def retry_storm_without_a_pause(tape: Tape) -> None:
    """A program without an SDK sends a failing call again at once, for ever; the provider says 429 or 500."""
    chat = Chat(tape, model="gpt-4o", system="You are a planner.").user(tape.prose(4))
    for _ in range(times(tape) + 20):
        tape.repeat()
        tape.send(chat.body, status=tape.pick(429, 500), took_s=tape.random.uniform(0.05, 0.3))
        tape.wait(0.001, 0.1)


@runaway("one call")
def retries_of_good_answers(tape: Tape) -> None:
    """Code takes a good answer for a failure (it cannot parse it), and has no end to its retries, with back-off."""
    document = tape.prose(7)
    for turn in range(times(tape)):
        tape.repeat()
        once(tape, EXTRACTOR, document, '```json\n{"invoice": "A-17"}\n```', members={"temperature": 0})
        tape.wait(min(8, 0.5 * 2**turn))


@runaway("one call")
def client_gives_up_too_early(tape: Tape) -> None:
    """The client's time-out is shorter than the answer takes: it hangs up and asks again, and every answer is billed."""
    chat = Chat(tape, model="gpt-4o", system="Write the whole report.").user(tape.prose(10))
    for _ in range(times(tape)):
        tape.repeat()
        tape.send(chat.body, output_tokens=400, took_s=10.0, retry=0)
        tape.wait(0.01, 0.1)


@runaway("one call")
def same_document_embedded(tape: Tape) -> None:
    """An indexer does not save where it was, and embeds the first batch for ever."""
    body = {"model": "text-embedding-3-small", "input": [tape.prose(2) for _ in range(8)], "encoding_format": "base64"}
    for _ in range(times(tape)):
        tape.repeat()
        tape.send(body, url=EMBEDDINGS, took_s=tape.random.uniform(0.1, 0.4))
        tape.wait(0.01, 0.1)


@runaway("one call")
def same_completion(tape: Tape) -> None:
    """An old program asks the completions endpoint the same for ever."""
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": tape.prose(4), "max_tokens": 256, "temperature": 0}
    for _ in range(times(tape)):
        tape.repeat()
        tape.send(body, url=COMPLETIONS, output_tokens=256)


@runaway("one call")
def loop_beside_work(tape: Tape) -> None:
    """One of two workers of a session is stuck on a request; the other goes on with its work in between."""
    stuck = tape.prose(4)
    for turn in range(times(tape)):
        tape.repeat()
        once(tape, EXTRACTOR, stuck, "Certainly.")
        if turn % 3 == 2:
            once(tape, "Write one friendly sentence about the product.", tape.prose(1), tape.prose(1))


# --- cycles of requests ---


@runaway("one round of planner and executor")
def planner_and_executor(tape: Tape) -> None:
    """A planner and an executor, each called afresh, hand each other the same plan and the same result (A B A B)."""
    plan, result = tape.prose(3), "The step could not be completed: permission denied."
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "You are the planner. Given the last result, write the next step.", result, plan, model="gpt-4o")
        tape.wait(0.05, 0.5)
        once(tape, "You are the executor. Carry out the step.", plan, result)
        tape.wait(0.05, 0.5)


@runaway("one round of planner, executor and critic")
def planner_executor_critic(tape: Tape) -> None:
    """Three roles in a ring that never leaves it (A B C A B C)."""
    plan, draft, verdict = tape.prose(2), tape.prose(6), "Not good enough: please cite the source."
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "You are the planner.", verdict, plan, model="gpt-4o")
        once(tape, "You are the writer.", plan, draft)
        once(tape, "You are the critic. Say OK or what is missing.", draft, verdict)
        tape.wait(0.05, 0.4)


@runaway("one round of seven steps")
def pipeline_restarted(tape: Tape) -> None:
    """The last of seven steps fails, and the whole chain is begun again, with the same requests."""
    steps = [(f"Step {number} of 7: {tape.sentence()}", tape.prose(3)) for number in range(1, 8)]
    for _ in range(10):
        tape.repeat()
        for system, text in steps:
            once(tape, system, text, tape.sentence(), took_s=tape.random.uniform(0.5, 1.5))


@runaway("one message of each agent")
def two_agents_in_circles(tape: Tape) -> None:
    """Two agents share a session and thank each other without end; each is shown only the other's last message."""
    thanks, welcome = "Thank you, that is all I need!", "You are welcome! Is there anything else I can do for you?"
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "You are the buyer's assistant.", welcome, thanks)
        once(tape, "You are the seller's assistant.", thanks, welcome)
        tape.wait(0.02, 0.3)


@runaway("one message of each agent")
def two_agents_with_memory(tape: Tape) -> None:
    """Two agents that remember the whole talk have nothing more to say, and say so to each other for ever."""
    thanks, welcome = "Great, thanks again. Goodbye!", "Goodbye, and thank you!"
    buyer = Chat(tape, system="You are the buyer's assistant.")
    seller = Chat(tape, system="You are the seller's assistant.")
    opening = tape.sentence()
    for turn in range(times(tape)):
        tape.repeat()
        buyer.user(welcome if turn else opening).ask(thanks)
        seller.user(thanks).ask(welcome)
        tape.wait(0.02, 0.3)


@runaway("one round of writer and judge")
def never_good_enough(tape: Tape) -> None:
    """A writer and a judge: the judge always asks for more, the writer always sends the same text; the talk grows."""
    writer = Chat(tape, model="gpt-4o", system="Write a product description.").user(tape.prose(2))
    text, verdict = tape.prose(5), "The tone is not friendly enough. Revise."
    for _ in range(times(tape)):
        tape.repeat()
        writer.ask(text)
        once(tape, "Judge the text. Answer PASS, or say what to revise.", text, verdict)
        writer.user(verdict)


@runaway("one summary")
def summary_of_the_summary(tape: Tape) -> None:
    """A context manager summarises what is too long for it; the summary is too long too, and comes out as it went in."""
    instruction = "Summarise the conversation so far in at most 200 words, keeping all facts."
    once(tape, instruction, tape.prose(40), tape.prose(12))
    summary = tape.prose(12)
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, instruction, summary, summary)
        tape.wait(0.02, 0.2)


@runaway("one answer that is sent back")
def reask_for_valid_json(tape: Tape) -> None:
    """A library sends a broken answer back with the parser's message until it is right, which it never is."""
    chat = Chat(tape, system=EXTRACTOR, temperature=0).user(tape.prose(6))
    for _ in range(times(tape)):
        tape.repeat()
        chat.ask('{"invoice": "A-17", "total": 12,50}')
        chat.user("Your answer was not valid JSON: Expecting ',' delimiter: line 1 column 36 (char 35). Correct it.")


@runaway("one generation of sub-agents")
def delegation_to_itself(tape: Tape) -> None:
    """An agent hands its task on to a sub-agent, which does the same, which does the same."""
    task = tape.prose(3)
    delegate = {"type": "function", "function": {"name": "delegate", "parameters": {"type": "object"}}}
    for _ in range(times(tape)):
        tape.repeat()
        chat = Chat(tape, system="You are an expert. Delegate what others can do.", tools=[delegate]).user(task)
        chat.use(("delegate", {"task": task}, "started"), took_s=(0.01, 0.1))


@runaway("one generation of sub-agents")
def delegation_to_two(tape: Tape) -> None:
    """An agent hands its task on to two sub-agents, each of which does the same: every generation is twice as many."""
    body = Chat(tape, system="You are an expert. Delegate to two others.").user(tape.prose(3)).body
    for generation in range(8):
        tape.repeat()
        jobs = [lambda: tape.send(body, output_tokens=40, took_s=tape.random.uniform(1, 2))] * 2**generation
        tape.together(jobs, len(jobs))
