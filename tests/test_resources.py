"""Shipped files are found in a checkout, and one that is missing is named with the places where it should be."""

import pytest

from tokengate.resources import data_file, encoding_file
from tokengate.tokens import ENCODINGS


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_every_vocabulary_is_shipped(name: str) -> None:
    assert encoding_file(name).stat().st_size > 100_000


def test_a_missing_file_is_named_with_its_places() -> None:
    with pytest.raises(FileNotFoundError, match=r"encodings/r50k_base\.tiktoken\.gz is in none of .*data"):
        encoding_file("r50k_base")
    with pytest.raises(FileNotFoundError):
        data_file("encodings")
