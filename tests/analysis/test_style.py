"""The look of figures: inside its block only, and never the same colour for two variants."""

import matplotlib

from rectify.analysis import style


def test_the_look_holds_inside_the_block_only():
    before = dict(matplotlib.rcParams)
    with style.look():
        assert matplotlib.rcParams["font.size"] == style.PARAMETERS["font.size"]
    assert dict(matplotlib.rcParams) == before


def test_the_look_does_not_depend_on_the_user_s_settings():
    with matplotlib.rc_context({"lines.linestyle": ":", "axes.facecolor": "black"}), style.look():
        assert matplotlib.rcParams["lines.linestyle"] == "-"
        assert matplotlib.rcParams["axes.facecolor"] == "white"


def test_every_variant_and_position_has_a_colour_of_its_own():
    for colours in (style.VARIANT_COLOURS, style.POSITION_COLOURS):
        assert len(set(colours.values())) == len(colours)
    assert set(style.POSITION_COLOURS) == set(style.POSITION_MARKERS)
