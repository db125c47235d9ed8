import json

import pytest

from benchmarks.regression import earlier, elsewhere, failures, falls, peers_ratio
from benchmarks.summary import markdown


def report(date="2030-01-01", quick=False, **ratios):
    entries = [{"who": "ours", "seconds": {"median": 1.0}}]
    entries += [{"who": who, "variant": "", "ratio": {"median": ratio}} for who, ratio in ratios.items()]
    return {"date": date, "quick": quick, "rows": {"row": {"entries": entries}}}


def test_a_fall_by_more_than_the_fraction_is_one_sentence():
    before = report(a=4.0, b=4.0, c=4.0)
    now = report(a=2.7, b=2.9, c=9.0, new=0.1)
    assert falls(now, before) == ["row: the ratio of 'a' fell from 4 to 2.7, by more than 30%."]
    assert falls(now, before, allowed=0.1) == [
        "row: the ratio of 'a' fell from 4 to 2.7, by more than 10%.",
        "row: the ratio of 'b' fell from 4 to 2.9, by more than 10%.",
    ]


def test_a_line_that_is_gone_is_one_sentence():
    assert falls(report(), report(a=4.0)) == ["row: the ratio of 'a' was 4, and now there is none."]
    now = report()
    now["rows"]["row"]["entries"].append({"who": "a", "status": "not installed"})
    assert falls(now, report(a=4.0)) == ["row: the ratio of 'a' was 4, and now it is not installed."]
    assert falls(report(a=4.0), now) == []


def of_ours(row, **ratios):
    made = report(**ratios)
    for entry in made["rows"]["row"]["entries"]:
        entry.pop("variant", None)
    return made | {"rows": {row: made["rows"]["row"]}}


def test_what_else_we_do_may_become_faster_and_not_slower():
    def said(row, before, now):
        return falls(of_ours(row, **{"some --help": now}), of_ours(row, **{"some --help": before}))

    assert said("cold_start", 1.1, 0.16) == []  # no longer imports JAX
    assert said("cold_start", 0.16, 1.1) == [
        "cold_start: the ratio of 'some --help' rose from 0.16 to 1.1, by more than 30%."
    ]
    before, now = (of_ours("run_overhead_conv4", **{"the steps alone": ratio}) for ratio in (0.98, 0.94))
    assert falls(now, before) == [
        "run_overhead_conv4: the ratio of 'the steps alone' fell from 0.98 to 0.94, beyond 0.97."
    ]
    assert falls(before, now) == []
    before, now = (of_ours("cold_start", **{"import jax, flax": ratio}) for ratio in (0.95, 0.86))
    assert len(falls(now, before)) == 1 and falls(before, now) == []
    before, now = (of_ours("population", **{"a whole round": ratio, "by size": ratio}) for ratio in (81.0, 20.0))
    assert falls(now, before) == ["population: the ratio of 'a whole round' fell from 81 to 20, by more than 30%."]
    before, now = (of_ours("omniglot_sampling", **{"NumPy, task by task": ratio}) for ratio in (2.2, 1.1))
    assert len(falls(now, before)) == 1 and falls(before, now) == []
    # of two ways of ours one may become faster
    assert falls(of_ours("maml_conv4", one=1.1), of_ours("maml_conv4", one=2.3)) == []


def lines(row, **seconds):
    entries = [
        {"who": who, "seconds": {"median": value}, "memory_bytes": 100 * value} for who, value in seconds.items()
    ]
    return {"date": "2030-01-01", "quick": False, "rows": {row: {"entries": entries}}}


def test_curves_are_held_to_what_they_promise_and_a_cache_to_what_it_saved():
    flat, steep = ({"tasks 8": 8.0, "tasks 64": 64.0, "tasks 256": last} for last in (300.0, 310.0))
    assert falls(lines("curve_tasks", **flat), lines("curve_tasks", **flat)) == []
    assert falls(lines("curve_tasks", **steep), lines("curve_tasks", **flat)) == [
        "curve_tasks: the time per task with 256 tasks over that with 8 rose from 1.17 to 1.21, beyond 1.2."
    ]
    low, high = ({"steps 8": 1.0, "steps 64": last} for last in (1.1, 2.6))
    assert len(falls(lines("curve_steps_remat", **high), lines("curve_steps_remat", **low))) == 1
    kept, lost = ({"demo, cold": 5.0, "demo, cached": cached} for cached in (2.0, 4.9))
    assert len(falls(lines("first_step", **lost), lines("first_step", **kept))) == 1
    assert falls(lines("first_step", **kept), lines("first_step", **lost)) == []
    near, far = lines("row", ours=1.0), lines("row", ours=1.0)
    near["rows"]["row"]["entries"][0]["times_floor"] = 2.0
    far["rows"]["row"]["entries"][0]["times_floor"] = 3.0
    assert falls(far, near) == ["row: the time over the floor rose from 2 to 3, by more than 30%."]


def test_a_peer_counts_at_its_best():
    peer = {"who": "a", "variant": "fast", "ratio": {"median": 3.0}, "seconds": {"median": 3.0}}
    peer["tried"] = [{"variant": "slow", "tuning_s": 1.0}, {"variant": "fast", "tuning_s": 2.0}]
    assert peers_ratio(peer, {"seconds": {"median": 1.0}}) == 2.0
    assert peers_ratio(peer, {"seconds": {"median": 0.5}}) == 3.0


def test_a_peer_that_never_had_our_numbers_is_no_news():
    def with_status(status):
        made = report()
        made["rows"]["row"]["entries"] = [{"who": "ours", "status": "ok"}, {"who": "a", "status": status}]
        return made

    assert failures(with_status("other numbers"), None) == ["row: 'a': other numbers."]
    assert failures(with_status("other numbers"), with_status("other numbers")) == []
    assert failures(with_status("failed: it"), with_status("other numbers")) == ["row: 'a': failed: it."]
    assert failures(with_status("not installed"), None) == []


def test_another_processor_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(report(a=4.0) | {"machine": {"cpu": "one"}}))
    before = earlier(tmp_path, quick=False)
    assert elsewhere(report(a=4.0) | {"machine": {"cpu": "one"}}, before) == []
    assert elsewhere(report(a=4.0) | {"machine": {"cpu": "other"}}, before) == [
        "row: the committed ratios are of 'one', and this is 'other'."
    ]


def test_rows_of_one_report_alone_are_not_compared():
    now = report(a=0.1)
    now["rows"] = {"other": now["rows"]["row"]}
    assert falls(now, report(a=4.0)) == []


def test_the_newest_report_of_a_folder_is_taken(tmp_path):
    for name, date in (("a", "2030-01-02"), ("b", "2030-01-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps(report(date)))
    assert earlier(tmp_path, quick=False)["date"] == "2030-01-02"
    assert earlier(tmp_path / "b.json", quick=False)["date"] == "2030-01-01"


def test_a_benchmark_run_in_parts_is_compared_row_by_row(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(report("2030-01-01", ours=2.0)))
    part = report("2030-01-02", theirs=3.0)
    part["rows"] = {"other": part["rows"]["row"]}
    (tmp_path / "b.json").write_text(json.dumps(part))
    assert list(earlier(tmp_path, quick=False)["rows"]) == ["row", "other"]
    (tmp_path / "c.json").write_text(json.dumps(report("2029-01-01", ours=9.0)))
    assert falls(report(ours=1.5), earlier(tmp_path, quick=False)) == []


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no report"):
        earlier(tmp_path, quick=False)
    (tmp_path / "a.json").write_text(json.dumps(report()))
    with pytest.raises(ValueError, match="--quick"):
        earlier(tmp_path, quick=True)
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"b\.json cannot be read"):
        earlier(tmp_path, quick=False)


def test_the_readmes_table_has_every_row_with_peers():
    peer = {
        "who": "torch.func, vmap over tasks",
        "status": "ok",
        "variant": "vmap+channels_last",
        "ratio": {"median": 3.25},
    }
    gone = {"who": "higher", "status": "other numbers", "tried": []}
    ours = {"who": "ours", "status": "ok", "seconds": {"median": 0.0123}, "times_floor": 2.04}
    rows = {"first": {"entries": [ours, {"who": "ours, otherwise", "status": "ok"}, peer, gone]},
            "alone": {"entries": [ours]}}  # fmt: skip
    assert markdown({"rows": rows}).splitlines()[2:] == [
        "| `first` | 12.3 |  | 2.0 | torch.func.vmap (channels last) 3.2×, higher: other numbers |"
    ]
    ways = [ours | {"who": "ours, a device a core"}, ours | {"who": "ours, one device", "seconds": {"median": 0.02}}]
    disturbed = {"floor": {"peak_flops_per_s": 1.0, "flops": 2.0, "seconds": 2.0}, "peak": 1.5, "entries": [ours, peer]}
    assert " 3.1 " in markdown({"rows": {"first": disturbed}})  # 2.04 of a peak that was measured too low
    rows = {"first": {"cpu": "one", "entries": [*ways, peer]}, "second": {"cpu": "two", "entries": [ways[1], peer]}}
    assert markdown({"rows": rows}).splitlines()[2:] == [
        "| `first` ᵃ | 12.3 | 20.0 | 2.0 | torch.func.vmap (channels last) 3.2× |",
        "| `second` ᵇ | 20.0 |  | 2.0 | torch.func.vmap (channels last) 3.2× |",
        "",
        "ᵃ: one. ᵇ: two.",
    ]
