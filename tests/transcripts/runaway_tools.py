"""Agents that have run away with their tools, inside a conversation that grows with every call.

A repetition is a call of the model in which it has learnt nothing since the one before, the first included.
"""

import json
from functools import partial
from typing import Any

from tests.transcripts.kinds import runaway
from tests.transcripts.runaways import USAGE_TOO, times
from tests.transcripts.tape import Chat, Tape, once, stamp, tool

SEARCH = tool("search", query="what to look for")
SQL = tool("run_sql", query="one statement")
EDIT = tool("edit_file", path="the file", text="its new text")
RUN = tool("run_tests", target="which")
FETCH = tool("fetch", url="the page")
ASSISTANT = "You are a helpful assistant. Use the tools."
APOLOGIES = (
    "Let me try that again.",
    "I apologise for the confusion. I will run the query once more.",
    "It seems that this did not work. Let me retry.",
    "I will try the same once more, it may have been a temporary problem.",
    None,
    "Sorry about that! Trying again.",
)


@runaway("one call of the tool")
def tool_loop(tape: Tape) -> None:
    """A model calls the same tool with the same arguments, gets the same result, and calls it again."""
    chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(tape.prose(1))
    query, result = tape.words(4), "No results found."
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(("search", {"query": query}, result))


@runaway("one call of the tool")
def tool_loop_streamed(tape: Tape) -> None:
    """The same, with streamed answers."""
    chat = Chat(tape, model="gpt-4.1", system=ASSISTANT, tools=[SEARCH], **USAGE_TOO).user(tape.prose(1))
    query, result = tape.words(3), [{"title": tape.words(4), "snippet": tape.prose(2)} for _ in range(3)]
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(("search", {"query": query}, result))


@runaway("one call of the tool")
def tool_loop_with_ids(tape: Tape) -> None:
    """The result is the same but for a request id, a time and how long it took."""
    chat = Chat(tape, system=ASSISTANT, tools=[FETCH]).user(tape.prose(1))
    for _ in range(times(tape)):
        tape.repeat()
        result = {
            "status": 404,
            "error": "not found",
            "request_id": f"req_{tape.hex(24)}",
            "timestamp": stamp(tape.now_ms),
            "elapsed_ms": tape.random.randint(20, 400),
        }
        chat.use(("fetch", {"url": "https://example.com/v2/report"}, result))


@runaway("one call of the tool")
def tool_loop_with_ids_in_text(tape: Tape) -> None:
    """The result is a text with a trace id and a time in it, as log lines and stack traces have."""
    chat = Chat(tape, system=ASSISTANT, tools=[FETCH]).user(tape.prose(1))
    for _ in range(times(tape)):
        tape.repeat()
        when = stamp(tape.now_ms)
        result = f"[{when}] ERROR upstream timed out (trace {tape.uuid()}, pod api-7d9f)\nnothing was fetched"
        chat.use(("fetch", {"url": "https://example.com/status"}, result))


@runaway("one call of the tool")
def tool_loop_with_prose(tape: Tape) -> None:
    """Between the same calls the model says something else each time."""
    chat = Chat(tape, system=ASSISTANT, tools=[SQL]).user(tape.prose(2))
    query = "SELECT total FROM invoices WHERE customer = 'ACME'"
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(("run_sql", {"query": query}, 'ERROR: column "total" does not exist'), said=tape.pick(*APOLOGIES))


@runaway("one call of the tool")
def failing_call_not_corrected(tape: Tape) -> None:
    """A call fails for its arguments; the model corrects nothing but the order of the keys and the spaces."""
    chat = Chat(tape, model="gpt-4o", system=ASSISTANT, tools=[tool("book", day="ISO", room="name")])
    chat.user("Book room Aldgate for the first of June.")
    for turn in range(times(tape)):
        tape.repeat()
        arguments: dict[str, Any] = {"day": "2026-06-01", "room": "Aldgate"}
        if turn % 2:
            arguments = dict(reversed(arguments.items()))
        written = json.dumps(arguments, indent=turn % 3 or None)
        chat.use(("book", written, {"ok": False, "error": "room not found"}))


@runaway("one round of the two attempts")
def two_fixes_in_turn(tape: Tape) -> None:
    """A coding agent makes a change, the tests fail; it makes another, they fail otherwise; it goes back to the first."""
    chat = Chat(tape, model="gpt-4.1", system="You are a coding agent.", tools=[EDIT, RUN])
    chat.user("Make the tests pass.")
    fixes = [(tape.prose(2), f"1 failed: {tape.words(5)}") for _ in range(2)]
    for _ in range(times(tape)):
        tape.repeat()
        for text, failure in fixes:
            chat.use(("edit_file", {"path": "app.py", "text": text}, "written"))
            chat.use(("run_tests", {"target": "all"}, failure))


@runaway("one round of the three tools")
def three_tools_in_turn(tape: Tape) -> None:
    """Search, open, go back; search, open, go back: the same pages each time."""
    chat = Chat(tape, system="You browse the web.", tools=[SEARCH, FETCH, tool("back")]).user(tape.prose(1))
    query, found, page = tape.words(3), tape.prose(2), tape.prose(4)
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(("search", {"query": query}, found))
        chat.use(("fetch", {"url": "https://example.com/a"}, page))
        chat.use(("back", {}, "ok"))


@runaway("one turn with its three calls")
def parallel_calls(tape: Tape) -> None:
    """Every turn calls three tools at once, the same three as before, with the same results in another order."""
    chat = Chat(tape, system=ASSISTANT, tools=[FETCH, SEARCH]).user(tape.prose(1))
    uses = [("fetch", {"url": f"https://example.com/{name}"}, "503 Service Unavailable") for name in "abc"]
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(*tape.random.sample(uses, 3))


@runaway("one look at the job")
def polling_without_a_pause(tape: Tape) -> None:
    """The model asks for a job's status as fast as it can, and would go on for the hours that the job takes."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("job_status", job="its id")]).user("Tell me when job 71 is done.")
    for _ in range(times(tape) + 8):
        tape.repeat()
        chat.use(("job_status", {"job": "71"}, {"job": "71", "state": "running"}), took_s=(0.02, 0.2))


@runaway("one attempt")
def agent_restarted_from_its_task(tape: Tape) -> None:
    """A supervisor restarts a crashing agent, which takes the same four steps to the same crash each time."""
    task, steps = tape.prose(2), [(tape.words(3), tape.prose(2)) for _ in range(4)]
    for _ in range(10):
        tape.repeat()
        chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(task)
        for query, result in steps:
            chat.use(("search", {"query": query}, result), took_s=(0.02, 0.3))
        tape.wait(0.5, 2)


@runaway("one compaction and the step after it")
def compaction_loop(tape: Tape) -> None:
    """The context is compacted, the next step overflows it again with the same file, and it is compacted again."""
    file, summary = tape.prose(30), tape.prose(4)
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "Summarise this conversation for the next agent.", f"{summary}\n{file}", summary, model="gpt-4.1")
        chat = Chat(tape, model="gpt-4.1", system="You are a coding agent.", tools=[EDIT]).user(summary)
        chat.use(("edit_file", {"path": "app.py", "text": ""}, file))


@runaway("one call of the tool")
def window_that_slides(tape: Tape) -> None:
    """The same tool loop, but the agent keeps only the last messages, so that the conversation does not grow."""
    chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(tape.prose(1))
    query, head = tape.words(4), 2
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(("search", {"query": query}, "[]"))
        del chat.messages[head : max(head, len(chat.messages) - 6)]


@runaway("one call of the tool")
def react_in_text(tape: Tape) -> None:
    """A ReAct agent without tool calls: thought, action and observation are text in one growing prompt."""
    prompt = f"Question: {tape.sentence()}\nUse the format Thought / Action / Action Input / Observation.\n"
    step = (
        f"Thought: I should look it up.\nAction: search\nAction Input: {tape.words(3)}\nObservation: no good result\n"
    )
    for _ in range(times(tape)):
        tape.repeat()
        once(tape, "", prompt, step, members={"stop": ["Observation:"]})
        prompt += step


@runaway("one call of the functions")
def old_function_calls(tape: Tape) -> None:
    """The same with `functions` and messages of the role `function`, as programs of 2023 still send them."""
    chat = Chat(tape, model="gpt-3.5-turbo", functions=[SEARCH["function"]]).user(tape.sentence())
    query = json.dumps({"query": tape.words(3)})
    for _ in range(times(tape)):
        tape.repeat()
        tape.send(chat.body, output_tokens=20)
        called = {"name": "search", "arguments": query}
        chat.messages.append({"role": "assistant", "content": None, "function_call": called})
        chat.messages.append({"role": "function", "name": "search", "content": "nothing found"})
        tape.wait(0.1, 0.5)


@runaway("one call of the tool")
def stuck_among_many(tape: Tape) -> None:
    """Six conversations share a session; five get on with their work, and one calls the same tool for ever."""
    tasks = [tape.prose(1) for _ in range(6)]
    query, result = tape.words(4), "No results found."

    def stuck() -> None:
        chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(tasks[0])
        for _ in range(times(tape)):
            tape.repeat()
            chat.use(("search", {"query": query}, result))

    def work(task: str) -> None:
        chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(task)
        for _ in range(times(tape)):
            chat.use(("search", {"query": tape.words(3)}, tape.prose(2)))

    tape.together([stuck, *(partial(work, task) for task in tasks[1:])], 6)


@runaway("one round of the three searches")
def flailing(tape: Tape) -> None:
    """A model goes to and fro between three searches, in another order each time, which find what they found before."""
    chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(tape.prose(1))
    searches = [("search", {"query": tape.words(2)}, tape.sentence()) for _ in range(3)]
    for _ in range(times(tape)):
        tape.repeat()
        for search in tape.random.sample(searches, 3):
            chat.use(search)


@runaway("one call of the tool")
def attempts_counted(tape: Tape) -> None:
    """The same call fails in the same way; only the number of the attempt in the error goes up."""
    chat = Chat(tape, system=ASSISTANT, tools=[SQL]).user(tape.prose(1))
    query = f"SELECT * FROM {tape.words(1)}"
    for attempt in range(1, times(tape) + 1):
        tape.repeat()
        error = {"error": "deadlock detected", "attempt": attempt, "retryable": True}
        chat.use(("run_sql", {"query": query}, error))


@runaway("one call of the tool")
def nudged_after_each_result(tape: Tape) -> None:
    """After each result the agent's code adds the same sentence of its own; the model thinks aloud, and calls the same."""
    chat = Chat(tape, model="gpt-4o", system=ASSISTANT, tools=[FETCH]).user(tape.prose(2))
    for _ in range(times(tape)):
        tape.repeat()
        chat.use(("fetch", {"url": "https://example.com/login"}, "403 Forbidden"), said=tape.sentence())
        chat.user("Determine which tool to use next, and use it.")


@runaway("one call of the tool")
def slow_tool_loop(tape: Tape) -> None:
    """A tool takes some seconds each time to say that it has found nothing, and the model some more to call it again."""
    chat = Chat(tape, model="gpt-5", system=ASSISTANT, tools=[FETCH]).user(tape.prose(1))
    for _ in range(times(tape)):
        tape.repeat()
        use = ("fetch", {"url": "https://example.com/slow"}, "Error: the page could not be loaded")
        chat.use(use, took_s=(3, 7))
