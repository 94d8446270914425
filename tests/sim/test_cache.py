"""What is kept is made once, found by content, and bounded."""

import os
import threading
import time
import types

import pytest

from sim import cache
from sim.cache import cached, content_key, sources_key, trim


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    return tmp_path / "kind"


def test_a_step_is_made_once_and_concurrent_makers_wait(kept):
    made = []

    def make(work):
        time.sleep(0.1)
        made.append(work)
        (work / "result").write_text("done")

    threads = [threading.Thread(target=cached, args=(kept, "step", make)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (cached(kept, "step", make) / "result").read_text() == "done"


def test_a_step_that_fails_leaves_nothing_that_counts(kept):
    def fail(work):
        (work / "log").write_text("why")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached(kept, "step", fail)
    assert not (kept / "step").exists()
    assert (kept / "step.partial" / "log").read_text() == "why"
    assert (cached(kept, "step", lambda work: None)).exists()


def test_keys_follow_facts_and_every_source(tmp_path):
    package = types.SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    (tmp_path / "deep").mkdir()
    source = tmp_path / "deep" / "module.py"
    source.write_text("a = 1\n")
    keys = {sources_key(package), sources_key(package, facts=1)}
    source.write_text("a = 2\n")
    keys.add(sources_key(package))
    source.rename(tmp_path / "module.py")
    keys.add(sources_key(package))
    assert len(keys) == 4
    assert content_key(1, "a") == content_key(1, "a") != content_key(1, "b")


def test_what_was_used_longest_ago_goes_first_and_what_is_in_use_stays(kept):
    for age, name in enumerate(("new", "middle", "old")):
        folder = cached(kept, name, lambda work: (work / "data").write_bytes(bytes(1000)))
        os.utime(folder.with_name(f"{name}.lock"), (time.time() - 1000 * age,) * 2)
    trim(2000, recent=60)
    assert {folder.name for folder in kept.glob("*/")} == {"new", "middle"}
    trim(0, recent=1500)
    assert {folder.name for folder in kept.glob("*/")} == {"new", "middle"}
    cached(kept, "middle", lambda work: None)  # a use
    trim(1000, recent=0)
    assert {folder.name for folder in kept.glob("*/")} == {"middle"}


def test_the_command_says_how_large_it_is_and_clears_it(kept, capsys):
    cached(kept, "step", lambda work: (work / "data").write_bytes(bytes(3 << 20)))
    assert cache.main([]) == 0
    assert "3 MiB" in capsys.readouterr().out
    assert cache.main(["--clear"]) == 0
    assert not kept.exists()


def test_what_another_process_renames_meanwhile_is_passed_over(kept):
    (kept / "step.partial").mkdir(parents=True)
    (kept / "step.partial" / "data").write_bytes(bytes(1000))
    done = threading.Event()

    def rename():
        while not done.is_set():
            (kept / "step.partial").rename(kept / "step")
            (kept / "step").rename(kept / "step.partial")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        for _ in range(500):
            trim(0, recent=60)
    finally:
        done.set()
        thread.join()
    assert (kept / "step.partial" / "data").exists()
