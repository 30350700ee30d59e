"""Heavy use that is no runaway: agents with tools that work for long, poll, page, and try again with reason."""

from functools import partial

from tests.transcripts.kinds import healthy
from tests.transcripts.runaway_tools import ASSISTANT, EDIT, FETCH, RUN, SEARCH, SQL
from tests.transcripts.tape import Chat, Tape, once, stamp, tool

READ = tool("read_file", path="the file")
STATUS = tool("job_status", job="its id")
CODER = "You are a coding agent. Use the tools."


@healthy
def coding_session(tape: Tape) -> None:
    """A long coding session: sixty uses of four tools with other arguments each time, some files read again."""
    chat = Chat(tape, model="gpt-4.1", system=CODER, tools=[READ, EDIT, RUN, SEARCH]).user(tape.prose(3))
    paths = [f"src/{tape.words(1)}.py" for _ in range(8)]
    for _ in range(60):
        use = tape.pick(
            ("read_file", {"path": tape.pick(*paths)}, tape.prose(4)),
            ("edit_file", {"path": tape.pick(*paths), "text": tape.prose(2)}, "written"),
            ("search", {"query": tape.words(2)}, tape.pick("no matches", tape.prose(1))),
            (
                "run_tests",
                {"target": "all"},
                f"{tape.random.randint(1, 9)} failed, {tape.random.randint(30, 60)} passed",
            ),
        )
        chat.use(use, said=tape.pick(None, tape.sentence()))


@healthy
def tests_fixed_one_by_one(tape: Tape) -> None:
    """Edit, run the tests, edit, run the tests: the command is the same, and the failure is another one each time."""
    chat = Chat(tape, model="gpt-4.1", system=CODER, tools=[EDIT, RUN]).user("Make the tests pass.")
    for left in range(14, 0, -1):
        chat.use(("edit_file", {"path": "app.py", "text": tape.prose(2)}, "written"))
        chat.use(("run_tests", {"target": "all"}, f"{left} failed: {tape.words(3)}"))


@healthy
def stubborn_test(tape: Tape) -> None:
    """One test fails in the same words seven times, while the edits in between differ; then it passes."""
    chat = Chat(tape, model="gpt-4.1", system=CODER, tools=[EDIT, RUN]).user("Make the test pass.")
    failure = f"1 failed: {tape.sentence()}"
    for _ in range(7):
        chat.use(("edit_file", {"path": "app.py", "text": tape.prose(2)}, "written"))
        chat.use(("run_tests", {"target": "all"}, failure))
    chat.use(("edit_file", {"path": "app.py", "text": tape.prose(2)}, "written"))
    chat.use(("run_tests", {"target": "all"}, "all passed"))
    chat.ask("Done.")


@healthy
def job_polled_with_progress(tape: Tape) -> None:
    """A job is looked at again and again, and gets on between the looks."""
    chat = Chat(tape, system=ASSISTANT, tools=[STATUS]).user("Tell me when job 71 is done.")
    for percent in range(0, 100, 6):
        chat.use(("job_status", {"job": "71"}, {"state": "running", "percent": percent}), took_s=(1, 4))
    chat.ask("It is done.")


@healthy
def job_polled_with_back_off(tape: Tape) -> None:
    """A job stays in its queue, and is looked at less and less often."""
    chat = Chat(tape, system=ASSISTANT, tools=[STATUS]).user("Tell me when job 71 is done.")
    for turn in range(12):
        pause = min(5 * 2**turn, 120)
        chat.use(("job_status", {"job": "71"}, {"state": "queued"}), took_s=(pause, pause * 1.1))
    chat.use(("job_status", {"job": "71"}, {"state": "done"}))
    chat.ask("It is done.")


@healthy
def job_polled_every_ten_seconds(tape: Tape) -> None:
    """A job is looked at every ten seconds for two minutes, and stays what it is."""
    chat = Chat(tape, system=ASSISTANT, tools=[STATUS]).user("Tell me when job 71 is done.")
    for _ in range(12):
        chat.use(("job_status", {"job": "71"}, {"state": "queued"}), took_s=(10, 10.5))
    chat.ask("It is still in its queue.")


@healthy
def job_polled_with_a_small_back_off(tape: Tape) -> None:
    """A job is looked at after 1, 2, 4, 8 seconds, and then every fifteen."""
    chat = Chat(tape, system=ASSISTANT, tools=[STATUS]).user("Tell me when job 71 is done.")
    for turn in range(14):
        pause = min(2**turn, 15)
        chat.use(("job_status", {"job": "71"}, {"state": "running"}), took_s=(pause, pause * 1.1))
    chat.ask("It still runs.")


@healthy
def job_polled_with_a_sleep(tape: Tape) -> None:
    """The agent has a tool to sleep for a minute with, and uses it between looks at a job that stays what it is."""
    chat = Chat(tape, system=ASSISTANT, tools=[STATUS, tool("sleep", seconds="how long")]).user("Wait for job 71.")
    for _ in range(12):
        chat.use(("job_status", {"job": "71"}, {"state": "running"}))
        chat.use(("sleep", {"seconds": "60"}, "slept"), took_s=(60, 60.5))
    chat.ask("It still runs.")


@healthy
def pages_of_a_list(tape: Tape) -> None:
    """A list of thirty pages is read through one tool, page by page."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("list_orders", page="from 1")]).user("Which orders are late?")
    for page in range(1, 31):
        chat.use(("list_orders", {"page": str(page)}, [{"order": tape.hex(6), "late": page % 7 == 0}]))
    chat.ask(tape.sentence())


@healthy
def pages_by_cursor(tape: Tape) -> None:
    """A list is read by opaque cursors; the pages look much alike."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("list_orders", cursor="")]).user("How many orders are open?")
    cursor = tape.hex(16)
    for _ in range(20):
        following = tape.hex(16)
        rows = [{"id": tape.uuid(), "state": "open"} for _ in range(3)]
        chat.use(("list_orders", {"cursor": cursor}, {"items": rows, "next_cursor": following}))
        cursor = following


@healthy
def records_deleted_one_by_one(tape: Tape) -> None:
    """Forty records are deleted by their ids; every result is the same."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("delete", id="of a record")]).user("Delete the test records.")
    for _ in range(40):
        chat.use(("delete", {"id": tape.uuid()}, {"ok": True}), took_s=(0.02, 0.1))


@healthy
def searches_without_finds(tape: Tape) -> None:
    """Twenty searches for different things find nothing."""
    chat = Chat(tape, system=ASSISTANT, tools=[SEARCH]).user(tape.prose(1))
    for _ in range(20):
        chat.use(("search", {"query": tape.words(3)}, "no matches"))


@healthy
def notes_taken(tape: Tape) -> None:
    """An agent keeps a list of tasks with a tool that always answers the same."""
    chat = Chat(tape, model="gpt-4o", system=CODER, tools=[tool("todo", items="all"), READ]).user(tape.prose(2))
    for _ in range(15):
        chat.use(("todo", {"items": tape.prose(2)}, "The list was updated."))
        chat.use(("read_file", {"path": f"{tape.words(1)}.md"}, tape.prose(2)))


@healthy
def price_watched(tape: Tape) -> None:
    """A price is looked at every few seconds; only its digits change."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("price", symbol="")]).user("Tell me when ACME is above 105.")
    price = 100.0
    for _ in range(25):
        price += tape.random.uniform(0.01, 0.4)
        chat.use(("price", {"symbol": "ACME"}, {"symbol": "ACME", "price": round(price, 2)}), took_s=(1, 6))


@healthy
def research_in_rounds(tape: Tape) -> None:
    """Three rounds: a lead plans, eight workers search and read in parallel, the lead writes it up."""
    for _ in range(3):
        once(tape, "You are the lead. Plan.", tape.prose(4), tape.prose(6), model="gpt-4o")
        tape.together([partial(_worker, tape) for _ in range(8)], 8)
        once(tape, "You are the lead. Write it up.", tape.prose(20), tape.prose(10), model="gpt-4o")


def _worker(tape: Tape) -> None:
    chat = Chat(tape, system="You are a researcher.", tools=[SEARCH, FETCH]).user(tape.prose(1))
    for _ in range(4):
        chat.use(("search", {"query": tape.words(3)}, tape.prose(3)))
        chat.use(("fetch", {"url": f"https://example.com/{tape.hex(6)}"}, tape.prose(5)))
    chat.ask(tape.prose(4))


@healthy
def debate(tape: Tape) -> None:
    """Two agents argue for five rounds; their roles alternate, what they say does not repeat."""
    sides = [Chat(tape, model="gpt-4o", system=f"You argue {side} the motion.") for side in ("for", "against")]
    said = tape.prose(3)
    for turn in range(10):
        answer = tape.prose(4)
        sides[turn % 2].user(said).ask(answer)
        said = answer


@healthy
def restarted_from_a_checkpoint(tape: Tape) -> None:
    """A worker is evicted three times; each time it takes its last six steps once more, and goes on."""
    chat = Chat(tape, system=ASSISTANT, tools=[FETCH]).user(tape.prose(1))
    steps = [(f"https://example.com/{tape.hex(5)}", tape.prose(1)) for _ in range(24)]
    for start, end in ((0, 10), (4, 16), (10, 20), (14, 24)):
        if start:
            del chat.messages[2 + 2 * start :]
        for url, page in steps[start:end]:
            chat.use(("fetch", {"url": url}, page))
        tape.wait(5, 20)


@healthy
def flaky_tool_retried(tape: Tape) -> None:
    """A tool fails twice or thrice with the same error before it works, for each of eight pages."""
    chat = Chat(tape, system=ASSISTANT, tools=[FETCH]).user(tape.prose(1))
    for _ in range(8):
        url = f"https://example.com/{tape.hex(6)}"
        for _ in range(tape.random.randint(2, 3)):
            chat.use(("fetch", {"url": url}, "503 Service Unavailable"), took_s=(0.5, 3))
        chat.use(("fetch", {"url": url}, tape.prose(2)))


@healthy
def queries_refined(tape: Tape) -> None:
    """An analyst's agent corrects its statement until the database takes it, over and over with new questions."""
    chat = Chat(tape, model="gpt-4o", system=ASSISTANT, tools=[SQL])
    for _ in range(8):
        chat.user(tape.sentence())
        for _ in range(3):
            statement = f"SELECT {', '.join(tape.words(3).split())} FROM {tape.words(1)}"
            chat.use(("run_sql", {"query": statement}, 'ERROR: column "total" does not exist'))
        chat.use(("run_sql", {"query": f"SELECT * FROM {tape.words(1)}"}, tape.prose(2)))
        chat.ask(tape.sentence())


@healthy
def memory_looked_up_each_turn(tape: Tape) -> None:
    """An assistant calls the same tool with no arguments at the beginning of every turn."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("get_user_profile")])
    for _ in range(14):
        chat.user(tape.sentence())
        chat.use(("get_user_profile", {}, {"name": "Ada", "plan": "pro"}))
        chat.ask(tape.sentence())
        tape.wait(5, 30)


@healthy
def same_task_for_many_tickets(tape: Tape) -> None:
    """A worker takes tickets from a queue: the same two tools in the same order, thirty times, in fresh talks."""
    for number in range(30):
        chat = Chat(tape, system=ASSISTANT, tools=[READ, EDIT]).user(f"Handle ticket {4000 + number}.")
        chat.use(("read_file", {"path": f"tickets/{4000 + number}"}, tape.prose(2)))
        chat.use(("edit_file", {"path": f"tickets/{4000 + number}", "text": "closed"}, "written"))
        chat.ask("Done.")


@healthy
def queue_that_is_mostly_empty(tape: Tape) -> None:
    """A worker asks every half minute whether there is work, in a fresh talk, and mostly there is none."""
    for _ in range(40):
        chat = Chat(tape, system="Look into the queue and handle what is there.", tools=[READ]).user("Go.")
        work = tape.random.random() < 0.2
        chat.use(("read_file", {"path": "queue"}, tape.prose(1) if work else "empty"))
        chat.ask(tape.sentence() if work else "Nothing to do.")
        tape.wait(30)


@healthy
def long_context_work(tape: Tape) -> None:
    """An agent reads twenty-five long files into one conversation, then answers questions about them."""
    chat = Chat(tape, model="gpt-4.1", system=CODER, tools=[READ]).user(tape.prose(2))
    for number in range(25):
        chat.use(("read_file", {"path": f"docs/{number}.md"}, tape.prose(30)))
    for _ in range(6):
        chat.ask(tape.prose(3))
        tape.wait(10, 60)
        chat.user(tape.sentence())


@healthy
def context_compacted_now_and_then(tape: Tape) -> None:
    """A long session whose context is compacted every twenty calls, each time to another summary."""
    for _ in range(4):
        chat = Chat(tape, model="gpt-4.1", system=CODER, tools=[READ, EDIT]).user(tape.prose(4))
        for _ in range(20):
            path = f"src/{tape.words(1)}.py"
            chat.use(
                tape.pick(
                    ("read_file", {"path": path}, tape.prose(3)),
                    ("edit_file", {"path": path, "text": tape.words(9)}, "written"),
                )
            )
        once(tape, "Summarise this conversation for the next agent.", tape.prose(20), tape.prose(4), model="gpt-4.1")


@healthy
def logs_read_up_to_now(tape: Tape) -> None:
    """An operator's agent reads the log since the last look every few seconds; lines keep coming."""
    chat = Chat(tape, system=ASSISTANT, tools=[tool("logs", since="a time")]).user("Watch the deployment.")
    for _ in range(18):
        since = stamp(tape.now_ms - 5000)
        lines = [f"{stamp(tape.now_ms - 40 * n)} INFO {tape.words(3)}" for n in range(2)]
        chat.use(("logs", {"since": since}, "\n".join(lines)), took_s=(3, 8))


@healthy
def page_scrolled(tape: Tape) -> None:
    """A browser's agent scrolls down fifteen times; the tool says the same each time, and a screenshot follows it."""
    chat = Chat(tape, model="gpt-4o", system=ASSISTANT, tools=[tool("scroll", to="where")]).user(tape.prose(1))
    for _ in range(15):
        chat.use(("scroll", {"to": "down"}, "ok"))
        chat.user([{"type": "image_url", "image_url": {"url": tape.image()}}])


@healthy
def research_by_levels(tape: Tape) -> None:
    """A question is split in four, each part in four, each of those in three; then the answers are put together."""
    for width in (1, 4, 16, 48, 16, 4, 1):
        jobs = [
            partial(once, tape, "Split the question.", tape.prose(2), tape.prose(3), took_s=tape.random.uniform(1.5, 4))
            for _ in range(width)
        ]
        tape.together(jobs, width)


@healthy
def more_workers_every_minute(tape: Tape) -> None:
    """A load is raised step by step: 2, 4, 8, 16 and 24 workers, half a minute each, with very different answers."""
    for workers in (2, 4, 8, 16, 24):
        jobs = [
            partial(once, tape, "Summarise.", tape.prose(3), tape.prose(1), took_s=tape.random.lognormvariate(0.3, 1))
            for _ in range(10 * workers)
        ]
        tape.together(jobs, workers)
