"""Several writers at once, readers meanwhile, writers that are killed: nothing lost or doubled."""

import collections
import http.client
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from infra.errors import DataError
from infra.store.dataset import Dataset
from infra.store.keys import Keys

WRITER = """
    import sys
    from infra.store.dataset import Dataset
    from infra.store.keys import Keys
    root, me = sys.argv[1], sys.argv[2]
    print("ready", flush=True)
    sys.stdin.readline()
    dataset = Dataset.open(root, create=True)
    for batch in range(4):
        rows = [{"clip_id": f"{me}-{batch}", "text": str(row)} for row in range(3)]
        dataset.append("captions", rows)
    with Keys(dataset, "clips", ("source_id", "transform_id")) as keys:
        for batch in range(4):
            rows = [
                {"source_id": f"s{batch}", "transform_id": "t", "clip_id": f"{me}-{row}"}
                for row in range(2)
            ]
            print(len(dataset.append_once("clips", rows, keys)), flush=True)
    print(dataset.append_new("recipes", [{"recipe_id": f"r{i}"} for i in range(3)], ("recipe_id",)))
"""


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    return str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3")


def _start(program, *words):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_eight_writers_at_once_lose_nothing_and_double_nothing(root):
    writers = [_start(WRITER, root, str(number)) for number in range(8)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        _check_whole_commits(root)
        time.sleep(0.2)
    said = [writer.communicate()[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8

    dataset = Dataset.open(root)
    captions = dataset.read("captions").to_pylist()
    assert len(captions) == 8 * 4 * 3
    by_commit = collections.Counter((row["commit_seq"], row["clip_id"]) for row in captions)
    assert len({number for number, _ in by_commit}) == len(by_commit) == 8 * 4
    assert set(by_commit.values()) == {3}
    assert {number for number, _ in by_commit} == set(range(1, 33))
    done = [commit.operation for commit in dataset.history("captions")]
    assert done == ["WRITE"] * 32 + ["CREATE TABLE"]

    clips = dataset.read("clips").to_pylist()
    writers_of = collections.defaultdict(list)
    for row in clips:
        writers_of[row["source_id"]].append(row["clip_id"].partition("-")[0])
    assert {source: len(names) for source, names in writers_of.items()} == {
        f"s{batch}": 2 for batch in range(4)
    }
    assert all(len(set(names)) == 1 for names in writers_of.values())
    assert sum(int(word) for words in said for word in words[:-1]) == 8
    assert sum(int(words[-1]) for words in said) == 3
    assert sorted(dataset.read("recipes")["recipe_id"].to_pylist()) == ["r0", "r1", "r2"]


def _check_whole_commits(root):
    try:
        captions = Dataset.open(root).read("captions", columns=["clip_id"])
    except DataError as fault:
        if "no dataset lies here" not in str(fault):  # before the first writer has laid it
            raise
        return
    assert set(collections.Counter(captions["clip_id"].to_pylist()).values()) <= {3}


KILLED = """
    import sys
    from infra.store.dataset import Dataset
    from infra.store.keys import Keys
    dataset = Dataset.open(sys.argv[1], create=True)
    with Keys(dataset, "clips", ("source_id",)) as keys:
        for source in range(200):
            rows = [{"source_id": str(source), "clip_id": f"{source}-{row}"} for row in range(2)]
            dataset.append_once("clips", rows, keys)
            print("added", flush=True)
"""


def test_a_writer_that_is_killed_again_and_again_leaves_each_row_once(tmp_path):
    root, chance = str(tmp_path / "data"), random.Random(4)
    for _ in range(6):
        writer = _start(KILLED, root)
        assert writer.stdout.readline() == "added\n"
        time.sleep(chance.uniform(0, 0.3))
        writer.kill()
        writer.communicate()
        clips = Dataset.open(root).read("clips")["clip_id"].to_pylist()
        assert len(clips) % 2 == 0
        assert len(set(clips)) == len(clips)
    last = _start(KILLED, root)
    last.communicate()
    assert last.returncode == 0
    clips = Dataset.open(root).read("clips")["clip_id"].to_pylist()
    assert sorted(clips) == sorted(f"{source}-{row}" for source in range(200) for row in range(2))


class _Forgetful(BaseHTTPRequestHandler):
    """Passes requests on; swallows the answer to the first commit that it is told to swallow."""

    def do_GET(self):
        target = urlsplit(self.server.behind)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        passed = http.client.HTTPConnection(target.hostname, target.port)
        passed.request(self.command, self.path, body, dict(self.headers))
        answer = passed.getresponse()
        data = answer.read()
        if self.command == "PUT" and self.server.swallow and self.server.swallow in self.path:
            self.server.swallow = ""
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - the library's names

    def log_message(self, *words):
        pass


def test_a_commit_whose_answer_is_lost_is_not_made_twice(s3, monkeypatch):
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Forgetful)
    proxy.behind, proxy.swallow = os.environ["AWS_ENDPOINT_URL"], ""
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    dataset = Dataset.open(s3, create=True)
    dataset.append("captions", [{"clip_id": "a"}])
    proxy.swallow = "/captions/_delta_log/"
    assert dataset.append("captions", [{"clip_id": "b"}]) == 2
    assert proxy.swallow == "", "the commit's answer was not lost, so nothing is shown"
    with Keys(dataset, "clips", ("clip_id",)) as keys:
        dataset.append_once("clips", [{"clip_id": "a"}], keys)
        proxy.swallow = "/clips/_delta_log/"
        added = dataset.append_once("clips", [{"clip_id": "a"}, {"clip_id": "b"}], keys)
    assert added["clip_id"].to_pylist() == ["b"]
    assert sorted(dataset.read("clips")["clip_id"].to_pylist()) == ["a", "b"]
    assert sorted(dataset.read("captions")["clip_id"].to_pylist()) == ["a", "b"]
    proxy.shutdown()
    proxy.server_close()
