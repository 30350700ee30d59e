"""Manifests as people write them: YAML of many documents, in which pods and pod templates get a gate.

What is not changed comes out byte for byte, comments included, and in its place; what is changed is written anew. A
stream with a pod that is refused gives nothing, so that a pipe into kubectl cannot apply the rest of it. Pure.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml
from msgspec import Struct

from tokengate.injector.patch import Result, apply, decide
from tokengate.injector.pod import MalformedPod
from tokengate.injector.policy import Policy
from tokengate.injector.sidecar import Manifest

STREAM_BYTES_MAX: Final = 16 * 1024 * 1024
NODES_MAX: Final = 1_000_000
"""How many values a document may have with its aliases written out."""
DEPTH_MAX: Final = 64

DEFAULT_NAMESPACE: Final = "default"

_APPS = "apps/"
_BATCH = "batch/"
TEMPLATES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "Pod": ("v1", ()),
    "PodTemplate": ("v1", ("template",)),
    "ReplicationController": ("v1", ("spec", "template")),
    "Deployment": (_APPS, ("spec", "template")),
    "ReplicaSet": (_APPS, ("spec", "template")),
    "StatefulSet": (_APPS, ("spec", "template")),
    "DaemonSet": (_APPS, ("spec", "template")),
    "Job": (_BATCH, ("spec", "template")),
    "CronJob": (_BATCH, ("spec", "jobTemplate", "spec", "template")),
}
"""Where in an object of a kind its pod is, and how the object's `apiVersion` begins."""

_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.-]*(?:[: ][A-Za-z0-9/_.-]+)*")
_NOT_TEXT: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Words that one YAML or another (1.1, 1.2, Go's) takes for something else than text, in any case."""


class MalformedManifest(ValueError):
    """The stream cannot be read; the message says where and why."""


class Injected(Struct, frozen=True):
    """What became of a stream."""

    text: str
    """Empty if anything was refused."""
    notes: tuple[str, ...]
    """What was done with each object, in its order, for people."""
    refusals: tuple[str, ...]


def inject(text: str, policy: Policy, namespace: str = DEFAULT_NAMESPACE) -> Injected:
    """Give every pod in a stream of manifests a gate; those without a namespace of their own are in `namespace`.

    Raises:
        MalformedManifest: it is not YAML, or something in it is not what its kind has to be.
    """
    if len(text) > STREAM_BYTES_MAX:
        raise MalformedManifest(f"there are more than {STREAM_BYTES_MAX} bytes")
    written, notes, refusals = [], [], []
    for part, document in _documents(text):
        changed = False
        for each in _objects(document):
            outcome = _Outcome(each, policy, namespace)
            notes += outcome.notes
            refusals += outcome.refusals
            changed = changed or outcome.changed
        written.append(dump(document) if changed else part)
    return Injected("" if refusals else join(written), tuple(notes), tuple(refusals))


class _Outcome:
    """What became of one object, which is changed in place."""

    def __init__(self, manifest: Manifest, policy: Policy, namespace: str) -> None:
        self.changed = False
        self.notes: list[str] = []
        self.refusals: list[str] = []
        metadata = manifest.get("metadata") or {}
        kind, name = str(manifest.get("kind", "")), str(metadata.get("name") or metadata.get("generateName") or "")
        title = f"{kind.lower() or 'document'}/{name.rstrip('-') or '(no name)'}"
        template = _template(manifest, kind)
        if template is None:
            self.notes.append(f"{title} left as it is")
            return
        workload = "" if kind == "Pod" else name.rstrip("-.")
        try:
            decision = decide(template, policy, str(metadata.get("namespace") or namespace), workload)
        except MalformedPod as error:
            raise MalformedManifest(f"{title}: {error}") from None
        match decision.result:
            case Result.REFUSED:
                self.refusals += [f"{title} refused: {message}" for message in decision.messages]
            case Result.SKIPPED:
                self.notes.append(f"{title} skipped: {decision.reason}")
            case Result.UNCHANGED:
                self.notes.append(f"{title} has its gate already")
            case Result.PATCHED:
                apply(template, decision.operations)
                self.changed = True
                self.notes.append(f"{title} injected, as agent {decision.agent or '(none)'}")
        self.notes += [f"{title} warning: {warning}" for warning in decision.warnings]


def _template(manifest: Manifest, kind: str) -> Manifest | None:
    """The pod in an object; None if its kind has none."""
    version, path = TEMPLATES.get(kind, ("", ()))
    if not version or not str(manifest.get("apiVersion", "")).startswith(version):
        return None
    place: Any = manifest
    for name in path:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise MalformedManifest(f"{kind}: there is no pod at {'.'.join(path)}")
    return place


def _objects(document: Any) -> Iterator[Manifest]:  # noqa: ANN401 - YAML
    if isinstance(document, dict):
        items = document.get("items")
        if isinstance(items, list) and str(document.get("kind", "")).endswith("List"):
            for item in items:
                yield from _objects(item)
        else:
            yield document


# --- YAML ---


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: no dates, and no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as its parent has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"{key.value!r} stands twice in a mapping", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML that every reader takes for the same: text that could be anything else is quoted."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002 - its parent's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    if "\n" in value and value.isprintable() is False and not re.search(r"[^\S\n]\n|\t|\r|^\s", value):
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def _documents(text: str) -> Iterator[tuple[str, Any]]:
    """Each document as it is written and as what it means."""
    starts = [match.start() for match in _SEPARATOR.finditer(text)]
    if not starts or starts[0] > 0:
        starts.insert(0, 0)
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        try:
            document = yaml.load(part, _Loader)  # noqa: S506 - a SafeLoader
        except yaml.MarkedYAMLError as error:
            line = text.count("\n", 0, start) + (error.problem_mark.line + 1 if error.problem_mark else 1)
            raise MalformedManifest(f"line {line}: {error.problem}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise MalformedManifest(" ".join(str(error).split())) from None
        yield part, _Copy().of(document)


class _Copy:
    """A copy in which nothing is shared: an alias would be changed in all of its places."""

    def __init__(self) -> None:
        self._left = NODES_MAX

    def of(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - YAML
        self._left -= 1
        if self._left < 0 or depth > DEPTH_MAX:
            raise MalformedManifest(f"a document has more than {NODES_MAX} values, or more than {DEPTH_MAX} levels")
        if isinstance(value, dict):
            return {self._key(key): self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, depth + 1) for item in value]
        return value

    @staticmethod
    def _key(key: Any) -> str:  # noqa: ANN401 - YAML
        if isinstance(key, bool):
            return str(key).lower()
        return str(key)


def dump(document: Any) -> str:  # noqa: ANN401 - YAML
    """Write a document so that every reader of YAML takes it for the same."""
    return yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=2**16
    )


def join(parts: list[str]) -> str:
    """One stream again: each document but the first begins with a separator of its own."""
    stream = ""
    for part in parts:
        if stream and not _SEPARATOR.match(part):
            stream += "---\n"
        stream += part if part.endswith("\n") or not part else part + "\n"
    return stream
