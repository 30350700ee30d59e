"""Agents that have run away without saying the same twice: in the size of their context, their number, or their speed."""

from collections.abc import Callable
from functools import partial

from tests.transcripts.kinds import runaway
from tests.transcripts.tape import Chat, Tape, once, tool

READ = tool("read_log", page="which")


@runaway("one doubling of the conversation")
def history_appended_to_itself(tape: Tape) -> None:
    """A bug appends the whole history to the history with each turn: every call is twice as large as the one before."""
    chat = Chat(tape, model="gpt-4.1", system="You are a helpful assistant.").user(tape.prose(3))
    for turn in range(11):
        if turn:
            tape.repeat()
        chat.ask(tape.sentence())
        chat.messages.extend(chat.messages[1:])
        tape.wait(0.2, 2)


@runaway("one more copy of the retrieved passages")
def same_passages_again(tape: Tape) -> None:
    """A retriever adds the same passages to the conversation with every step, and nothing ever takes them out."""
    chat = Chat(tape, model="gpt-4o", system="Answer from the passages.")
    passages = tape.prose(60)
    chat.user(tape.sentence())
    for _ in range(14):
        tape.repeat()
        chat.user(f"Context:\n{passages}")
        chat.ask(f"I need more context. {tape.sentence()}")
        tape.wait(0.2, 2)


@runaway("one generation of sub-agents")
def sub_agents_of_sub_agents(tape: Tape) -> None:
    """Every sub-agent splits its task in three and starts a sub-agent for each, which do the same."""
    tasks = [tape.prose(2)]
    for generation in range(1, 9):
        tape.repeat()
        jobs: list[Callable[[], None]] = [
            partial(
                once, tape, f"You are sub-agent {tape.hex(4)} of generation {generation}. Split the task.", task,
                tape.prose(3), model="gpt-4o", took_s=tape.random.uniform(1.5, 3),
            )
            for task in tasks
        ]  # fmt: skip
        tape.together(jobs, len(jobs))
        tasks = [tape.prose(2) for _ in range(min(400, 3 * len(tasks)))]


@runaway("one call after the change of model")
def spend_explodes(tape: Tape) -> None:
    """After a quiet hour an agent switches to the dearest model with the longest answers, many at a time."""
    for _ in range(30):
        once(tape, "Answer briefly.", tape.sentence(), tape.sentence())
        tape.wait(60, 150)
    for _ in range(8):
        jobs = [partial(_dear, tape) for _ in range(4)]
        tape.together(jobs, 4)


def _dear(tape: Tape) -> None:
    tape.repeat()
    Chat(tape, model="o1-pro").user(tape.prose(10)).ask("", output_tokens=30_000, took_s=tape.random.uniform(20, 40))
