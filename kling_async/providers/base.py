"""What a provider is made of: the public base for a provider of your own.

A provider subclasses `Provider`. It describes what it sells as `Endpoint`s, each with a `Request` class, and writes its
operations (`submit`, `poll`, ...) as flows: generators that yield `Call`s and are sent `Reply`s. Its replies become
typed errors and `StatusReport`s through an `ErrorMapper`. It does no I/O, so the transport can run any provider the
same way, and a test can run it without a network.

A package registers its provider under the entry point group ``kling_async.providers``::

    [project.entry-points."kling_async.providers"]
    acme = "kling_async_acme:Acme"

From then on it works by its name in ``Client()``, ``kling generate``, ``kling bulk`` and ``kling endpoints``.
"""

from kling_async._errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Remedy,
    Unauthorized,
    UnreadableReply,
)
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._models import Artifact, Cost, Failure, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.credentials import Identity, ProviderConfig, Secret
from kling_async.providers._base.endpoint import Choice, Endpoint, Features, ImageInput, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper, job_id
from kling_async.providers._base.images import (
    NO_IMAGES,
    ImageRule,
    OneImage,
    Reference,
    References,
    data_uri,
    decode_data_uri,
    sniff,
)
from kling_async.providers._base.offers import (
    ImageOffer,
    Offer,
    Option,
    VideoOffer,
    nearest_change,
    not_offered,
    options,
)
from kling_async.providers._base.portable import Image, Video
from kling_async.providers._base.portable_endpoints import portable_endpoints
from kling_async.providers._base.provider import Provider, Stream, WebhookItem, path_id, webhook_job_id
from kling_async.providers._base.request import AnyPrompt, CallbackUrl, Prompt, Request, Text, as_number, plain_text

__all__ = [
    "NO_IMAGES",
    "Accepted",
    "AnyPrompt",
    "Artifact",
    "Call",
    "CallbackUrl",
    "Choice",
    "ContentRejected",
    "Cost",
    "DurationPrior",
    "Effect",
    "Endpoint",
    "ErrorMapper",
    "Failure",
    "Features",
    "Flow",
    "Identity",
    "Image",
    "ImageInput",
    "ImageOffer",
    "ImageRule",
    "InsufficientCredits",
    "InvalidRequest",
    "JobNotFound",
    "JobRef",
    "KlingError",
    "Offer",
    "OneImage",
    "Option",
    "Price",
    "Progressive",
    "Prompt",
    "Provider",
    "ProviderConfig",
    "ProviderUnavailable",
    "RateLimited",
    "Reference",
    "References",
    "Remedy",
    "Reply",
    "Request",
    "Secret",
    "Status",
    "StatusReport",
    "Stream",
    "Text",
    "Unauthorized",
    "UnreadableReply",
    "Video",
    "VideoOffer",
    "WebhookItem",
    "as_number",
    "data_uri",
    "decode_data_uri",
    "job_id",
    "nearest_change",
    "not_offered",
    "options",
    "path_id",
    "plain_text",
    "portable_endpoints",
    "sniff",
    "webhook_job_id",
]


def __dir__() -> list[str]:
    return __all__
