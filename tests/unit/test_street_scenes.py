"""What a rendered scene promises: reproducible, disjoint between splits, and labelled rightly."""

import hashlib
from dataclasses import replace

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from visiondyno.datasets.street import HEIGHT, SPLITS, STREET_CLASSES, WIDTH, render_scene
from visiondyno.datasets.street.camera import Camera
from visiondyno.datasets.street.plan import Exposure, ScenePlan, Thing
from visiondyno.datasets.street.scene import (
    LEAST_LONG_SIDE_PX,
    LEAST_SHORT_SIDE_PX,
    draw_plan,
    plan_scene,
    scene_seed,
)
from visiondyno.predictions import BoxTruth

INDEXES = st.integers(0, 99_999)
# Shrinking re-renders hundreds of scenes to say what the first failure said.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


def digest(split: str, index: int) -> str:
    image, truth = render_scene(split, index)
    return hashlib.sha256(
        image.tobytes() + truth.boxes_xyxy.tobytes() + truth.class_ids.tobytes()
    ).hexdigest()


@settings(max_examples=12, deadline=None, phases=PHASES)
@given(st.sampled_from(SPLITS), INDEXES)
def test_a_scene_is_the_same_whatever_was_rendered_before(split, index):
    first = digest(split, index)
    render_scene("demo", index // 2)
    assert digest(split, index) == first


@settings(max_examples=200, deadline=None, phases=PHASES)
@given(st.sampled_from(SPLITS), INDEXES, st.sampled_from(SPLITS), INDEXES)
def test_scenes_share_a_seed_only_if_they_are_the_same_scene(split, index, other, another):
    same = (split, index) == (other, another)
    assert (scene_seed(split, index) == scene_seed(other, another)) is same


def test_no_image_of_one_split_is_in_another():
    images = {split: {digest(split, index) for index in range(12)} for split in SPLITS}
    assert all(len(found) == 12 for found in images.values())
    assert len(set.union(*images.values())) == 12 * len(SPLITS)


@settings(max_examples=40, deadline=None, phases=PHASES)
@given(st.sampled_from(SPLITS), INDEXES)
def test_labels_lie_inside_the_image_and_obey_the_stated_rule(split, index):
    image, truth = render_scene(split, index)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    boxes = truth.boxes_xyxy
    assert (boxes >= 0).all()
    assert (boxes <= (WIDTH, HEIGHT, WIDTH, HEIGHT)).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides.max(axis=1, initial=LEAST_LONG_SIDE_PX) >= LEAST_LONG_SIDE_PX).all()
    assert (sides >= LEAST_SHORT_SIDE_PX).all()
    assert (truth.areas > 0).all()
    assert (truth.areas <= sides.prod(axis=1) + 1e-9).all()
    assert set(truth.class_ids) <= set(range(len(STREET_CLASSES)))


def test_every_class_light_and_weather_occurs():
    plans = [plan_scene("train", index) for index in range(150)]
    kinds = {thing.kind for plan in plans for thing in plan.things}
    assert set(STREET_CLASSES) <= kinds
    assert {plan.conditions.light for plan in plans} == {"day", "dusk", "night"}
    weathers = {plan.conditions.weather for plan in plans}
    assert weathers == {"clear", "overcast", "rain", "fog"}


def clean(index: int) -> ScenePlan:
    """A scene by day, from a camera without blur or noise: pixels differ only by what is there."""
    plan = next(
        plan
        for plan in (plan_scene("val", place) for place in range(index * 50, index * 50 + 50))
        if plan.conditions.light == "day" and plan.conditions.weather in ("clear", "overcast")
    )
    exposure = Exposure(1.0, (1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 95, bonnet=False)
    # Without directed sun the only shadow is the one right beneath a thing.
    conditions = replace(plan.conditions, sun_strength=0.0)
    return replace(plan, exposure=exposure, conditions=conditions, things=())


def changed_box(plan: ScenePlan, thing: Thing) -> tuple[np.ndarray, BoxTruth]:
    """Left, top, right, bottom of the pixels that a thing changes, and the labels with it."""
    before, _ = draw_plan(plan)
    after, truth = draw_plan(replace(plan, things=(thing,)))
    rows, columns = np.nonzero(np.abs(after.astype(int) - before.astype(int)).max(axis=2) > 12)
    return np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)), truth


@settings(max_examples=25, deadline=None, phases=PHASES)
@given(
    st.sampled_from([("car", "saloon"), ("car", "suv"), ("truck", "box"), ("truck", "van")]),
    st.integers(0, 5),
    st.floats(9, 30),
    st.floats(-1, 1),
    st.floats(0, 6.28),
    st.integers(0, 2**31),
)
def test_a_vehicles_box_is_what_it_changes_in_the_image(kind, index, z, x, heading, look):
    plan = replace(clean(index), camera=Camera(0.0, 1.6, 0.0, 0.05, 0.004, 230.0))
    changed, truth = changed_box(plan, Thing(*kind, x, z, heading, look))
    assert list(truth.class_ids) == [STREET_CLASSES.index(kind[0])]
    (box,) = truth.boxes_xyxy
    # The shadow beneath a vehicle is its footprint, which begins before its wheels do.
    near = z - (4.5 if kind[0] == "truck" else 2.8)
    beside, below = 230.0 * 1.6 / near, 230.0 * 1.6 * (1 / near - 1 / (near + 2))
    allowance = np.array((beside + 2, 2, beside + 2, below + 2))
    sign = np.array((-1, -1, 1, 1))
    assert ((changed - box) * sign <= allowance).all(), (changed, box)
    # A vehicle may have the background's colour in places, never along most of its box.
    assert ((box - changed) * sign <= 0.25 * (box[2:] - box[:2]).max() + 2).all(), (changed, box)


@settings(max_examples=25, deadline=None, phases=PHASES)
@given(st.integers(0, 5), st.floats(5, 20), st.floats(-2, 2), st.integers(0, 2**31))
def test_a_signs_box_is_its_plate_and_excludes_its_post(index, z, x, look):
    plan = replace(clean(index), camera=Camera(0.0, 1.6, 0.0, 0.01, 0.004, 230.0))
    changed, truth = changed_box(plan, Thing("sign", "stop", x, z, np.pi, look))
    (box,) = truth.boxes_xyxy
    wide, tall = box[2:] - box[:2]
    assert abs(wide - tall) <= 1.5
    # Some of a post has the background's colour in places; never all that is below the plate.
    assert changed[3] > box[3] + 1.5
    assert abs(changed[1] - box[1]) <= 1.5


@settings(max_examples=15, deadline=None, phases=PHASES)
@given(st.integers(0, 5), st.floats(4, 14), st.integers(0, 2**31))
def test_what_a_nearer_thing_hides_is_not_labelled_and_what_is_in_part_hidden_shrinks(
    index, gap, look
):
    plan = replace(clean(index), camera=Camera(0.0, 1.3, 0.0, 0.01, 0.004, 230.0))
    car = Thing("car", "hatchback", 0.0, 17 + gap, 0.0, look)
    truck = Thing("truck", "box", 0.0, 13.0, 0.0, look)
    _, both = draw_plan(replace(plan, things=(car, truck)))
    assert list(both.class_ids) == [STREET_CLASSES.index("truck")]
    person = Thing("pedestrian", "standing", 0.0, 6.0, 0.0, look)
    _, alone = draw_plan(replace(plan, things=(truck,)))
    _, behind = draw_plan(replace(plan, things=(truck, person)))
    assert sorted(behind.class_ids) == [1, 2]
    place = list(behind.class_ids).index(1)
    assert behind.areas[place] < alone.areas[0]


def test_what_is_mostly_outside_the_frame_is_not_labelled():
    plan = replace(clean(0), camera=Camera(0.0, 1.3, 0.0, 0.01, 0.004, 230.0))
    seen = []
    for x in np.arange(0, 12, 0.5):
        _, truth = draw_plan(replace(plan, things=(Thing("car", "suv", x, 9.0, 0.0, 5),)))
        seen.append(len(truth))
    # At 9 m the frame's edge is 6.3 m to the side.
    assert seen[0] == 1
    assert seen[-1] == 0
    assert seen == sorted(seen, reverse=True)


def test_fog_takes_the_label_of_what_it_hides():
    plan = replace(clean(0), camera=Camera(0.0, 1.3, 0.0, 0.01, 0.004, 230.0))
    foggy = replace(plan, conditions=replace(plan.conditions, fog_per_m=0.06))
    far = Thing("truck", "box", 0.0, 50.0, 0.0, 5)
    assert len(draw_plan(replace(plan, things=(far,)))[1]) == 1
    assert len(draw_plan(replace(foggy, things=(far,)))[1]) == 0
