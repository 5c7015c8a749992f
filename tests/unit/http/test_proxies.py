"""Which proxy an address is reached through, as other programs read the same variables."""

from __future__ import annotations

import importlib.util

import pytest

from kling_async import ConfigurationError
from kling_async._exchange.urls import Url
from kling_async._http.proxies import Proxy, bypasses_proxy, environment_proxy


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_PROXY".upper(), raising=False)


@pytest.mark.parametrize(
    ("exceptions", "excepted"),
    [
        ("*", True),
        ("api.example.com", True),
        ("API.Example.com", True),
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("example.com:443", True),
        ("https://example.com", True),
        ("other.test , example.com", True),
        ("other.test example.com", True),
        ("example.com:8443", False),
        ("ample.com", False),
        ("example.com.evil.test", False),
        ("10.0.0.0/8", False),
        ("", False),
        (" , ", False),
    ],
)
def test_no_proxy_excepts_hosts_like_other_programs(exceptions: str, excepted: bool) -> None:
    assert bypasses_proxy(Url.parse("https://api.example.com/x"), exceptions) is excepted


@pytest.mark.parametrize(
    ("address", "exceptions", "excepted"),
    [
        ("https://10.1.2.3/", "10.0.0.0/8", True),
        ("https://11.1.2.3/", "10.0.0.0/8", False),
        ("https://10.1.2.3/", "10.1.2.3", True),
        ("https://10.1.2.3:8080/", "10.1.2.3:8080", True),
        ("https://10.1.2.3/", "2.3", False),
        ("https://[fd00::1]/", "fd00::/8", True),
        ("https://[::1]:8080/", "[::1]:8080", True),
        ("https://[::1]/", "::1", True),
        ("http://localhost/", "localhost", True),
        ("http://localhost/", "10.0.0.0/99", False),
    ],
)
def test_no_proxy_excepts_addresses_and_networks(address: str, exceptions: str, excepted: bool) -> None:
    assert bypasses_proxy(Url.parse(address), exceptions) is excepted


def test_the_proxy_is_chosen_by_the_scheme_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@one.test:3128")
    monkeypatch.setenv("ALL_PROXY", "two.test:1080")
    one, two = (environment_proxy(Url.parse(f"{scheme}://a.test/")) for scheme in ("https", "http"))
    assert one is not None
    assert two is not None
    assert (one.url, one.shown, one.source) == ("http://me:secret@one.test:3128", "http://one.test:3128", "HTTPS_PROXY")
    assert (two.url, two.source) == ("http://two.test:1080", "ALL_PROXY")
    assert "secret" not in repr(one)


@pytest.mark.parametrize("text", ["ftp://me:secret@a.test", "http://me:secret@a b", "http://me:secret@a:x", "http://"])
def test_what_is_no_proxy_is_refused_with_its_variable_and_without_its_password(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", text)
    with pytest.raises(ConfigurationError, match="ALL_PROXY") as refused:
        environment_proxy(Url.parse("https://a.test/"))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["socks", "socks5", "socks5h"])
def test_socks_needs_its_package(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"httpx\[socks\]"):
        Proxy.parse(f"{scheme}://a.test:1080", "ALL_PROXY")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert Proxy.parse(f"{scheme}://a.test:1080", "ALL_PROXY").url.startswith("socks5")
