"""The policy: read in whole or refused in whole, and nothing in it that a policy should not hold."""

import pytest

from tokengate.injector.policy import OWNED, POLICY_BYTES_MAX, Policy, PolicyError, parse
from tokengate.settings import NAMES, SECRETS


def test_an_empty_one_is_the_default() -> None:
    assert parse(b"") == parse(b"# nothing yet\n") == parse(b"{}") == Policy()


def test_json_is_yaml() -> None:
    assert parse(b'{"port": 9000, "settings": {"DEFAULT_BUDGET": "1"}}').settings == {"DEFAULT_BUDGET": "1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"prot: 9000", r"unknown field `prot`"),
        (b"port: '9000'", r"Expected `int`, got `str` - at `\$\.port`"),
        (b"port: 80", r">= 1024 - at `\$\.port`"),
        (b"port: 15890", "port and statusPort are the same"),
        (b"user: 0", r">= 1 - at `\$\.user`"),
        (b"form: sidecar", r"Invalid enum value 'sidecar' - at `\$\.form`"),
        (b"image: 'x y'", r"matching regex .* at `\$\.image`"),
        (b"providers: []", r"length >= 1 - at `\$\.providers`"),
        (b"providers: [openai, openai]", "names one twice"),
        (b"redisSecret: Redis", r"matching regex .* at `\$\.redisSecret`"),
        (b"resources: {cpuLimit: 1}", "unknown field `cpuLimit`"),
        (b"resources: {memoryLimit: lots}", r"at `\$\.resources\.memoryLimit`"),
        (b"settings: {DEFAULT_BUDGET: 10}", r"Expected `str`, got `int`"),
        (b"settings: {DEFAULT_BUDGET: ten}", "settings: DEFAULT_BUDGET=ten: allowed is an amount in USD"),
        (b"settings: {DEFUALT_BUDGET: '10'}", "DEFUALT_BUDGET is no setting of TokenGate"),
        (b"settings: {default_budget: '10'}", "default_budget is no setting of TokenGate"),
        (b"settings: {LD_PRELOAD: /x}", "LD_PRELOAD is no setting of TokenGate"),
        (b"egress: {mode: block}", r"Invalid enum value 'block' - at `\$\.egress\.mode`"),
        (b"egress: {allow: [example.com]}", "'example.com' is no address and no network"),
        (b"egress: {allow: [192.0.2.1/24]}", "'192.0.2.1/24' is no address and no network"),
        (b"- a list", "Expected `object`, got `array`"),
        (b"a: [", "it is not YAML"),
        (b"\xff", "it is not YAML"),
        (b"#" * (POLICY_BYTES_MAX + 1), "more than 65536 bytes"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(text: bytes, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        parse(text)


@pytest.mark.parametrize("name", sorted(OWNED))
def test_what_the_injector_decides_is_not_for_the_policy(name: str) -> None:
    assert name in NAMES
    with pytest.raises(PolicyError, match=f"{name.upper()} is for the injector to decide"):
        parse(f"settings: {{{name.upper()}: x}}".encode())


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_is_none_of_it(name: str) -> None:
    with pytest.raises(PolicyError, match="it belongs into a Secret"):
        parse(f"settings: {{{name.upper()}: x}}".encode())


def test_the_hash_names_what_is_decided_not_how_it_is_written() -> None:
    first = parse(b"settings: {DEFAULT_BUDGET: '1', AGENT_BUDGET: '2'}\nport: 9000")
    assert (
        first.config_hash()
        == parse(b'{"port": 9000, "settings": {"AGENT_BUDGET": "2", "DEFAULT_BUDGET": "1"}}').config_hash()
    )
    assert first.config_hash() != parse(b"port: 9000").config_hash()
    assert len(first.config_hash()) == 12
