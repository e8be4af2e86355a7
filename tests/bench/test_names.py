"""Names beside marks: they cover nothing, and stay near."""

import itertools

import numpy as np
import pytest

from unetkit.bench.names import overlap, place_names

FRAME = (60.0, 20.0, 840.0, 380.0)


def placed(marks):
    return place_names([f"network_{n}" for n in range(len(marks))], marks, FRAME)


def test_a_mark_by_itself_has_its_name_right_above():
    (place,) = placed([(400, 200)])
    assert (place.anchor, place.led) == ("start", False)
    assert place.x > 400
    assert place.y < 200


@pytest.mark.parametrize("seed", range(5))
def test_names_of_a_crowd_cover_no_other_name_and_no_mark(seed):
    rng = np.random.default_rng(seed)
    marks = [tuple(at) for at in rng.normal((420, 200), (60, 40), (14, 2))]
    places = placed(marks)
    assert not any(overlap(a.box, b.box) for a, b in itertools.combinations(places, 2))
    dots = [(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    assert not any(overlap(place.box, dot) for place in places for dot in dots)


def test_names_stay_within_the_frame_and_marks_on_one_spot_are_led_to():
    places = placed([(838, 22)] * 12)
    for place in places:
        left, top, right, bottom = place.box
        assert left >= FRAME[0]
        assert top >= FRAME[1]
        assert right <= FRAME[2]
        assert bottom <= FRAME[3]
    assert places[-1].led
    assert not places[0].led


def test_more_names_than_there_is_room_for_still_have_places():
    assert len(placed([(100, 100)] * 200)) == 200
