"""Our client against Debian's docker-registry, and docker, podman and skopeo against our server."""

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest

from loopback import Answer, Asked, layer_tar, loopback, make_certificates, sample_image, serving
from minidocker.errors import RegistryError
from minidocker.image import reference
from minidocker.image.catalog import Image
from minidocker.image.store import ImageStore
from minidocker.progress import Progress, silent
from minidocker.registry import client, transfer
from minidocker.registry.auth import Credentials
from minidocker.registry.client import Registry
from minidocker.registry.server import Server
from minidocker.registry.transport import Refused
from peers import Docker, DockerRegistry, Podman

pytestmark = pytest.mark.peers

Start = Callable[..., DockerRegistry]

SAMPLE = sample_image({"a": os.urandom(9_000_000)}, {"b": b"2"})
ANNA = Credentials("anna", "secret")


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text("{}")  # podman wants it to be there
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"))


@pytest.fixture
def image(store: ImageStore) -> Image:
    """Return the sample as an image of the store."""
    with loopback(serving(SAMPLE)) as web:
        ref = reference.parse(f"{web.host}/thing")
        return transfer.fetch(store, ref, None, silent, Registry(web.host)).image


def push(store: ImageStore, image: Image, host: str, rest: str, registry: Registry | None = None) -> list[str]:
    news: list[Progress] = []
    ref = reference.parse(f"{host}/{rest}")
    transfer.send(store, image, ref, news.append, registry or client.connect(host))
    return [item.status for item in news]


def pull(store: ImageStore, host: str, rest: str, registry: Registry | None = None) -> transfer.Fetched:
    ref = reference.parse(f"{host}/{rest}")
    return transfer.fetch(store, ref, None, silent, registry or client.connect(host))


def fresh(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / f"root{len(os.listdir(tmp_path))}"))


# docker-registry, open


def test_an_open_registry(docker_registry: Start, store: ImageStore, image: Image, tmp_path: Path) -> None:
    host = docker_registry().host
    statuses = push(store, image, host, "thing:1")
    assert statuses.count("Pushed") == 2
    assert push(store, image, host, "thing:2").count("Layer already exists") == 2
    assert push(store, image, host, "fork/of/thing:1").count("Mounted from thing") == 2
    registry = client.connect(host)
    assert sorted(registry.tags("thing")) == ["1", "2"]
    assert registry.catalog() == ["fork/of/thing", "thing"]
    for name in ("thing:2", f"thing@{SAMPLE.digest}", "fork/of/thing:1"):
        done = pull(fresh(tmp_path), host, name)
        assert (done.image.id, done.digest) == (image.id, SAMPLE.digest)
    with pytest.raises(Refused) as caught:
        pull(store, host, "thing:nosuch")
    assert str(caught.value).startswith(f"manifest for {host}/thing:nosuch not found: manifest unknown: ")


def test_a_cut_off_download_goes_on_with_a_range(
    docker_registry: Start, store: ImageStore, image: Image, tmp_path: Path
) -> None:
    server = docker_registry()
    push(store, image, server.host, "thing:1")
    other = fresh(tmp_path)
    other.layout.create()
    layer = SAMPLE.layers[0]
    Path(other.layout.ingest, f"{layer[7:]}.partial").write_bytes(SAMPLE.blobs[layer][:5_000_000])
    assert pull(other, server.host, "thing:1").image.id == image.id
    assert Path(other.layout.blob_path(layer)).read_bytes() == SAMPLE.blobs[layer]


def test_oci_images_too(docker_registry: Start, store: ImageStore, tmp_path: Path) -> None:
    host = docker_registry().host
    sample = sample_image({"x": b"y"}, docker=False)
    with loopback(serving(sample)) as web:
        image = pull(store, web.host, "thing").image
    push(store, image, host, "thing:oci")
    assert pull(fresh(tmp_path), host, "thing:oci").digest == sample.digest


# docker-registry, users and TLS


def test_users_and_tls(
    docker_registry: Start, store: ImageStore, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(str(tmp_path))
    users = tmp_path / "htpasswd"
    users.write_text(f"anna:{bcrypt.hashpw(b'secret', bcrypt.gensalt(5, b'2a')).decode()}\n")
    host = docker_registry(
        env={
            "REGISTRY_HTTP_TLS_CERTIFICATE": made.certificate,
            "REGISTRY_HTTP_TLS_KEY": made.key,
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "test",
            "REGISTRY_AUTH_HTPASSWD_PATH": str(users),
        }
    ).host
    monkeypatch.setenv("MINIDOCKER_CA_FILE", made.authority)
    with pytest.raises(Refused, match="no basic auth credentials"):
        push(store, image, host, "thing:1")
    with pytest.raises(Refused, match=f"login attempt to https://{host}/v2/ failed with status: 401 Unauthorized"):
        client.login(host, "anna", "wrong")
    client.login(host, "anna", "secret")
    assert push(store, image, host, "thing:1").count("Pushed") == 2
    assert pull(fresh(tmp_path), host, "thing:1").image.id == image.id
    client.logout(host)
    with pytest.raises(Refused, match="no basic auth credentials"):
        pull(store, host, "thing:1")


# docker-registry, tokens


class TokenServer:
    """Gives tokens that docker-registry believes: signed with a key whose certificate it was told to trust.

    anna may do everything, anybody may pull what is public.
    """

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = f"{folder}/token.key", f"{folder}/token.crt"
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"]
        subprocess.run([*new, "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)
        self.asked: list[Asked] = []

    def __call__(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        query = parse_qs(urlsplit(asked.path).query)
        authorization = asked.headers.get("Authorization", "")
        if authorization not in ("", ANNA.basic):
            return Answer(401, b'{"details": "incorrect username or password"}')
        access: list[dict[str, object]] = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if authorization else ["pull"] if name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": allowed})
        return Answer(200, json.dumps({"token": self.token(query["service"][0], access), "expires_in": 300}).encode())

    def token(self, service: str, access: list[dict[str, object]]) -> str:
        """Return a JSON web token. See: RFC 7515, JSON Web Signature, x5c."""
        pem = Path(self.certificate).read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem[1:-1])]}
        now = int(time.time())
        claims = {"iss": "tests", "sub": "", "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1"}
        body = ".".join(url64(json.dumps(part).encode()) for part in (header, {**claims, "access": access}))
        sign = ["openssl", "dgst", "-sha256", "-sign", self.key]
        return f"{body}.{url64(subprocess.run(sign, input=body.encode(), check=True, capture_output=True).stdout)}"


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_tokens(docker_registry: Start, store: ImageStore, image: Image, tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path)
    with loopback(tokens) as web:
        host = docker_registry(
            env={
                "REGISTRY_AUTH": "token",
                "REGISTRY_AUTH_TOKEN_REALM": f"http://{web.host}/auth/token",
                "REGISTRY_AUTH_TOKEN_SERVICE": "a registry",
                "REGISTRY_AUTH_TOKEN_ISSUER": "tests",
                "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": tokens.certificate,
            }
        ).host
        with pytest.raises(RegistryError, match="denied: requested access to the resource is denied"):
            push(store, image, host, "public/thing:1")
        with pytest.raises(RegistryError, match="unauthorized: incorrect username or password"):
            client.login(host, "anna", "wrong")
        client.login(host, "anna", "secret")
        assert push(store, image, host, "public/thing:1").count("Pushed") == 2
        assert push(store, image, host, "private/thing:1").count("Mounted from public/thing") == 2
        assert pull(fresh(tmp_path), host, "private/thing:1").image.id == image.id
        assert client.connect(host).catalog() == ["private/thing", "public/thing"]
        client.logout(host)
        tokens.asked.clear()
        assert pull(fresh(tmp_path), host, "public/thing:1").image.id == image.id
        assert len(tokens.asked) == 1
        with pytest.raises(Refused) as caught:
            pull(store, host, "private/thing:1")
    assert str(caught.value) == (
        f"pull access denied for {host}/private/thing, repository does not exist or may require 'minidocker login': "
        f"denied: requested access to the resource is denied"
    )


# Our server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    server = Server(str(tmp_path / "registry"), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def tree(tmp_path: Path) -> bytes:
    """Return the archive of a root file system, large enough to be pushed in several parts."""
    return layer_tar({"hello": b"world", "large": os.urandom(12_000_000)})


def host_of(server: Server) -> str:
    return f"127.0.0.1:{server.server_port}"


def test_docker_pushes_and_pulls(own: Server, docker: Docker, store: ImageStore, image: Image, tree: bytes) -> None:
    host = host_of(own)
    name = f"{host}/by/docker:1"
    docker.run("import", "-", name, input=tree)
    assert "digest: sha256:" in docker.run("push", name).stdout
    pulled = pull(store, host, "by/docker:1")
    assert pulled.image.id == docker.run("image", "inspect", "-f", "{{.Id}}", name).stdout.strip()
    docker.run("tag", name, f"{host}/by/fork:1")
    assert "Layer already exists" in docker.run("push", f"{host}/by/fork:1").stdout
    docker.run("rmi", name, f"{host}/by/fork:1")
    docker.run("pull", name)
    docker.run("rmi", name)
    push(store, image, host, "by/us:1")
    out = docker.run("pull", f"{host}/by/us:1").stdout
    assert f"Digest: {SAMPLE.digest}" in out
    assert docker.run("image", "inspect", "-f", "{{.Id}}", f"{host}/by/us:1").stdout.strip() == image.id
    docker.run("rmi", f"{host}/by/us:1")
    failed = docker.run("pull", f"{host}/by/us:nosuch", check=False)
    assert "manifest unknown" in failed.stderr


def test_docker_logs_in(tmp_path: Path, docker: Docker, tree: bytes) -> None:
    users = tmp_path / "users"
    subprocess.run(["htpasswd", "-Bbc", str(users), "anna", "secret"], check=True, capture_output=True)
    server = Server(str(tmp_path / "registry"), "127.0.0.1", 0, str(users))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    host = host_of(server)
    name = f"{host}/private:1"
    docker.run("import", "-", name, input=tree)
    try:
        assert "no basic auth credentials" in docker.run("push", name, check=False).stderr
        wrong = docker.run("login", "-u", "anna", "--password-stdin", host, input=b"wrong", check=False)
        assert wrong.returncode != 0
        docker.run("login", "-u", "anna", "--password-stdin", host, input=b"secret")
        assert "digest: sha256:" in docker.run("push", name).stdout
        docker.run("logout", host)
    finally:
        docker.run("rmi", name, check=False)
        server.shutdown()
        server.server_close()


def test_podman_pushes_and_pulls(own: Server, podman: Podman, store: ImageStore, image: Image, tree: bytes) -> None:
    host = host_of(own)
    name = f"{host}/by/podman:1"
    podman.run("import", "-", name, input=tree)
    podman.run("push", "--tls-verify=false", name)
    assert pull(store, host, "by/podman:1").fresh
    podman.run("rmi", name)
    podman.run("pull", "--tls-verify=false", name)
    push(store, image, host, "by/us:1")
    podman.run("pull", "--tls-verify=false", f"{host}/by/us:1")
    podman.run("rmi", name, f"{host}/by/us:1")


def test_skopeo_copies_and_looks_and_deletes(own: Server, store: ImageStore, image: Image, tmp_path: Path) -> None:
    host = host_of(own)
    push(store, image, host, "thing:1")

    def skopeo(*args: str) -> str:
        return subprocess.run(["skopeo", *args], check=True, capture_output=True, text=True).stdout

    looked = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{host}/thing:1"))
    assert (looked["Digest"], looked["RepoTags"]) == (SAMPLE.digest, ["1"])
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--insecure-policy")
    skopeo("copy", *plain, f"docker://{host}/thing:1", f"docker://{host}/copied:2")
    skopeo("copy", *plain, "-f", "oci", f"docker://{host}/thing:1", f"docker://{host}/copied:oci")
    skopeo("copy", *plain[1:], f"oci:{own.depot.layout.path}:copied:oci", f"docker://{host}/in/place:1")
    skopeo("copy", *plain, f"docker://{host}/copied:oci", f"dir:{tmp_path}/dir")
    other = fresh(tmp_path)
    converted = pull(other, host, "copied:oci").image
    assert other.config(converted).diff_ids == store.config(image).diff_ids
    assert pull(other, host, "in/place:1").image.id == converted.id
    assert pull(fresh(tmp_path), host, "copied:2").digest == SAMPLE.digest
    assert json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{host}/copied"))["Tags"] == ["2", "oci"]
    skopeo("delete", "--tls-verify=false", f"docker://{host}/copied:2")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{host}/copied"))["Tags"] == ["oci"]
    assert pull(fresh(tmp_path), host, "thing:1").image.id == image.id
