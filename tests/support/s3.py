"""A real S3 server in this process, moto's, with a bucket for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Bucket", "bucket_of", "serving"]

KEY_ID, SECRET = "AKIATESTTESTTESTTEST", "the-secret-of-the-store"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, seen with Amazon's own client.

    Attributes:
        name: Its name.
        endpoint: Where the server is.
        client: Amazon's client.
    """

    name: str
    endpoint: str
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead there."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def url(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def keys(self) -> list[str]:
        """The names of all objects."""
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def media_type(self, key: str) -> str:
        return str(self.client.head_object(Bucket=self.name, Key=key)["ContentType"])

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def unfinished(self) -> list[str]:
        """The names of uploads that were begun, and neither completed nor aborted."""
        return [one["Key"] for one in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]


@contextmanager
def serving() -> Iterator[Any]:
    """A client of Amazon's for a server that serves meanwhile."""
    import boto3  # noqa: PLC0415  # these take a second, and few tests need them
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  # the same

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with_keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **with_keys)
        yield client
        client.close()
    finally:
        server.stop()


def bucket_of(client: Any) -> Bucket:
    """A new bucket."""
    name = f"test-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    return Bucket(name, client.meta.endpoint_url, client)
