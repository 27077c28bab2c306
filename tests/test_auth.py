"""Credentials: what registries ask for, what is kept, and that neither goes where it should not."""

import base64
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from loopback import Answer, Asked, fault, loopback, make_certificates, sample_image, serving
from minidocker.errors import InvalidArgument, RegistryError
from minidocker.registry import client, credentials
from minidocker.registry.auth import Credentials, parse_challenges
from minidocker.registry.client import Registry
from minidocker.registry.transport import Patience, Refused

QUICK = Patience(connect=5, idle=5, attempts=3, pause=0.01)
ANNA = Credentials("anna", "pass:word")
SAMPLE = sample_image({"a": b"1"})


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        (["Basic realm=x"], [("basic", {"realm": "x"})]),
        (['Basic realm="a, b", charset="UTF-8"'], [("basic", {"realm": "a, b", "charset": "UTF-8"})]),
        (
            ['Bearer realm="https://t/token",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://t/token", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (['BEARER Realm="r"', "Basic realm=b"], [("bearer", {"realm": "r"}), ("basic", {"realm": "b"})]),
        (
            ['Basic realm="b", Bearer realm="r", service=s'],
            [("basic", {"realm": "b"}), ("bearer", {"realm": "r", "service": "s"})],
        ),
        ([r'Basic realm="a \"quoted\" one"'], [("basic", {"realm": 'a "quoted" one'})]),
        (["Negotiate", 'Basic realm="b"'], [("basic", {"realm": "b"})]),
        (["Bearer realm="], []),
        (['\0\xff,,,= ="'], []),
    ],
)
def test_challenges_are_read(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = [(c.scheme, c.parameters) for c in parse_challenges(headers) if c.parameters]
    assert found == expected


def token_registry(
    web_host: list[str], life: int = 300, give: str = "good"
) -> tuple[list[Asked], Callable[[Asked], Answer]]:
    """Return a registry's answers that want a token, which a token server on the same port gives."""
    requests: list[Asked] = []
    inner = serving(SAMPLE)

    def answer(asked: Asked) -> Answer:
        if asked.path.startswith("/token"):
            requests.append(asked)
            return Answer(200, json.dumps({"token": give, "expires_in": life}).encode())
        if asked.headers.get("Authorization") != "Bearer good":
            scope = "" if asked.path == "/v2/" else ',scope="repository:thing:pull"'
            challenge = f'Bearer realm="http://{web_host[0]}/token",service="the service"{scope}'
            return fault(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        return inner(asked)

    return requests, answer


def test_a_token_is_asked_for_as_the_registry_says_and_once_a_scope() -> None:
    host = [""]
    requests, answer = token_registry(host)
    with loopback(answer) as web:
        host[0] = web.host
        registry = Registry(web.host, credentials=ANNA, patience=QUICK)
        assert registry.manifest("thing", "latest").digest == SAMPLE.digest
        for digest in SAMPLE.blobs:
            _, chunks = registry.blob("thing", digest)
            assert b"".join(chunks) == SAMPLE.blobs[digest]
    assert len(requests) == 1
    query = parse_qs(urlsplit(requests[0].path).query)
    assert query["service"] == ["the service"]
    assert query["scope"] == ["repository:thing:pull"]
    assert requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"anna:pass:word").decode()


def test_without_credentials_an_anonymous_token_is_asked_for() -> None:
    host = [""]
    requests, answer = token_registry(host)
    with loopback(answer) as web:
        host[0] = web.host
        assert Registry(web.host, patience=QUICK).manifest("thing", "latest").digest == SAMPLE.digest
    assert "Authorization" not in requests[0].headers
    assert "account" not in parse_qs(urlsplit(requests[0].path).query)


def test_an_identity_token_goes_by_post() -> None:
    host = [""]
    requests, answer = token_registry(host)
    with loopback(answer) as web:
        host[0] = web.host
        registry = Registry(web.host, credentials=Credentials("<token>", "", "refresh me"), patience=QUICK)
        registry.manifest("thing", "latest")
    form = parse_qs(requests[0].body.decode())
    assert requests[0].method == "POST"
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["refresh me"]
    assert form["scope"] == ["repository:thing:pull"]


def test_a_token_that_does_not_help_is_asked_for_once_more_and_no_oftener() -> None:
    host = [""]
    requests, answer = token_registry(host, give="bad")
    with loopback(answer) as web:
        host[0] = web.host
        with pytest.raises(Refused, match="unauthorized: authentication required") as caught:
            Registry(web.host, credentials=ANNA, patience=QUICK).manifest("thing", "latest")
    assert caught.value.status == 401
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Answer(401, b'{"details": "incorrect username or password"}'), "unauthorized: incorrect username or password"),
        (fault(401, "UNAUTHORIZED", "wrong"), "unauthorized: wrong"),
        (Answer(403, b"nonsense"), "unauthorized: incorrect username or password"),
        (Answer(200, b"nonsense"), "holds no token"),
        (Answer(200, b'{"token": 7}'), "holds no token"),
        (Answer(200, b'{"token": "a\\r\\nX: y"}'), "holds no token"),
        (Answer(404, b"[]"), "status 404"),
    ],
)
def test_a_token_server_that_refuses_or_babbles(reply: Answer, words: str) -> None:
    host = [""]

    def answer(asked: Asked) -> Answer:
        if asked.path.startswith("/token"):
            return reply
        return Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{host[0]}/token",service="s"'})

    with loopback(answer) as web:
        host[0] = web.host
        with pytest.raises(RegistryError, match=words):
            Registry(web.host, credentials=ANNA, patience=QUICK).manifest("thing", "latest")


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "not a url", "http://[", "http://x:port/"])
def test_a_token_server_without_a_proper_address_is_not_asked(realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}
    with (
        loopback(lambda asked: Answer(401, b"", challenge)) as web,
        pytest.raises(RegistryError, match="token|no address"),
    ):
        Registry(web.host, credentials=ANNA, patience=QUICK).manifest("thing", "latest")


def test_credentials_do_not_go_from_https_to_a_plain_http_token_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(str(tmp_path))
    monkeypatch.setenv("MINIDOCKER_CA_FILE", made.authority)
    challenge = {"WWW-Authenticate": 'Bearer realm="http://tokens.example/token",service="s"'}
    with loopback(lambda asked: Answer(401, b"", challenge), made) as web:
        with pytest.raises(RegistryError, match="refused to send credentials.*not HTTPS"):
            Registry(web.host, credentials=ANNA, patience=QUICK).manifest("thing", "latest")


def basic_registry(asked: Asked) -> Answer:
    """Answer as a registry that lets anna in."""
    if asked.headers.get("Authorization") != ANNA.basic:
        return fault(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="r"'})
    return serving(SAMPLE)(asked)


def test_basic_credentials_go_with_every_request_but_the_greeting() -> None:
    with loopback(basic_registry) as web:
        Registry(web.host, credentials=ANNA, patience=QUICK).manifest("thing", "latest")
    assert [("Authorization" in asked.headers) for asked in web.asked] == [False, True]


def test_basic_without_credentials_says_what_docker_says() -> None:
    with loopback(basic_registry) as web, pytest.raises(Refused, match="no basic auth credentials"):
        Registry(web.host, patience=QUICK).manifest("thing", "latest")


def test_login_keeps_what_the_registry_confirmed() -> None:
    with loopback(basic_registry) as web:
        client.login(web.host, "anna", "pass:word", QUICK)
        assert credentials.load(web.host) == ANNA
        assert client.connect(web.host).manifest("thing", "latest").digest == SAMPLE.digest
        with pytest.raises(Refused, match="login attempt to http://.*/v2/ failed with status: 401 Unauthorized"):
            client.login(web.host, "anna", "wrong", QUICK)
        assert credentials.load(web.host) == ANNA
    assert client.logout(web.host)
    assert credentials.load(web.host) is None
    assert not client.logout(web.host)


def test_login_to_an_open_registry_succeeds() -> None:
    with loopback(lambda asked: Answer()) as web:
        client.login(web.host, "anna", "x", QUICK)
        assert credentials.load(web.host) == Credentials("anna", "x")


def test_the_file_is_dockers_private_and_keeps_what_it_does_not_know() -> None:
    folder = os.path.dirname(credentials.path())
    os.makedirs(folder)
    old = {"auths": {"other:5000": {"auth": "eDp5"}}, "HttpHeaders": {"X": "1"}, "psFormat": "table"}
    Path(credentials.path()).write_text(json.dumps(old))
    os.chmod(credentials.path(), 0o644)
    credentials.store("docker.io", ANNA)
    kept = json.loads(Path(credentials.path()).read_text())
    assert stat.S_IMODE(os.stat(credentials.path()).st_mode) == 0o600
    assert kept["auths"]["https://index.docker.io/v1/"] == {"auth": base64.b64encode(b"anna:pass:word").decode()}
    assert kept["HttpHeaders"] == {"X": "1"}
    assert kept["psFormat"] == "table"
    assert credentials.load("docker.io") == ANNA
    assert credentials.load("other:5000") == Credentials("x", "y")
    assert os.listdir(folder) == ["config.json"]


def test_old_entries_that_are_urls_are_found_and_erased() -> None:
    os.makedirs(os.path.dirname(credentials.path()))
    Path(credentials.path()).write_text('{"auths": {"https://reg.example/v1/": {"auth": "YTpi"}}}')
    assert credentials.load("reg.example") == Credentials("a", "b")
    assert credentials.erase("reg.example")
    assert credentials.load("reg.example") is None


@pytest.mark.parametrize("content", ["{", "[]", '"x"', '{"auths": []  ,', '{"auths": 5}', "\0"])
def test_a_broken_file_is_named_and_left_alone(content: str) -> None:
    os.makedirs(os.path.dirname(credentials.path()))
    Path(credentials.path()).write_text(content)
    for act in (lambda: credentials.load("x"), lambda: credentials.store("x", ANNA), lambda: credentials.erase("x")):
        with pytest.raises(InvalidArgument, match="config.json"):
            act()
    assert Path(credentials.path()).read_text() == content


def test_a_garbled_entry_asks_to_log_in_again() -> None:
    os.makedirs(os.path.dirname(credentials.path()))
    Path(credentials.path()).write_text('{"auths": {"x": {"auth": "***"}}}')
    with pytest.raises(RegistryError, match="log in again"):
        credentials.load("x")


def test_a_credentials_helper_is_named() -> None:
    os.makedirs(os.path.dirname(credentials.path()))
    Path(credentials.path()).write_text('{"auths": {"x": {}}, "credsStore": "desktop"}')
    with pytest.raises(RegistryError, match="docker-credential-desktop"):
        credentials.load("x")
    assert credentials.load("unknown") is None


def test_two_logins_at_once_are_both_kept() -> None:
    hosts = [f"r{n}:5000" for n in range(12)]
    threads = [threading.Thread(target=credentials.store, args=(host, ANNA)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(credentials.load(host) == ANNA for host in hosts)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    os.makedirs(os.path.dirname(credentials.path()))
    real = tmp_path / "real.json"
    real.write_text("{}")
    os.symlink(real, credentials.path())
    credentials.store("x", ANNA)
    assert os.path.islink(credentials.path())
    assert "auths" in json.loads(real.read_text())
