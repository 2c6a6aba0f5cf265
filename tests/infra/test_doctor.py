import socket

from infra import doctor


def test_a_taken_port_is_missing_and_the_setting_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.port("serve.port", taken.getsockname()[1])
    assert finding.verdict == "missing"
    assert "--serve.port" in finding.mend


def test_a_free_port_is_ok():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    assert doctor.port("serve.port", number).verdict == "ok"


def test_more_gpus_than_there_are_is_missing():
    finding = doctor.gpus(1000)
    assert finding.verdict == "missing"
    assert "cluster.num_gpus asks for 1000" in finding.mend


def test_a_reachable_bucket_is_ok_and_nothing_is_left_in_it(s3):
    assert doctor.place("output", f"{s3}/here").verdict == "ok"


def test_an_s3_server_that_is_not_there_is_missing(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    finding = doctor.place("output", "s3://bucket/x")
    assert finding.verdict == "missing"
    assert "AWS_ENDPOINT_URL" in finding.mend


def test_the_page_counts_what_is_missing(tmp_path):
    text = doctor.render(doctor.examine({}, {"output": str(tmp_path)}, num_gpus=1000))
    assert "MISSING  gpu" in text
    assert "1 missing" in text
