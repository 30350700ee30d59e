"""Heavy use that is no runaway: people, programs on a clock, and clients that try again after a failure."""

from functools import partial

from tests.transcripts.kinds import healthy
from tests.transcripts.tape import Chat, Tape, once, stamp

SUPPORT = "You are the support assistant of a shop."


@healthy
def chat_with_regenerate(tape: Tape) -> None:
    """A person talks to an assistant and lets it answer anew, up to five times, what it does not like."""
    chat = Chat(tape, model="gpt-4o", system=SUPPORT)
    for _ in range(12):
        chat.user(tape.sentence())
        for _ in range(tape.pick(0, 0, 1, 2, 5)):
            chat.ask(tape.prose(3))
            chat.messages.pop()
            tape.wait(3, 15)
        chat.ask(tape.prose(3))
        tape.wait(5, 60)


@healthy
def regenerate_impatiently(tape: Tape) -> None:
    """A person presses "regenerate" six times within seconds."""
    chat = Chat(tape, model="gpt-4o", temperature=1).user(tape.sentence())
    for _ in range(7):
        chat.ask(tape.sentence(), took_s=tape.random.uniform(0.5, 1.5))
        chat.messages.pop()
        tape.wait(0.4, 2)


@healthy
def continue_continue(tape: Tape) -> None:
    """A person has a long story written, and says nothing but "continue" a dozen times; the story goes on."""
    chat = Chat(tape, model="gpt-4o").user("Write a long story.")
    for _ in range(12):
        chat.ask(tape.prose(8))
        tape.wait(4, 30)
        chat.user("continue")


@healthy
def retrieval(tape: Tape) -> None:
    """Questions about a handbook: the prompt is shared, the passages found differ, some questions come twice."""
    questions = [tape.sentence() for _ in range(18)]
    passages = {question: tape.prose(10) for question in questions}
    for question in tape.random.sample(questions * 2, 30):
        once(tape, "Answer from the passages.", f"{passages[question]}\n\n{question}", tape.prose(2))
        tape.wait(1, 20)


@healthy
def greetings_of_many_people(tape: Tape) -> None:
    """A widget on a page: all visitors share one session, and many say the same when they begin."""
    for _ in range(40):
        chat = Chat(tape, system=SUPPORT).user(tape.pick("Hello", "Hi", "hi", "Where is my order?", tape.sentence()))
        chat.ask("Hello! How can I help?")
        tape.wait(2, 40)
        if tape.random.random() < 0.6:
            chat.user(tape.sentence()).ask(tape.sentence())


@healthy
def many_people_at_once(tape: Tape) -> None:
    """Twelve people talk to an assistant at the same time, all in the default session."""
    tape.together([partial(_talk, tape) for _ in range(24)], 12)


def _talk(tape: Tape) -> None:
    chat = Chat(tape, system=SUPPORT)
    for _ in range(5):
        chat.user(tape.pick("ok", "thanks", tape.sentence(), tape.sentence())).ask(tape.sentence())
        tape.wait(4, 40)


@healthy
def guard_before_each_message(tape: Tape) -> None:
    """Every message is judged by a guard, answered, and the answer is judged too (A B A, A B A)."""
    chat = Chat(tape, model="gpt-4o", system=SUPPORT)
    for _ in range(15):
        said, answer = tape.pick("ok", "yes", tape.sentence()), tape.sentence()
        once(tape, "Is this message safe? Answer yes or no.", said, "yes", took_s=0.4)
        chat.user(said).ask(answer)
        once(tape, "Is this message safe? Answer yes or no.", answer, "yes", took_s=0.4)
        tape.wait(3, 25)


@healthy
def voice_assistant(tape: Tape) -> None:
    """A voice assistant asks speculatively with every few words that it has understood."""
    for _ in range(8):
        words = tape.words(8).split()
        for heard in range(2, 9, 2):
            once(tape, "You are a voice assistant.", " ".join(words[:heard]), tape.sentence(), took_s=0.3)
        tape.wait(3, 10)


@healthy
def heartbeat_every_minute(tape: Tape) -> None:
    """A monitor asks the same once a minute for forty minutes, to see whether the model answers."""
    for _ in range(40):
        began = tape.now_ms
        once(tape, "", "ping", "pong", took_s=tape.random.uniform(0.3, 1.5))
        tape.wait((began + 60_000 - tape.now_ms) / 1000)


@healthy
def heartbeat_every_half_minute(tape: Tape) -> None:
    """A monitor asks the same every thirty seconds."""
    for _ in range(40):
        once(tape, "", "ping", "pong", took_s=tape.random.uniform(0.3, 1.5), members={"max_tokens": 1})
        tape.wait(29, 30)


@healthy
def warm_up(tape: Tape) -> None:
    """Five workers of a service start and each sends the same greeting to warm its connection; then they work."""
    tape.together([partial(once, tape, "", "ping", "pong", took_s=0.4)] * 5, 5)
    for _ in range(20):
        once(tape, SUPPORT, tape.sentence(), tape.sentence())


@healthy
def reports_by_the_hour(tape: Tape) -> None:
    """The same six requests in the same order, at every full hour of a day."""
    requests = [tape.prose(2) for _ in range(6)]
    for _ in range(24):
        began = tape.now_ms
        for request in requests:
            once(tape, "Write this part of the report.", request, tape.prose(4), model="gpt-4o")
        tape.wait((began + 3_600_000 - tape.now_ms) / 1000)


@healthy
def clock_in_a_good_prompt(tape: Tape) -> None:
    """Every request carries the current time in its system prompt, and a question of its own."""
    for _ in range(30):
        once(tape, f"You are an assistant. Now: {stamp(tape.now_ms)}", tape.sentence(), tape.sentence())
        tape.wait(0.5, 4)


@healthy
def rate_limited_by_the_provider(tape: Tape) -> None:
    """The provider says 429 now and then; the SDK tries again, up to two times, and the work goes on."""
    for _ in range(30):
        chat = Chat(tape, model="gpt-4o", system=SUPPORT).user(tape.prose(2))
        for attempt in range(tape.pick(0, 0, 1, 2)):
            tape.send(chat.body, status=429, retry=attempt, took_s=0.1)
            tape.wait(1 + attempt, 2 + attempt)
        chat.ask(tape.sentence(), retry=tape.pick(0, 1))


@healthy
def outage_of_the_provider(tape: Tape) -> None:
    """The provider is down for two minutes: a client with five patient retries per item tries eight items."""
    for _ in range(8):
        chat = Chat(tape, system=SUPPORT).user(tape.prose(2))
        for attempt in range(5):
            tape.send(chat.body, status=503, retry=attempt, took_s=0.2)
            tape.wait(min(8, 0.5 * 2**attempt), 0.7 * 2**attempt)
    for _ in range(10):
        once(tape, SUPPORT, tape.prose(2), tape.sentence())


@healthy
def retries_without_saying_so(tape: Tape) -> None:
    """A client without an SDK tries again four times after a time-out, and says nowhere that it does."""
    for _ in range(10):
        chat = Chat(tape, model="gpt-4o", system=SUPPORT).user(tape.prose(3))
        for attempt in range(tape.pick(0, 1, 4)):
            tape.send(chat.body, status=504, took_s=5)
            tape.wait(2**attempt)
        chat.ask(tape.sentence())


@healthy
def busy_morning(tape: Tape) -> None:
    """A quiet night with a call every few minutes, then forty people come to work at nine."""
    for _ in range(20):
        once(tape, SUPPORT, tape.sentence(), tape.sentence())
        tape.wait(120, 400)
    tape.together([partial(_talk, tape) for _ in range(40)], 20)


@healthy
def one_dear_call_after_many_cheap(tape: Tape) -> None:
    """An agent gathers cheaply for a while, and has the best model write the result, twice."""
    for _ in range(25):
        once(tape, "Extract the facts.", tape.prose(6), tape.prose(2))
    for _ in range(2):
        once(tape, "Write the report.", tape.prose(60), tape.prose(60), model="gpt-5", took_s=40.0)
        tape.wait(20, 60)


@healthy
def bursts_of_work(tape: Tape) -> None:
    """Every ten minutes thirty documents come in, and are worked off by ten at a time."""
    for _ in range(6):
        jobs = [partial(once, tape, "Summarise.", tape.prose(8), tape.prose(3), model="gpt-4o") for _ in range(30)]
        tape.together(jobs, 10)
        tape.wait(500, 600)
