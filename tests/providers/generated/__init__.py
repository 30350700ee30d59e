"""Calls as a provider sees them: requests with every feature that has a price, and answers that each of them allows.

What a provider may bill for a request is known here from its documentation and from what the request was made of, never
from what the gate reads in it. Everything is drawn from a seeded source, so that the same calls are made every time.
"""
