import http.client

import pytest

from vibelite.errors import VibeLiteError
from vibelite.report.server import LiveReport, make_server
from vibelite.run_dir import append_jsonl, read_jsonl


def ask(port, path, *, method="GET", host=None):
    """Status, headers and body of one request, sent as written."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name in [f"127.0.0.1:{port}"] if host is None else host:
        connection.putheader("Host", name)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read().decode()


def test_the_page_is_served_and_may_ask_only_its_own_server(port):
    status, headers, page = ask(port, "/")
    assert status == 200 and page.startswith("<!DOCTYPE html>") and "<body data-live>" in page
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page and "connect-src 'self'" in page


def test_the_version_changes_when_a_step_is_written_and_only_then(finished_run, port):
    before = ask(port, "/version")[2]
    assert ask(port, "/version")[2] == before
    page = ask(port, "/")[2]
    steps = finished_run.run.find_stage("mgpo").steps_path
    append_jsonl(steps, [list(read_jsonl(steps))[-1] | {"step": 41}])
    assert ask(port, "/version")[2] != before
    assert ask(port, "/")[2] != page


@pytest.mark.parametrize(
    "path",
    [
        "/recipe.resolved.yaml",
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/./",
        "/?",
        "http://127.0.0.1/etc/passwd",
        "/\\..\\manifest.json",
    ],
)
def test_no_address_but_its_own_two_is_answered(port, path):
    status, _, body = ask(port, path)
    assert status == 404 and body == "nothing here; the report is at /\n"


@pytest.mark.parametrize(
    "host", [[], ["evil.example"], ["127.0.0.1"], ["127.0.0.1:1"], ["evil.example:{port}"],
             ["127.0.0.1:{port}", "evil.example"], ["127.0.0.1:{port}.evil.example"]],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/version"])
def test_requests_in_another_name_are_refused(port, host, path):
    status, _, body = ask(port, path, host=[name.format(port=port) for name in host])
    assert status == 403 and "<" not in body


def test_other_methods_are_refused(port):
    assert ask(port, "/", method="POST")[0] == 501
    status, headers, body = ask(port, "/", method="HEAD")
    assert (status, body) == (200, "") and int(headers["Content-Length"]) > 1000
    assert ask(port, "/version", host=[f"localhost:{port}"])[0] == 200


def test_it_listens_on_this_machine_only(finished_run):
    with make_server(LiveReport([finished_run.run.path]), port=0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(VibeLiteError, match=r"port \d+: cannot be used .*--port"):
            make_server(LiveReport([finished_run.run.path]), port=server.server_address[1])
