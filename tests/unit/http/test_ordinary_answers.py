"""What is read in one pass means the same to h11 and to httptools, and reading it in one pass loses nothing."""

from __future__ import annotations

import h11
import httpcore
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from kling_async._http.codecs import Codec, H11Codec, HttptoolsCodec, OrdinaryAnswer

pytest.importorskip("httptools")

STARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 500",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 201 \xe9t\xe9",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 x",
        b"HTTP/1.1 99 x",
    ]
)
FIELDS = st.sampled_from(
    [
        b"Content-Length: 5",
        b"content-length:5",
        b"CONTENT-LENGTH:\t5",
        b"Content-Length: 05",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: 0",
        b"Content-Length: 4",
        b"Content-Length: 5 ",
        b"Content-Length : 5",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: Chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Connection: keep-alive",
        b"Connection: close",
        b"connection: Keep-Alive, x",
        b"Upgrade: h2c",
        b"Trailer: x",
        b"X: a",
        b"X: ",
        b"X:",
        b"X: a b\tc",
        b"X: \xe9",
        b" folded",
        b"X: a\x01",
        b"X: \x7f",
        b"x y: a",
        b": a",
        b"X",
    ]
)
BODIES = st.sampled_from(
    [
        b"hello",
        b"hell",
        b"hello!",
        b"",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
        b"6\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"00\r\n\r\n",
    ]
)
ANSWERS = st.builds(
    lambda start, fields, end, body: b"\r\n".join([start, *fields]) + end + body,
    STARTS,
    st.lists(FIELDS, max_size=5),
    st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n"]),
    BODIES,
)


class OnlyH11(H11Codec):
    """h11 alone."""

    def begin(self, method: bytes) -> None:
        super().begin(method)
        self._h11 = h11.Connection(our_role=h11.CLIENT)
        self._h11.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"h")]))
        self._h11.send(h11.EndOfMessage())


def understood(codec: Codec, *parts: bytes) -> object:
    """What a parser makes of an answer that comes in these parts."""
    codec.begin(b"GET")
    try:
        for part in parts:
            codec.receive(part)
    except httpcore.RemoteProtocolError:
        return "refused"
    headers = [(name.lower(), value) for name, value in codec.headers]
    return codec.status, headers, b"".join(codec.parts), codec.complete, codec.complete and codec.reusable


@settings(max_examples=400)
@given(ANSWERS)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
def test_an_ordinary_answer_means_to_all_the_same(answer: bytes) -> None:
    if OrdinaryAnswer.read(answer) is None:
        return
    ours = understood(H11Codec(), answer)
    assert ours == understood(OnlyH11(), answer)
    assert ours == understood(HttptoolsCodec(), answer)


@settings(max_examples=200)
@given(ANSWERS, st.integers(1, 60), st.integers(1, 60))
def test_in_however_many_parts_an_answer_comes_it_means_the_same(answer: bytes, first: int, second: int) -> None:
    parts = [part for part in (answer[:first], answer[first : first + second], answer[first + second :]) if part]
    assert understood(H11Codec(), *parts) == understood(OnlyH11(), *parts)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nX-Empty:\r\n\r\nhello",
        b"HTTP/1.1 404\r\ncontent-length:5\r\nConnection: Keep-Alive\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_what_servers_send_is_read_in_one_pass(answer: bytes) -> None:
    read = OrdinaryAnswer.read(answer)
    assert read is not None
    assert (read.content, read.missing) == (b"hello", 0)


def test_the_rest_of_a_body_is_not_looked_at() -> None:
    codec = H11Codec()
    codec.begin(b"GET")
    codec.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhe")
    codec.receive(b"llo")
    assert not codec.complete
    codec.receive(b"12345HTTP/1.1")
    assert (b"".join(codec.parts), codec.complete, codec.reusable) == (b"hello12345", True, False)
