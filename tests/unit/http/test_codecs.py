"""What a request looks like and what an answer means, by both parsers."""

from __future__ import annotations

import httpcore
import pytest

from kling_async._http.codecs import Codec, H11Codec, HttptoolsCodec, MakeCodec

pytest.importorskip("httptools")

HOST = (b"host", b"a.test")
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain \r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;note=x\r\nhello\r\n6\r\n, boat\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.fixture(params=[H11Codec, HttptoolsCodec])
def make(request: pytest.FixtureRequest) -> MakeCodec:
    codec: MakeCodec = request.param
    return codec


def asked(make: MakeCodec, method: bytes = b"GET") -> Codec:
    """A codec that has sent a request without a body."""
    codec = make()
    assert codec.head(method, b"/x?y=1", [HOST]) + codec.end() == method + b" /x?y=1 HTTP/1.1\r\nhost: a.test\r\n\r\n"
    return codec


def body(codec: Codec) -> bytes:
    return b"".join(codec.parts)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("answer", "text"), [(PLAIN, b"hello"), (CHUNKED, b"hello, boat")])
def test_an_answer_is_read_however_it_comes(make: MakeCodec, answer: bytes, text: bytes, size: int) -> None:
    codec = asked(make)
    for begin in range(0, len(answer), size):
        assert not codec.complete
        codec.receive(answer[begin : begin + size])
    assert (codec.status, codec.complete, codec.reusable, body(codec)) == (200, True, True, text)
    assert len(codec.headers) == answer.partition(b"\r\n\r\n")[0].count(b"\r\n"), "a trailer is no header"
    if answer is PLAIN:
        assert codec.headers == [(b"Content-Type", b"text/plain"), (b"Content-Length", b"5")]


def test_a_connection_carries_one_request_after_the_other(make: MakeCodec) -> None:
    codec = asked(make)
    for _ in range(3):
        codec.receive(PLAIN)
        assert body(codec) == b"hello"
        codec.parts.clear()
        codec.head(b"GET", b"/", [HOST])
        codec.end()
        assert (codec.status, codec.complete) == (None, False)


def test_a_body_goes_behind_the_head(make: MakeCodec) -> None:
    codec = make()
    sent = codec.head(b"POST", b"/", [HOST, (b"content-length", b"4")]) + codec.body(b"ab") + codec.body(b"cd")
    assert (sent + codec.end()).partition(b"\r\n\r\n")[2] == b"abcd"


@pytest.mark.parametrize(("parts", "says"), [([b"abc"], "Too little"), ([b"abc", b"de"], "Too much")])
def test_a_body_of_another_length_than_announced_is_not_ended(make: MakeCodec, parts: list[bytes], says: str) -> None:
    codec = make()
    codec.head(b"POST", b"/", [HOST, (b"content-length", b"4")])

    def send() -> None:
        for part in parts:
            codec.body(part)
        codec.end()

    with pytest.raises(httpcore.LocalProtocolError, match=says):
        send()


@pytest.mark.parametrize(
    "header", [(b"x", b"a\r\nEvil: 1"), (b"x", b"a\nb"), (b"x", b"a\0b"), (b"x y", b"a"), (b"x:", b"a"), (b"", b"a")]
)
def test_a_header_that_would_become_two_is_refused(make: MakeCodec, header: tuple[bytes, bytes]) -> None:
    with pytest.raises(httpcore.LocalProtocolError):
        make().head(b"GET", b"/", [HOST, header])


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nb", b"/\xff"])
def test_a_target_that_would_end_the_line_is_refused(make: MakeCodec, target: bytes) -> None:
    with pytest.raises(httpcore.LocalProtocolError):
        make().head(b"GET", target, [HOST])


def test_an_early_hint_is_no_answer(make: MakeCodec) -> None:
    codec = asked(make)
    codec.receive(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
    assert (codec.status, codec.complete) == (None, False)
    codec.receive(PLAIN)
    assert (body(codec), codec.reusable) == (b"hello", True)
    assert not any(name == b"Link" for name, _ in codec.headers)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(PLAIN + b"HTTP/1.1 200 OK\r\n", id="a second answer"),
        pytest.param(PLAIN + b"garbage", id="garbage behind it"),
        pytest.param(PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), id="the last one"),
        pytest.param(PLAIN.replace(b"1.1", b"1.0"), id="HTTP/1.0"),
    ],
)
def test_an_answer_after_which_the_connection_is_not_used_again(make: MakeCodec, answer: bytes) -> None:
    codec = asked(make)
    codec.receive(answer)
    assert (codec.status, codec.complete, body(codec), codec.reusable) == (200, True, b"hello", False)


@pytest.mark.parametrize("late", [b"garbage", PLAIN])
def test_what_comes_late_spoils_the_connection(make: MakeCodec, late: bytes) -> None:
    codec = asked(make)
    codec.receive(PLAIN)
    if isinstance(codec, HttptoolsCodec):  # of h11, the connection reads nothing more before the next request
        codec.receive(late)
        assert not codec.reusable
    assert body(codec) == b"hello"


def test_a_body_without_a_length_ends_with_the_connection(make: MakeCodec) -> None:
    codec = asked(make)
    codec.receive(b"HTTP/1.1 200 OK\r\n\r\nhel")
    codec.receive(b"lo")
    assert not codec.complete
    codec.receive(b"")
    assert (codec.complete, body(codec), codec.reusable) == (True, b"hello", False)


@pytest.mark.parametrize("end", range(1, len(PLAIN) - 1, 7))
@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
def test_an_answer_that_is_cut_off_is_none(make: MakeCodec, answer: bytes, end: int) -> None:
    codec = asked(make)
    codec.receive(answer[:end])
    with pytest.raises(httpcore.RemoteProtocolError):
        codec.receive(b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_not_http_is_refused(make: MakeCodec, answer: bytes) -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        asked(make).receive(answer)


def test_a_head_without_end_is_refused(make: MakeCodec) -> None:
    codec = asked(make)
    codec.receive(b"HTTP/1.1 200 OK\r\n")

    def send() -> None:
        for _ in range(200):
            codec.receive(b"x: " + b"y" * 1000 + b"\r\n")

    with pytest.raises(httpcore.RemoteProtocolError):
        send()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_that_has_no_body(make: MakeCodec, status: bytes) -> None:
    codec = asked(make)
    codec.receive(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert (codec.complete, body(codec), codec.reusable) == (True, b"", True)


def test_an_answer_to_head_has_no_body(make: MakeCodec) -> None:
    codec = asked(make, b"HEAD")
    codec.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert (codec.complete, body(codec)) == (True, b"")


def test_an_answer_before_the_request_was_sent_whole_ends_the_connection(make: MakeCodec) -> None:
    codec = make()
    codec.head(b"POST", b"/", [HOST, (b"content-length", b"4")])
    codec.receive(PLAIN)
    assert (codec.status, codec.complete, codec.reusable) == (200, True, False)
