"""POST /v1/images/generations and /v1/images/edits: what a request for images can cost at the most, in tokens.

Images by tokens only: the models that were billed by the image (dall-e-2, dall-e-3) were retired on 2026-05-12.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from tokengate.bodies import MalformedRequest, UnpricedFeature, read_flag, read_int, read_list, read_model, read_object
from tokengate.domain import Call
from tokengate.forms import Form, read_form
from tokengate.providers import NO_HEAD, Head
from tokengate.providers.openai import fields
from tokengate.providers.openai.drawn import PARTIAL_TOKENS, drawn_tokens, edited_tokens
from tokengate.providers.openai.picture_meters import PictureMeter
from tokengate.providers.openai.uncapped import UncappedRequest

IMAGES_MAX: Final = 10
"""The most that `n` may be (`openai/types/image_generate_params.py`)."""
PARTIAL_IMAGES_MAX: Final = 3
EDITED_MAX: Final = 16
"""The most images of one edit (`openai/types/image_edit_params.py`)."""
PROMPT_FRAMING_TOKENS: Final = 64
"""More than what a prompt is put into."""

_PRICED: Final = frozenset(
    {"model", "n", "quality", "size", "stream", "partial_images", "input_fidelity", "output_format", "prompt"}
)
_UNPRICED: Final = {
    "complexity": "planning, whose tokens have no bound that is documented",
    "frame_count": "frames of which it is not documented what each costs",
    "svg": "another model",
}
_UNPRICED_FORMATS: Final = ("gif", "svg")
_FILES: Final = ("image", "mask", "markup")
_WHOLE: Final = re.compile(r"[1-9]\d{0,2}", re.ASCII)
_FLAGS: Final = {"true": True, "false": False}


class ImageGenerations:
    """https://developers.openai.com/api/reference/resources/images."""

    name: str = "image_generations"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> UncappedRequest:  # noqa: ARG002 - all of it is in the body
        return _request(body, read_object(body), len(body), 0)


class ImageEdits:
    """The same page. The images come in a form, or as links, files or base64 in JSON."""

    name: str = "image_edits"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> UncappedRequest:
        given = head.content_type
        if given is None or given[:10].lower() != b"multipart/":
            document = read_object(body)
            images = read_list(document, "images") + [document[name] for name in _FILES if document.get(name)]
            return _request(body, document, len(body) - sum(_data_bytes(image) for image in images), len(images))
        form = read_form(body, given)
        document = read_fields(form, _PRICED, frozenset({"n", "partial_images"}), frozenset({"stream"}))
        files = [part for part in form.parts if part.is_file]
        return _request(body, document, len(body) - sum(part.bytes_long for part in files), len(files))


def _request(body: bytes, document: dict[str, Any], text_bytes: int, edited: int) -> UncappedRequest:
    if unknown := document.keys() - fields.KNOWN:
        fields.refuse_unpriced(unknown, document)
    _refuse_unpriced(document)
    model = read_model(document)
    bare = fields.bare_name(model)
    stream = read_flag(document, "stream")
    images = read_int(document, "n", IMAGES_MAX) or 1
    partial_images = _partial_images(document)
    if edited > EDITED_MAX + 2:
        raise MalformedRequest(f"At most {EDITED_MAX} images can be edited at once.", "image")
    if type(document.get("prompt")) is not str:
        raise MalformedRequest("prompt must be a string.", "prompt")
    input_tokens = text_bytes + PROMPT_FRAMING_TOKENS + edited * edited_tokens(bare, document.get("input_fidelity"))
    image_tokens = drawn_tokens(bare, document.get("quality"), document.get("size")) + PARTIAL_TOKENS * partial_images
    call = Call(
        model=model,
        stream=stream,
        input_tokens_max=images * input_tokens,  # each image is billed as a call of its own
        text_bytes=0,
        output_tokens_asked=None,
        produces_output=False,
        output_tokens_fixed=images * image_tokens,
        input_images=edited > 0,
        output_images=True,
    )
    return UncappedRequest(call, body, partial(PictureMeter, images=images, streamed=stream))


def _refuse_unpriced(document: Mapping[str, Any]) -> None:
    for name in document:
        if name not in _PRICED and name.lower() in _PRICED:
            raise MalformedRequest(f"{name!r} must be written {name.lower()!r}.", name)
    for name, what in _UNPRICED.items():
        if document.get(name) is not None:
            raise UnpricedFeature(f"{name} asks for {what}: it has no price here.", name)
    if any(name.startswith("svg[") for name in document) or document.get("output_format") in _UNPRICED_FORMATS:
        raise UnpricedFeature("What images of this format cost is not documented: ask for png, webp or jpeg.",
                              "output_format")  # fmt: skip


def _partial_images(document: dict[str, Any]) -> int:
    value = document.get("partial_images")
    if value is None or (type(value) is int and 0 <= value <= PARTIAL_IMAGES_MAX):
        return value or 0
    raise MalformedRequest(f"partial_images must be a whole number from 0 to {PARTIAL_IMAGES_MAX}.", "partial_images")


def _data_bytes(image: Any) -> int:  # noqa: ANN401
    """How much of a body is an image in base64, whose tokens are counted as those of an image."""
    url = image.get("image_url") if type(image) is dict else None
    return len(url) if type(url) is str and url.startswith("data:image/") and url.isascii() else 0


def read_fields(form: Form, priced: frozenset[str], whole: frozenset[str], flags: frozenset[str]) -> dict[str, Any]:
    """The text fields of a form, those that matter to its price as what they mean.

    Args:
        form: as `read_form` found it.
        priced: the names that may be there once, as text, written like this.
        whole: of them, those that are whole numbers.
        flags: of them, those that are true or false.

    Raises:
        MalformedRequest: one of them is there twice, is a file, is written otherwise, or means nothing.
    """
    seen: set[str] = set()
    for part in form.parts:
        name = part.name.partition("[")[0].strip().lower()
        if name in priced:
            if part.name != name or part.is_file or name in seen:
                raise MalformedRequest(f"{name} must be in the form once, as text and under this very name.", name)
            seen.add(name)
    document: dict[str, Any] = dict(form.texts())
    for name in whole & document.keys():
        if document[name] != "0" and not _WHOLE.fullmatch(document[name]):
            raise MalformedRequest(f"{name} must be a whole number.", name)
        document[name] = int(document[name])
    for name in flags & document.keys():
        if document[name] not in _FLAGS:
            raise MalformedRequest(f"{name} must be true or false.", name)
        document[name] = _FLAGS[document[name]]
    return document
