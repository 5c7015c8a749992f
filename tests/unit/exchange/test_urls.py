"""Addresses: one parse decides what is judged and what is opened."""

from __future__ import annotations

import pytest

from kling_async._exchange.urls import Url, is_secure, is_url


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("https://a.example", "https://a.example/"),
        ("HTTPS://A.Example:443/x?y=1#z", "https://a.example/x?y=1"),
        ("http://a.example.:8080/x", "http://a.example:8080/x"),
        ("https://b\u00fccher.example/\u00e4", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://a.example/%2F%41?q=a%20b", "https://a.example/%2F%41?q=a%20b"),
        ("https://[::1]:8443/", "https://[::1]:8443/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://017700000001/", "http://127.0.0.1/"),
        ("https://a.example?x", "https://a.example/?x"),
    ],
)
def test_an_address_has_one_form(text: str, whole: str) -> None:
    assert str(Url.parse(text)) == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example/x",
        "//a.example/x",
        "ftp://a.example/",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https:a.example",
        "https://a.example/x y",
        " https://a.example/",
        "https://a.example/\n",
        "https://a.example\\@b.example/",
        "https://a.example/\x00",
        "https://a\u3000b.example/",
        "https://a.example:99999/",
        "https://a.example:x/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://a%2eexample/",
        "https://1.2.3.4.5/",
        "https://256.1.1.1/",
        "https://-/",
    ],
)
def test_what_programs_would_read_differently_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|its) "):
        Url.parse(text)


@pytest.mark.parametrize(
    ("host", "this_machine", "private"),
    [
        ("a.example", False, False),
        ("8.8.8.8", False, False),
        ("LOCALHOST", True, True),
        ("x.localhost", True, True),
        ("127.0.0.1", True, True),
        ("127.1", True, True),
        ("[::1]", True, True),
        ("[::ffff:127.0.0.1]", True, True),
        ("[::ffff:10.0.0.1]", False, True),
        ("0.0.0.0", False, True),  # noqa: S104  # nothing is bound
        ("10.1.2.3", False, True),
        ("169.254.169.254", False, True),
        ("[fe80::1]", False, True),
        ("[fd00::1]", False, True),
        ("127.0.0.1.example.com", False, False),
    ],
)
def test_hosts_that_are_not_of_the_public_internet_are_recognised(host: str, this_machine: bool, private: bool) -> None:
    url = Url.parse(f"https://{host}/")
    assert (url.on_this_machine, url.private) == (this_machine, private)


def test_plain_http_is_secure_to_this_machine_only() -> None:
    assert is_secure("HTTP://127.0.0.1:8080/x")
    assert is_secure("HtTpS://a.example/x")
    assert not is_secure("http://a.example/x")
    assert not is_secure("http://127.0.0.1.example.com/")


def test_a_reference_is_a_url_whatever_the_case_of_its_scheme() -> None:
    assert is_url("HTTPS://a.example/x.png")
    assert not is_url("data:image/png;base64,AAAA")


def test_redirects_are_followed_relative_to_where_they_came_from() -> None:
    url = Url.parse("https://a.example/x/y?z")
    assert str(url.join("../w")) == "https://a.example/w"
    assert str(url.join("//B.example/w")) == "https://b.example/w"
    with pytest.raises(ValueError, match="blank"):
        url.join("/a b")


def test_a_password_in_an_address_is_in_no_repr() -> None:
    url = Url.parse("http://me:secret@proxy.example:3128")
    assert url.user == "me:secret"
    assert "secret" not in repr(url) + url.origin + url.netloc


@pytest.mark.parametrize("base", ["https://a.example", "https://a.example/api", "http://127.0.0.1:8080/v1/"])
@pytest.mark.parametrize("path", ["/x", "/x/y?q=1&r=%20", "/\u00e4", "/x#z", "/"])
def test_an_address_below_another_is_that_of_their_texts_together(base: str, path: str) -> None:
    assert Url.parse(base).below(path) == Url.parse(base.rstrip("/") + path)


@pytest.mark.parametrize("path", ["/a b", "/a\\b", "/a\nb"])
def test_what_ends_an_address_for_some_programs_cannot_stand_below_one(path: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        Url.parse("https://a.example").below(path)
