"""Heavy use that is no runaway: many calls that are much alike because somebody has many things of one kind to do."""

from functools import partial
from typing import Any

from tests.transcripts.kinds import healthy
from tests.transcripts.tape import COMPLETIONS, EMBEDDINGS, Chat, Tape, once, stamp

LABELS = ("billing", "shipping", "returns", "praise", "other")
CLASSIFY = f"Classify the customer's message. Answer with one of: {', '.join(LABELS)}."


def each(tape: Tape, system: str, items: list[Any], **how: Any) -> None:
    """One call for each item, one after the other."""
    for item in items:
        once(tape, system, item, tape.pick(*LABELS), took_s=tape.random.uniform(0.3, 1.2), **dict(how))


@healthy
def batch_classification(tape: Tape) -> None:
    """Sixty messages are classified by one shared prompt; people write some of them more than once."""
    items = [tape.prose(2) for _ in range(50)] + ["Thanks!"] * 6 + ["Where is my parcel?"] * 4
    tape.random.shuffle(items)
    each(tape, CLASSIFY, items, members={"temperature": 0, "max_tokens": 4})


@healthy
def batch_in_parallel(tape: Tape) -> None:
    """Two hundred messages are classified by twenty workers at once."""
    jobs = [
        partial(once, tape, CLASSIFY, tape.prose(2), tape.pick(*LABELS), took_s=tape.random.uniform(0.4, 1.5))
        for _ in range(200)
    ]
    tape.together(jobs, 20)


@healthy
def batch_with_repeats_in_a_row(tape: Tape) -> None:
    """The rows of a sorted file are labelled one by one; a few equal rows follow each other."""
    items = sorted(tape.pick("ok", "fine", "not delivered", "great", tape.words(4)) for _ in range(12))
    items += [tape.words(3) for _ in range(40)]
    each(tape, CLASSIFY, items, members={"temperature": 0})


@healthy
def items_that_differ_by_a_number(tape: Tape) -> None:
    """Sixty requests that differ in one number."""
    each(tape, "Answer yes or no.", [f"Is {number} a prime number?" for number in range(1001, 1061)])


@healthy
def items_that_differ_by_an_id(tape: Tape) -> None:
    """Fifty requests that differ in one UUID."""
    each(tape, "Write an apology for a late order.", [f"Order {tape.uuid()} is late." for _ in range(50)])


@healthy
def items_that_differ_by_a_date(tape: Tape) -> None:
    """Fifty requests that differ in one time of day, which is what they ask about."""
    times = [stamp(tape.now_ms - 86_400_000 * day - 1_234_567 * day) for day in range(50)]
    each(tape, "Say in words whether this was in office hours in Berlin.", times)


@healthy
def long_items_that_differ_in_the_middle(tape: Tape) -> None:
    """Twenty contracts from one template: eight kilobytes that are the same, and one name in their midst."""
    before, after = tape.prose(50), tape.prose(50)
    items = [f"{before}\nThe supplier is {tape.words(2)}.\n{after}" for _ in range(20)]
    each(tape, "List the unusual clauses.", items, model="gpt-4o")


@healthy
def pictures_with_one_question(tape: Tape) -> None:
    """Forty pictures are described; only the picture differs."""
    for _ in range(40):
        part = {"type": "image_url", "image_url": {"url": tape.image(), "detail": "low"}}
        content = [{"type": "text", "text": "Write a short alternative text."}, part]
        once(tape, "", content, tape.sentence(), model="gpt-4o")


@healthy
def pictures_by_address(tape: Tape) -> None:
    """Thirty pictures of a catalogue are described; the addresses differ in a number at their end."""
    for number in range(30):
        part = {"type": "image_url", "image_url": {"url": f"https://img.example.com/p/{tape.hex(8)}_{number}.jpg"}}
        once(tape, "", [{"type": "text", "text": "Describe the product."}, part], tape.sentence(), model="gpt-4o")


@healthy
def few_shot_labels(tape: Tape) -> None:
    """Every request carries the same eight examples; the last line differs."""
    chat = Chat(tape, system=CLASSIFY)
    for _ in range(8):
        chat.user(tape.prose(1))
        chat.messages.append({"role": "assistant", "content": tape.pick(*LABELS)})
    shots = len(chat.messages)
    for _ in range(50):
        chat.user(tape.words(6)).ask(tape.pick(*LABELS), took_s=tape.random.uniform(0.3, 0.9))
        del chat.messages[shots:]


@healthy
def map_reduce(tape: Tape) -> None:
    """Thirty-two chapters are summarised in parallel, then the summaries by fours, then those."""
    layer = [tape.prose(25) for _ in range(32)]
    while len(layer) > 1:
        jobs = [partial(once, tape, "Summarise the text in five sentences.", text, tape.prose(5)) for text in layer]
        tape.together(jobs, 8)
        layer = [tape.prose(8) for _ in range(len(layer) // 4)]


@healthy
def translations(tape: Tape) -> None:
    """Six texts are translated into twelve languages; only the language's name differs."""
    languages = (
        "German",
        "French",
        "Spanish",
        "Italian",
        "Dutch",
        "Polish",
        "Czech",
        "Danish",
        "Finnish",
        "Greek",
        "Turkish",
        "Korean",
    )
    for _ in range(6):
        text = tape.prose(3)
        each(tape, "Translate.", [f"Translate into {language}:\n{text}" for language in languages])


@healthy
def interface_texts(tape: Tape) -> None:
    """The texts of an interface are translated one by one; some are a single word, some come twice."""
    texts = ["OK", "Cancel", "Save", "OK", "Close", "Cancel", "OK", "Yes", "No"] * 3 + [
        tape.words(3) for _ in range(30)
    ]
    tape.random.shuffle(texts)
    each(tape, "Translate this interface text into French. Answer with the text alone.", texts)


@healthy
def prompts_compared(tape: Tape) -> None:
    """Two prompts are compared over thirty inputs, in turn (A1 B1 A2 B2)."""
    variants = [tape.prose(2), tape.prose(2)]
    for _ in range(30):
        item = tape.prose(2)
        for variant in variants:
            once(tape, variant, item, tape.prose(2), members={"temperature": 0})


@healthy
def sweep_of_samples(tape: Tape) -> None:
    """An evaluation asks each of fifteen questions five times, one after the other, at a high temperature."""
    for _ in range(15):
        question = tape.prose(2)
        each(tape, "Think step by step.", [question] * 5, members={"temperature": 0.8})


@healthy
def sweep_in_parallel(tape: Tape) -> None:
    """An evaluation asks each of eight questions sixteen times at once, at a high temperature."""
    for _ in range(8):
        question = tape.prose(2)
        tape.together([partial(each, tape, "Think.", [question], members={"temperature": 1}) for _ in range(16)], 16)


@healthy
def sweep_with_seeds(tape: Tape) -> None:
    """An evaluation asks each of six questions twelve times, each time with another seed."""
    for _ in range(6):
        question = tape.prose(2)
        for seed in range(12):
            each(tape, "Think.", [question], members={"temperature": 0.7, "seed": seed})


@healthy
def sweep_over_models(tape: Tape) -> None:
    """Ten questions are put to six models, at three temperatures."""
    for _ in range(10):
        question = tape.prose(2)
        for model in ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini", "gpt-5-mini", "gpt-3.5-turbo"):
            for temperature in (0, 0.5, 1):
                each(tape, "Answer.", [question], model=model, members={"temperature": temperature})


@healthy
def voting(tape: Tape) -> None:
    """Self-consistency: seven samples of each question are asked for at once, and the majority counts."""
    for _ in range(8):
        question = tape.prose(3)
        tape.together([partial(each, tape, "Answer.", [question], members={"temperature": 0.9})] * 7, 7)
        tape.wait(0.1, 1)


@healthy
def voting_in_one_call(tape: Tape) -> None:
    """Self-consistency with `n`: one call gives five answers; a question that ends in a tie is put once more."""
    for _ in range(15):
        each(tape, "Answer.", [tape.prose(2)] * tape.pick(1, 1, 2), members={"n": 5, "temperature": 0.9})


@healthy
def judge_in_both_orders(tape: Tape) -> None:
    """A judge compares pairs of answers, in both orders, twice."""
    for _ in range(20):
        pair = [tape.prose(3), tape.prose(3)]
        orders = [f"A: {pair[0]}\nB: {pair[1]}", f"A: {pair[1]}\nB: {pair[0]}"]
        each(tape, "Which is better, A or B?", orders * 2, model="gpt-4o")


@healthy
def corpus_embedded(tape: Tape) -> None:
    """A corpus is embedded, in eighty batches of four passages, four at a time."""

    def batch() -> None:
        body = {"model": "text-embedding-3-small", "input": [tape.prose(3) for _ in range(4)]}
        tape.send(body, url=EMBEDDINGS, took_s=tape.random.uniform(0.1, 0.4))

    tape.together([batch] * 80, 4)


@healthy
def queries_embedded(tape: Tape) -> None:
    """A search box embeds what people type; some queries are popular."""
    popular = [tape.words(2) for _ in range(4)]
    for _ in range(80):
        query = tape.pick(*popular) if tape.random.random() < 0.5 else tape.words(3)
        tape.send({"model": "text-embedding-3-small", "input": query}, url=EMBEDDINGS, took_s=0.08)
        tape.wait(0.2, 4)


@healthy
def code_completed_while_typing(tape: Tape) -> None:
    """An editor asks for a completion with every few keys; now and then the text is the same as before."""
    prompt = f"# {tape.sentence()}\ndef "
    for _ in range(90):
        # Keys that change nothing (an arrow, an undo) are rare, as is a line that is only begun.
        typed = (tape.words(1)[: tape.random.randint(1, 6)], "(", f"\n    {tape.words(1)}", "")
        prompt += tape.random.choices(typed, (6, 2, 2, 1))[0]
        body = {"model": "gpt-3.5-turbo-instruct", "prompt": prompt, "max_tokens": 32, "temperature": 0}
        tape.send(body, url=COMPLETIONS, output_tokens=12, took_s=0.2)
        tape.wait(0.1, 2)


@healthy
def questions_about_one_document(tape: Tape) -> None:
    """Twenty-five questions about one long document, which every request carries."""
    document = tape.prose(50)
    each(tape, f"Answer from this document.\n{document}", [tape.sentence() for _ in range(25)], model="gpt-4.1-mini")


@healthy
def extraction_with_some_reasks(tape: Tape) -> None:
    """Thirty documents are read; a broken answer is sent back once, twice or thrice with the parser's message."""
    for _ in range(30):
        chat = Chat(tape, system="Extract the total as JSON.", temperature=0).user(tape.prose(5))
        for _ in range(tape.pick(0, 0, 0, 1, 2, 3)):
            chat.ask('{"total": 12,50}')
            chat.user("That is not valid JSON. Correct it.")
        chat.ask('{"total": 12.50}')
