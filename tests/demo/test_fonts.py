"""Drawn characters: nothing cut off, no boxes for missing glyphs, poses as their fields say."""

import numpy as np
import pytest

from rectify.demo.fonts import ASCII, FACES, INSIDE, MODERN, Face, Pose, characters, draw, extent

SANS = FACES[0]


def centre(image: np.ndarray) -> tuple[float, float]:
    """Return the centroid of the light: right, down."""
    weights = image.astype(float)
    rows, columns = np.indices(image.shape)
    return (columns * weights).sum() / weights.sum(), (rows * weights).sum() / weights.sum()


def tilt(image: np.ndarray) -> float:
    """Return the angle of the main axis against the vertical, degrees counter-clockwise."""
    weights = image / image.sum()
    rows, columns = np.indices(image.shape)
    right, down = centre(image)
    x, y = columns - right, down - rows
    return float(
        np.degrees(-0.5 * np.arctan2(2 * (weights * x * y).sum(), (weights * (y**2 - x**2)).sum()))
    )


def test_every_face_has_letters_and_digits():
    assert all(characters(face) >= ASCII for face in (*FACES, *MODERN))


def test_the_last_resort_font_which_draws_only_boxes_is_no_face():
    assert not [face for face in (*FACES, *MODERN) if "LastResort" in face.file]


def test_names_of_faces_are_distinct():
    names = [face.name for face in (*FACES, *MODERN)]
    assert len(set(names)) == len(names) == 21


@pytest.mark.parametrize("face", [*FACES[::5], *MODERN[::2]], ids=lambda face: face.name)
def test_letters_look_different_and_not_like_the_missing_glyph(face: Face):
    images = {draw(one, face, 28).tobytes() for one in ASCII}
    assert len(images) == len(ASCII)
    absent = "\U000f0000"
    assert extent(absent, face) == 0 or draw(absent, face, 28).tobytes() not in images


@pytest.mark.parametrize("size", [20, 28, 64])
def test_an_unscaled_glyph_is_centred_and_fills_its_share(size: int):
    image = draw("H", SANS, size)
    rows, columns = (np.flatnonzero(image.max(axis) > 100) for axis in (1, 0))
    assert image.shape == (size, size)
    assert abs(np.ptp(rows) + 1 - 0.86 * size) <= 1.5
    assert abs(rows.min() - (size - 1 - rows.max())) <= 1
    assert abs(columns.min() - (size - 1 - columns.max())) <= 1


def test_white_on_black_with_grey_edges():
    image = draw("O", SANS, 28)
    assert image.min() == 0
    assert image.max() > 240
    assert ((image > 20) & (image < 235)).sum() > 20


def test_no_pose_cuts_a_glyph_off():
    random = np.random.default_rng(0)
    for _ in range(200):
        angle, shear, right, down = random.uniform(-1, 1, 4) * (180, 0.4, 0.5, 0.5)
        pose = Pose(angle, random.uniform(0.3, 1.5), shear, right, down)
        image = draw("W", FACES[9], 28, pose, stroke=2)
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.max() == 0


def test_shifts_move_the_centroid():
    right, down = centre(draw("x", SANS, 40, Pose(scale=0.5)))
    moved_right, moved_down = centre(draw("x", SANS, 40, Pose(scale=0.5, right=0.1, down=-0.2)))
    assert moved_right - right == pytest.approx(4, abs=0.2)
    assert moved_down - down == pytest.approx(-8, abs=0.2)


@pytest.mark.parametrize("angle", [-30.0, -10.0, 10.0, 30.0])
def test_angles_are_counter_clockwise(angle: float):
    assert tilt(draw("|", SANS, 56, Pose(angle=angle, scale=0.8))) == pytest.approx(angle, abs=1)


def test_a_positive_shear_leans_to_the_right():
    assert tilt(draw("|", SANS, 56, Pose(shear=0.2))) == pytest.approx(-11.3, abs=1)


def test_scale_multiplies_both_sides():
    large, small = (
        np.ptp(np.flatnonzero(draw("H", SANS, 64, Pose(scale=scale)).max(1) > 100)) + 1
        for scale in (1.0, 0.5)
    )
    assert small / large == pytest.approx(0.5, abs=0.04)


def test_a_stroke_adds_ink_and_an_outline_leaves_the_inside_dark():
    thin = draw("O", SANS, 56, Pose(scale=0.8))
    bold = draw("O", SANS, 56, Pose(scale=0.8), stroke=3)
    assert bold.sum() > 1.2 * thin.sum()
    solid = draw("\N{BLACK SQUARE}", SANS, 56, stroke=2)
    ring = draw("\N{BLACK SQUARE}", SANS, 56, stroke=2, outline=True)
    assert solid[28, 28] == 255
    assert ring[28, 28] == INSIDE
    assert ring.max() > 200


def test_extent_is_zero_for_spaces_and_small_for_dots():
    assert extent(" ", SANS) == 0
    assert 0 < extent(".", SANS) < 0.3 < extent("A", SANS) < 1.5
