"""A file is there whole or not at all."""

import os
import threading

import pytest

from metalearn.files import write_whole


def test_the_old_content_stays_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_whole(path, "old\n")
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.close(-1))
    with pytest.raises(OSError, match="descriptor"):
        write_whole(path, b"new")
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_many_writers_leave_one_whole_file(tmp_path):
    path, texts = tmp_path / "cache.npz", [str(i) * 100_000 for i in range(8)]
    failed = []

    def write(text):
        try:
            write_whole(path, text)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["cache.npz"]
