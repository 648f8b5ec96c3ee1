"""Downloads from servers of the test's own: what goes wrong on the way, what is taken up, what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sphere.config.sources import Source, load_sources
from sphere.data import download
from sphere.data.download import fetch, fetch_snapshot
from sphere.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
CUT = f"bytes={download.BLOCK}-"
"""What is asked for after a cut within the second block."""


@dataclass
class Server:
    """Serves ``content``; ``script`` says how it misbehaves, one entry a request, and after that it behaves."""

    content: bytes = CONTENT
    etag: str | None = '"first"'
    ranges: bool = True
    length: bool = True
    script: list[int | str] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    halfway: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    """A slow answer sets the one and waits for the other."""
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        trouble = self.script.pop(0) if self.script else None
        if isinstance(trouble, int):
            request.send_error(trouble)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if begin >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if begin else 200)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.length:
            request.send_header("Content-Length", str(len(self.content) - begin))
        if begin:
            told = begin - 1 if trouble == "elsewhere" else begin
            request.send_header("Content-Range", f"bytes {told}-{len(self.content) - 1}/{len(self.content)}")
        request.end_headers()
        if trouble == "slow":
            request.wfile.write(self.content[:1000])
            begin = 1000
            self.halfway.set()
            self.go_on.wait()
        end = begin + 3 * download.BLOCK // 2 if trouble == "cut" else None
        request.wfile.write(self.content[begin:end])


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on this machine that ``answer`` speaks for; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    with serving(served.answer) as address:
        served.address = f"{address}/data.json"
        yield served


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.001)


def source(url: str, **changes: Any) -> Source:
    known = {"bytes": len(CONTENT), "sha256": SHA} if "path" not in changes else {}
    return Source(**{"name": "data", "kind": "file", "url": url, "revision": "1", "licence": "MIT", **known, **changes})


def left_in(folder: Path) -> list[str]:
    """The names of what is there beside lock files."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., bytes]:
    """Fetch from the server into ``results``; returns what came, having seen that nothing else is left there."""

    def run(**changes: Any) -> bytes:
        out = tmp_path / "results" / "data.json"
        fetch(source(**{"url": server.address, **changes}), out, tmp_path / "locks")
        assert left_in(out.parent) == ["data.json"]
        return out.read_bytes()

    return run


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ([], [None]),
        ([503], [None, None]),
        ([429, 500, "cut", 502], [None, None, None, CUT, CUT]),
        (["cut", "cut"], [None, CUT, f"bytes={2 * download.BLOCK}-"]),
        (["cut", "elsewhere"], [None, CUT, None]),
    ],
    ids=["well-behaved", "503-then-fine", "every trouble", "two cuts", "another piece than was asked for"],
)
def test_a_troubled_download_ends_well(
    get: Callable[..., bytes], server: Server, script: list[int | str], asked: list[str | None]
) -> None:
    server.script = script
    assert get() == CONTENT
    assert server.asked == asked


def test_a_server_without_ranges_is_read_from_the_start_again(get: Callable[..., bytes], server: Server) -> None:
    server.script, server.ranges = ["cut"], False
    assert get() == CONTENT
    assert server.asked == [None, CUT]


@pytest.mark.parametrize("etag", ['"second"', None], ids=["another version", "no version told"])
def test_two_versions_are_never_spliced(get: Callable[..., bytes], server: Server, etag: str | None) -> None:
    server.script, server.etag = ["cut"] * download.ATTEMPTS, etag and '"first"'
    server.content = CONTENT[::-1] * 10
    with pytest.raises(InputError, match="cannot be downloaded"):
        get()
    server.content, server.etag = CONTENT, etag
    assert get() == CONTENT


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(
    get: Callable[..., bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.script = ["cut"]
    with pytest.raises(InputError, match=r"cannot be downloaded \(.*, 1 times\): run again later") as caught:
        get()
    assert "\n" not in str(caught.value)
    assert get() == CONTENT
    assert server.asked == [None, CUT]


@pytest.mark.parametrize("more", [b"", b"and more"], ids=["all of it", "more than that"])
def test_a_part_that_needs_nothing_more_is_no_trap(get: Callable[..., bytes], tmp_path: Path, more: bytes) -> None:
    """A call that was killed between the last byte and the renaming left all of it."""
    name = hashlib.sha256(b'"first"').hexdigest()[: download.SHORT]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / f".data.json.{name}.part").write_bytes(CONTENT + more)
    assert get(bytes=None, sha256=None) == CONTENT


def test_a_part_that_grew_too_long_is_thrown_away(
    get: Callable[..., bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two processes append to it, on a file system without locks."""
    sync = os.fsync

    def meddle(descriptor: int) -> None:
        os.write(descriptor, b"and more")
        sync(descriptor)
        monkeypatch.setattr(os, "fsync", sync)

    monkeypatch.setattr(os, "fsync", meddle)
    assert get(bytes=None, sha256=None) == CONTENT
    assert server.asked == [None, None]


def test_a_download_of_unknown_length_is_not_put_on_record(
    get: Callable[..., bytes], server: Server, tmp_path: Path
) -> None:
    server.length = False
    with pytest.raises(
        InputError, match=r"neither its server nor its row .* under sources in config.yaml \(data: FILE"
    ):
        get(bytes=None, sha256=None)
    assert not (tmp_path / "locks").exists()
    assert get() == CONTENT


def test_a_file_that_is_not_there_is_not_asked_for_again(get: Callable[..., bytes], server: Server) -> None:
    server.script = [404]
    with pytest.raises(InputError, match=r"cannot be downloaded \(404 Not Found\): check its row of sources.tsv"):
        get()
    assert server.asked == [None]


@pytest.mark.parametrize(("key", "value", "part"), [("bytes", 3, "256000 bytes"), ("sha256", "0" * 64, SHA)])
def test_another_file_than_the_recorded_one_is_refused(
    get: Callable[..., bytes], tmp_path: Path, key: str, value: Any, part: str
) -> None:
    with pytest.raises(InputError, match=rf"{part}.*sources.tsv has {value} for 'data'") as caught:
        get(**{key: value})
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "results") == []


def test_a_server_that_does_not_answer_is_one_line(get: Callable[..., bytes], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        with pytest.raises(InputError, match="6 times") as caught:
            get(url=f"http://127.0.0.1:{taken.getsockname()[1]}/data.json")
    assert "\n" not in str(caught.value)


def test_no_room_is_said_before_the_first_byte(
    get: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"data\.json needs 0 MB more, .* has room for 0 MB: free some"):
        get()
    assert left_in(tmp_path / "results") == []


def test_a_disk_that_fills_up_is_one_line(get: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"needs more, .*: free some, or set results=ELSEWHERE"):
        get()


def test_what_nobody_published_is_recorded_once_and_asked_for_ever_after(
    get: Callable[..., bytes], server: Server, tmp_path: Path
) -> None:
    unknown: dict[str, Any] = {"bytes": None, "sha256": None}
    assert get(**unknown) == CONTENT
    lock = tmp_path / "locks" / "data.json"
    assert json.loads(lock.read_text()) == {"url": server.address, "revision": "1", "bytes": 256000, "sha256": SHA}
    assert get(**unknown) == CONTENT
    assert server.asked == [None], "what is there and on record is not asked for again"
    (tmp_path / "results" / "data.json").unlink()
    server.content = b"tampered"
    with pytest.raises(InputError, match=rf"has 8 bytes, {lock} has 256000"):
        get(**unknown)
    with pytest.raises(InputError, match=r"is of revision 1, sources.tsv has 2: delete it to take the new one"):
        get(**unknown, revision="2")


@pytest.mark.parametrize(
    "lock", ["", "3", "null", "[]", "{}", '{"url": 1, "revision": "1"}', '{"url": "u", "revision": "1"}']
)
@pytest.mark.parametrize("kind", ["file", "dataset"])
def test_a_record_of_something_else_is_one_line(tmp_path: Path, lock: str, kind: str) -> None:
    (tmp_path / "data.json").write_text(lock)
    row = {"kind": kind} if kind == "file" else {"kind": kind, "bytes": None, "sha256": None}
    run = fetch if kind == "file" else fetch_snapshot
    with pytest.raises(InputError, match=r"data\.json records no download .* delete it to record") as caught:
        run(source("http://127.0.0.1:9/data.json", **row), tmp_path / "out" / "data", tmp_path)
    assert "\n" not in str(caught.value)


def test_no_message_shows_what_an_address_keeps_secret(
    get: Callable[..., bytes], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = server.address.replace("://", "://me:secret@") + "?signature=secret"
    nobody = "http://me:secret@127.0.0.1:9/data.json?signature=secret"
    for url, script, match in [
        (signed, [404], r"http://127\.0\.0\.1:\d+/data.json cannot"),
        (nobody, [], "data.json cannot .*with url: /data.json "),
        (signed, [], "has 256000 bytes"),
    ]:
        server.script = [*script]
        with pytest.raises(InputError, match=match) as caught:
            get(url=url, bytes=3)
        assert "secret" not in str(caught.value) + capsys.readouterr().out


def test_a_file_of_ones_own_is_linked_and_checked(tmp_path: Path) -> None:
    own, out = tmp_path / "own.json", tmp_path / "results" / "data.json"
    own.write_bytes(CONTENT)
    fetch(source("https://nowhere.invalid/x.json", path=own, sha256=SHA), out, tmp_path / "locks")
    assert out.is_symlink()
    assert out.read_bytes() == CONTENT
    own.write_bytes(b"other")
    with pytest.raises(InputError, match=r"own\.json has .* as sha256"):
        fetch(source("https://nowhere.invalid/x.json", path=own, sha256=SHA), out, tmp_path / "locks")


FETCH = """
import sys
from pathlib import Path
from sphere.config.sources import Source
from sphere.data.download import fetch
row = Source(name="data", kind="file", url=sys.argv[1], revision="1", licence="MIT")
fetch(row, Path("results/data.json"), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("locks", "asked"), [("one", 1), ("two", 2)], ids=["one record", "a record each"])
def test_two_studies_that_download_the_same_file_wait_for_each_other(
    server: Server, tmp_path: Path, locks: str, asked: int
) -> None:
    def start(locks: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FETCH, server.address, locks]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    server.script = ["slow"]
    first = start("one")
    assert server.halfway.wait(60)
    second = start(locks)
    assert second.stdout is not None
    line = second.stdout.readline()
    server.go_on.set()
    first.communicate()
    second.communicate()
    assert line == "results/data.json: waiting for another process, which is making it\n"
    assert (first.returncode, second.returncode) == (0, 0)
    assert (tmp_path / "results" / "data.json").read_bytes() == CONTENT
    assert server.asked == [None] * asked
    for each in {"one", locks}:
        lock = json.loads((tmp_path / each / "data.json").read_text())
        assert (lock["bytes"], lock["sha256"]) == (len(CONTENT), SHA)


def test_the_list_of_sources_is_valid_and_pinned() -> None:
    sources = load_sources(ROOT / "config" / "sources.tsv")
    assert {"counterfact", "multi_counterfact", "zsre_mend_eval", "zsre_mend_train"} <= sources.keys()
    assert sources["counterfact"].bytes == 45_108_470
    assert all(each.licence and each.revision for each in sources.values())
    unpinned = {each.name for each in sources.values() if not each.is_file and len(each.revision) != 40}
    assert all(each.sha256 for each in sources.values() if each.kind == "wheel")
    assert unpinned == {"nq_passages"}
    assert all(each.sha256 or "checksum" in str(each.note) for each in sources.values() if each.kind == "file")


# --------------------------------------------------------------------------------------------------------- hub

COMMITS = {"main": "a" * 40, "later": "b" * 40}
TOKEN = "hf_" + "s" * 34


@dataclass
class Hub:
    """A Hugging Face hub with one dataset; ``main`` is what its branch points to."""

    files: dict[str, bytes]
    main: str = COMMITS["main"]
    gated: bool = False
    tokens: list[str | None] = field(default_factory=list)
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.tokens.append(request.headers.get("Authorization"))
        path = request.path.partition("?")[0]
        listing = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40,
                    "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
                   for name, data in self.files.items()]  # fmt: skip
        if self.gated:
            return self.send(request, 403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Restricted"})
        if "/revision/" in path:
            return self.send(request, 200, json.dumps({"id": "a/b", "sha": self.main, "siblings": []}).encode(), {})
        if "/tree/" in path:
            return self.send(request, 200, json.dumps(listing).encode(), {})
        _, _, rest = path.partition("/resolve/")
        commit, _, name = rest.partition("/")
        if name not in self.files:
            return self.send(request, 404, b"", {})
        data = self.files[name]
        sha = hashlib.sha256(data).hexdigest()
        return self.send(request, 200, data, {"ETag": f'"{sha}"', "X-Linked-Etag": f'"{sha}"', "X-Repo-Commit": commit})

    def send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub({"README.md": b"---\n---\n", "rte/test.jsonl": b'{"a": 1}\n', "other/test.jsonl": b"{}\n"})

    with serving(served.answer) as served.address:
        yield served


PROGRAM = """
import sys
from pathlib import Path
from sphere.config.sources import Source
from sphere.data.download import fetch_snapshot
from sphere.errors import InputError
kind, subset = ("dataset", "rte") if len(sys.argv) == 2 else (sys.argv[2], None)
row = Source(name="rte", kind=kind, url="a/b", subset=subset, revision="main", licence="MIT")
try:
    fetch_snapshot(row, Path(sys.argv[1]), Path("locks"))
except InputError as error:
    print(f"error: {error}")
"""


def from_hub(hub: Hub, folder: Path, *arguments: str, **environment: str) -> str:
    """What a process of its own prints that fetches the dataset: the client reads its environment at the start."""
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hub"), "HF_TOKEN": TOKEN}
    settings |= {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


def test_a_snapshot_is_recorded_with_its_commit_which_is_taken_ever_after(hub: Hub, tmp_path: Path) -> None:
    assert f"2 files of a/b at main ({COMMITS['main']})" in from_hub(hub, tmp_path, "one")
    assert (tmp_path / "one" / "rte" / "test.jsonl").read_bytes() == hub.files["rte/test.jsonl"]
    assert not (tmp_path / "one" / "other").exists()
    assert f"Bearer {TOKEN}" in hub.tokens
    lock = json.loads((tmp_path / "locks" / "rte.json").read_text())
    assert (lock["commit"], lock["revision"]) == (COMMITS["main"], "main")
    assert set(lock["files"]) == {"README.md", "rte/test.jsonl"}
    hub.main = COMMITS["later"]
    assert COMMITS["main"] in from_hub(hub, tmp_path, "two")
    asked = len(hub.tokens)
    assert COMMITS["main"] in from_hub(hub, tmp_path, "three", HF_HUB_OFFLINE="1")
    assert len(hub.tokens) == asked, "offline, nothing is asked"


def test_a_changed_snapshot_is_refused(hub: Hub, tmp_path: Path) -> None:
    from_hub(hub, tmp_path, "one")
    (tmp_path / "one" / "README.md").resolve().write_bytes(b"tampered")
    line = from_hub(hub, tmp_path, "two")
    assert line.startswith("error: ")
    assert "README.md has sha256" in line


def test_a_model_without_safetensors_is_refused_before_its_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"weights"}
    line = from_hub(hub, tmp_path, "out", "model")
    assert line.startswith("error: a/b at main has no safetensors: save_pretrained it into a folder")
    assert line.endswith("name that under sources in config.yaml (rte: FOLDER)\n")
    assert not list((tmp_path / "hub").rglob("*.bin"))
    hub.files["model.safetensors"] = b"weights"
    hub.main = COMMITS["later"]
    assert f"2 files of a/b at main ({COMMITS['later']})" in from_hub(hub, tmp_path, "out", "model")


@pytest.mark.parametrize(
    ("gated", "environment", "part"),
    [
        (True, {}, "accept its licence at https://huggingface.co/a/b and set HF_TOKEN"),
        (False, {"HF_HUB_OFFLINE": "1"}, "fetch it once without HF_HUB_OFFLINE, or name a copy of yours under sources"),
    ],
    ids=["gated", "offline and not in the cache"],
)
def test_a_snapshot_that_cannot_be_had_is_one_line(
    hub: Hub, tmp_path: Path, gated: bool, environment: dict[str, str], part: str
) -> None:
    hub.gated = gated
    output = from_hub(hub, tmp_path, "out", **environment)
    assert output.startswith("error: a/b at main cannot be downloaded (")
    assert part in output
    assert output.count("\n") == 1
    assert not (tmp_path / "locks").exists()


def test_a_folder_of_ones_own_is_linked_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "mine" / ".cache").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / "mine" / name).write_text("{}")
    row = source("org/model", kind="model", path=tmp_path / "mine")
    fetch_snapshot(row, tmp_path / "model", tmp_path / "locks")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "model" / "config.json").is_symlink()
    (tmp_path / "mine" / "own.py").write_text("")
    for code in (True, False):
        fetch_snapshot(row, tmp_path / "model", tmp_path / "locks", code=code)
        assert (tmp_path / "model" / "own.py").exists() == code
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"mine has no safetensors: save_pretrained it"):
        fetch_snapshot(row, tmp_path / "other", tmp_path / "locks")
