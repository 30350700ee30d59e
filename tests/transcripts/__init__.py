"""Transcripts of agents, runaway and healthy, and what the anomaly rules make of them.

`runaways` and `healthy` write them, deterministically; `generated` keeps what they write with seed 0, `recorded` what
real frameworks sent through a real gate; `evaluation` holds the rules to all of them. Print the table with
`python -m tests.transcripts`, write the files anew with `python -m tests.transcripts write`.
"""
