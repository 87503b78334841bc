import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from secateur.ground.progress import counting, said, silenced, track, working


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_sees_a_bar_with_label_and_count() -> None:
    console = terminal()
    assert list(track([4, 5, 6], "fitting", console=console)) == [4, 5, 6]
    assert "fitting" in shown(console)
    assert "3/3" in shown(console)


def test_generators_take_a_total() -> None:
    console = terminal()
    assert list(track((i for i in range(3)), "fitting", 3, console=console)) == [0, 1, 2]
    assert "3/3" in shown(console)


def test_files_and_silenced_blocks_see_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal()
    with silenced():
        assert list(track([1], "fitting", console=console)) == [1]
        with silenced(False):  # an inner part cannot make noise again
            assert list(track([1], "fitting", console=console)) == [1]
    assert shown(console) == ""
    assert list(track([1], "fitting")) == [1]
    assert capsys.readouterr() == ("", "")
    list(track([1], "fitting", console=console))
    assert "fitting" in shown(console)


def test_bars_may_be_nested_and_left_early() -> None:
    console = terminal()

    def outer() -> Iterator[int]:
        for a in track([1, 2], "outer", console=console):
            yield from (a * b for b in track([10, 20], "inner", console=console))

    assert list(outer()) == [10, 20, 20, 40]
    for _ in track([1, 2, 3], "left", console=console):
        break
    assert list(track([1], "again", console=console)) == [1]
    assert "again" in shown(console)


def test_errors_pass_and_end_the_bar() -> None:
    console = terminal()

    def fail() -> None:
        for _ in track([1, 2], "failing", console=console):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert list(track([1], "again", console=console)) == [1]
    assert "again" in shown(console)


def test_a_log_says_what_begins_where_nobody_looks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "secateur"), working("statistics"):
        pass
    assert caplog.messages == ["statistics ..."]
    with caplog.at_level("INFO", "secateur"), silenced(), working("surgery"):
        pass
    assert len(caplog.messages) == 1


def test_what_is_inside_has_a_line_below() -> None:
    console = terminal()
    with working("statistics", console=console):
        assert list(track([1, 2], "batches", console=console)) == [1, 2]
    lines = shown(console).splitlines()
    assert any("statistics" in line for line in lines)
    assert any("batches" in line and "2/2" in line for line in lines)


def test_work_of_unknown_length() -> None:
    console = terminal()
    with working("downloading", console=console):
        pass
    assert "downloading" in shown(console)
    quiet = terminal()
    with silenced(), working("downloading", console=quiet):
        pass
    assert shown(quiet) == ""


def test_counting_starts_where_a_run_goes_on() -> None:
    console = terminal()
    with counting("training", 5, done=3, console=console) as advance:
        advance("round 1")
        advance("round 2")
    assert "training, round 2" in shown(console)
    assert "5/5" in shown(console)
    quiet = terminal()
    with silenced(), counting("training", None, console=quiet) as advance:
        advance("round 1")
    assert shown(quiet) == ""


def test_what_is_said_is_seen_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    text = io.StringIO()
    with caplog.at_level(logging.INFO, "secateur"):
        said("about [3] min", console=Console(file=text, force_terminal=True))
        assert "about [3] min" in text.getvalue()
        assert not caplog.records
        said("about 4 min", console=Console(file=text, force_terminal=False))
        with silenced():
            said("nothing", console=Console(file=text, force_terminal=True))
    assert [r.getMessage() for r in caplog.records] == ["about 4 min"]
    assert "nothing" not in text.getvalue()
