"""Who may write to a workdir, and what of it is replaced."""

import pytest

from mnistlab import workdirs
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
