"""Who may write to a workdir, and what of it is replaced."""

import pytest

from mnistlab.comparison import workdirs
from mnistlab.errors import UserError


def test_a_tool_clears_its_own_folder_and_no_other(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.svg").write_text("")
    workdirs.leave(tmp_path, identity={"experiment": "compare"}, command="", title="", blocks=[], summary={})
    with pytest.raises(UserError, match="another run"), workdirs.made_anew(tmp_path, "power"):
        pass
    assert (tmp_path / "summary.json").exists()
    with workdirs.made_anew(tmp_path, "compare"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_run_may_grow_by_seeds_and_variants_and_by_nothing_else(tmp_path):
    def run(seeds, variants, protocol="reported"):
        return {"experiment": "x", "protocol": protocol, "seeds": seeds, "variants": variants}

    def left(identity):
        workdirs.leave(tmp_path, identity=identity, command="", title="", blocks=[], summary={})

    assert not workdirs.check(tmp_path, run([0], {"a": 1}))
    left(run([0, 1], {"a": 1}) | {"tool": "gather"})
    with pytest.raises(UserError, match="its tool differ"):
        workdirs.check(tmp_path, run([0, 1, 2], {"a": 1}))
    left(run([0, 1], {"a": 1, "b": 2}))
    assert not workdirs.check(tmp_path, run([0, 1], {"b": 2, "a": 1}))
    assert workdirs.check(tmp_path, run([0, 1, 2], {"a": 1, "b": 2}))
    assert workdirs.check(tmp_path, run([0, 1, 2], {"a": 1, "c": 3, "b": 2}))
    for other, words in [
        (run([0], {"a": 1, "b": 2}), "seeds"),
        (run([1, 2, 3], {"a": 1, "b": 2}), "seeds"),
        (run([0, 1, 2], {"a": 1}), "variants"),
        (run([0, 1, 2], {"a": 1, "b": 3, "c": 4}), "variants"),
        (run([0, 1, 2], {"a": 1, "b": 2}, "controlled"), "protocol"),
    ]:
        with pytest.raises(UserError, match=f"its {words} differ"):
            workdirs.prepare(tmp_path, other, resume=True)
        assert (tmp_path / "report.html").exists()
    workdirs.prepare(tmp_path, run([0, 1, 2], {"a": 1, "b": 2}), resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}


def test_a_folder_that_holds_no_run_loses_nothing(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.svg").write_text("")
    workdirs.prepare(tmp_path, {"experiment": "x"}, resume=False)
    assert (tmp_path / "figures" / "mine.svg").exists()
