"""The look of figures: inside its block only, and never the same colour for two positions."""

import matplotlib

from rectify.analysis import style


def test_the_look_holds_inside_the_block_only() -> None:
    before = dict(matplotlib.rcParams)
    with style.look():
        assert matplotlib.rcParams["font.size"] == style.PARAMETERS["font.size"]
    assert dict(matplotlib.rcParams) == before


def test_the_look_does_not_depend_on_the_user_s_settings() -> None:
    with matplotlib.rc_context({"lines.linestyle": ":", "axes.facecolor": "black"}), style.look():
        assert matplotlib.rcParams["lines.linestyle"] == "-"
        assert matplotlib.rcParams["axes.facecolor"] == "white"


def test_every_position_has_a_look_of_its_own() -> None:
    positions = ("early", "3", "middle", "9", "10", "end")
    looks = [style.of_position(name, index) for index, name in enumerate(positions)]
    assert len(set(looks)) == len(positions)
    assert style.of_position("end", 0) == style.of_position("end", 5)
