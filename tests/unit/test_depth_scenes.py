"""What a depth scene promises: reproducible, disjoint between splits, and exact in its depth."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.datasets.depth_scenes import FARTHEST_M, NEAREST_M, SIDE_PX, SPLITS, render_scene
from visiondyno.datasets.depth_scenes.cast import NOTHING, see, surfaces
from visiondyno.datasets.depth_scenes.materials import Material
from visiondyno.datasets.depth_scenes.scene import (
    depth_in_millimetres,
    draw_plan,
    plan_scene,
    scene_seed,
)
from visiondyno.datasets.depth_scenes.solids import Solid, meet
from visiondyno.datasets.depth_scenes.view import look, look_at

INDEXES = st.integers(0, 99_999)
LENS = (60.0, 64)


def digest(split, index):
    image, depth = render_scene(split, index)
    return hashlib.sha256(image.tobytes() + depth.tobytes()).hexdigest()


@settings(max_examples=4, deadline=None)
@given(st.sampled_from(SPLITS), INDEXES)
def test_a_scene_is_the_same_whatever_was_rendered_before(split, index):
    first = digest(split, index)
    render_scene("demo", index // 2)
    assert digest(split, index) == first


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SPLITS), INDEXES, st.sampled_from(SPLITS), INDEXES)
def test_scenes_share_a_seed_only_if_they_are_the_same_scene(split, index, other, another):
    same = (split, index) == (other, another)
    assert (scene_seed(split, index) == scene_seed(other, another)) is same


def test_no_image_of_one_split_is_in_another():
    images = [digest(split, index) for split in SPLITS for index in range(4)]
    assert len(set(images)) == len(images)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(SPLITS), INDEXES)
def test_depth_lies_in_its_range_and_most_of_an_image_has_some(split, index):
    image, depth = render_scene(split, index)
    assert image.shape == (SIDE_PX, SIDE_PX, 3)
    assert image.dtype == np.uint8
    assert depth.shape == (SIDE_PX, SIDE_PX)
    assert depth.dtype == np.float32
    known = depth[~np.isnan(depth)]
    assert known.size > 0.3 * depth.size
    assert known.min() >= NEAREST_M
    assert known.max() <= FARTHEST_M
    assert image.std() > 5


def test_places_of_every_kind_occur_near_and_far():
    plans = [plan_scene("train", index) for index in range(60)]
    kinds = {plan.kind for plan in plans}
    assert kinds == {"room", "corridor", "hall", "street", "yard"}
    by_kind = {plan.kind: plan for plan in plans}
    medians = {kind: float(np.nanmedian(draw_plan(plan)[1])) for kind, plan in by_kind.items()}
    assert medians["room"] < 8
    assert max(medians["street"], medians["yard"]) > 5


@pytest.mark.parametrize("index", range(6))
def test_solids_of_every_scene_are_seen_where_they_are_said_to_be(index):
    plan = plan_scene("val", index)
    rays = plan.view.rays()
    sight = see(plan.view, rays, plan.solids, range(len(plan.solids)))
    rng = np.random.default_rng(index)
    for row, column in rng.integers(0, SIDE_PX, (40, 2)):
        # Each solid by itself, without windows: what is nearest must be what was seen.
        found = [
            meet(
                solid.form,
                (solid.to_own() @ (plan.view.origin - np.array(solid.centre, np.float32)))[:, None],
                solid.to_own() @ rays[:, row, column][:, None],
            )[0]
            for solid in plan.solids
        ]
        nearest = min(found)
        if sight.solid[row, column] == NOTHING:
            assert math.isinf(nearest)
        else:
            assert sight.depth[row, column] == pytest.approx(nearest, rel=1e-4)


@given(
    st.floats(1, 50), st.floats(0.2, 2), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3),
    st.floats(-1, 1),
)  # fmt: skip
@settings(deadline=None)
def test_a_balls_depth_is_the_analytic_one(distance, radius, across, up, yaw):
    radius = min(radius, distance / 2)
    centre = (across * distance, up * distance, distance)
    view = look((0.0, 0.0, 0.0), 0.0, 0.0, 0.0, LENS)
    ball = Solid("ball", centre, (radius, radius, radius), yaw, 0)
    sight = see(view, view.rays(), [ball], [0])
    rows, columns = np.nonzero(sight.solid == 0)
    ways = view.rays()[:, rows, columns].astype(np.float64)
    middle = np.array(centre)[:, None]
    a, b = (ways * ways).sum(0), (ways * middle).sum(0)
    inside = b * b - a * ((middle * middle).sum() - radius * radius)
    expected = (b - np.sqrt(np.maximum(inside, 0))) / a
    # Where a ray only grazes, a rounding error moves the point along the ball's edge.
    safe = inside > 1e-3 * a * radius * radius
    np.testing.assert_allclose(sight.depth[rows, columns][safe], expected[safe], rtol=2e-4)


@given(st.floats(0.5, 3), st.floats(0.02, 1.2), st.floats(-0.4, 0.4), st.floats(-0.2, 0.2))
@settings(deadline=None)
def test_the_grounds_depth_follows_from_the_cameras_height(height, pitch, yaw, roll):
    view = look((0.0, height, 0.0), yaw, pitch, roll, LENS)
    ground = Solid("box", (0, -0.1, 0), (4000, 0.1, 4000), 0.0, 0)
    sight = see(view, view.rays(), [ground], [0])
    down = -view.rays()[1].astype(np.float64)
    seen = down > 0.01
    np.testing.assert_allclose(sight.depth[seen], height / down[seen], rtol=1e-3)
    assert (sight.solid[down < 0] == NOTHING).all()


@given(
    st.sampled_from(["box", "room", "ball", "cylinder", "roof"]),
    st.tuples(*[st.floats(0.3, 3)] * 3), st.floats(-3.1, 3.1), st.floats(-3.1, 3.1),
    st.floats(-0.4, 0.4),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_seen_points_lie_on_the_surface_and_normals_face_the_camera(form, half, yaw, way, pitch):
    away = 0.0 if form == "room" else 9.0
    centre = (away * math.sin(way), away * math.sin(-pitch), away * math.cos(way))
    solid = Solid(form, centre, half, yaw, 0)
    view = look((0.0, 0.0, 0.0), way, pitch, 0.0, LENS)
    rays = view.rays()
    sight = see(view, rays, [solid], [0])
    seen = sight.solid == 0
    assert seen.any()
    own = solid.to_own() @ (rays[:, seen] * sight.depth[seen] - np.array(centre)[:, None])
    assert np.abs(own).max() < 1.001
    # Of each of its sides, how near the point is to it: 1 on the side.
    sides = np.sort({
        "box": np.abs(own), "room": np.abs(own),
        "ball": np.stack((np.hypot.reduce(own), 0 * own[0])),
        "cylinder": np.stack((np.hypot(own[0], own[2]), np.abs(own[1]))),
        "roof": np.stack((np.abs(own[2]), -own[1], own[1] + 2 * np.abs(own[0]))),
    }[form], axis=0)  # fmt: skip
    np.testing.assert_allclose(sides[-1], 1, atol=2e-3)
    found = surfaces(view, rays, [solid], sight)
    normal = found.normal[:, seen]
    np.testing.assert_allclose(np.hypot.reduce(normal), 1, atol=1e-4)
    # At an edge either side will do; a roof's underside is shaded as its slope.
    clear = (sides[-2] < 0.995) & ((form != "roof") | (own[1] > -0.995))
    assert ((normal * rays[:, seen]).sum(0) < 0.02)[clear].all()


def test_a_light_looks_at_its_target():
    view = look_at((3.0, 40.0, -5.0), (1.0, 0.0, 10.0), LENS)
    column, row, depth = view.project(np.array([[1.0], [0.0], [10.0]], np.float32))
    np.testing.assert_allclose([column[0], row[0]], [32, 32], atol=1e-3)
    assert depth[0] == pytest.approx(math.dist((3, 40, -5), (1, 0, 10)), rel=1e-5)
    # What is to the right, and up, is so in the picture.
    right = look((0.0, 0.0, 0.0), 0.0, 0.0, 0.0, LENS)
    column, row, _ = right.project(np.array([[1.0], [1.0], [5.0]], np.float32))
    assert column[0] > 32 > row[0]


def test_a_thing_throws_a_shadow_away_from_the_lamp():
    plan = next(p for p in (plan_scene("val", i) for i in range(99)) if p.kind == "yard")
    ground = Solid("box", (0, -0.1, 0), (300, 0.1, 300), 0.0, 0, casts_shadow=False)
    block = Solid("box", (0, 1, 10), (1, 1, 0.2), 0.0, 0)
    lamp = replace(plan.light, origin=(60.0, 60.0, 10.0), colour=(1, 1, 1), target=(0, 0, 10),
                   fade_m=math.inf, ambient=(0.2, 0.2, 0.2), reach_m=10.0)  # fmt: skip
    view = look((0.0, 6.0, 0.0), 0.0, 0.5, 0.0, (388.0, SIDE_PX))
    exposure = replace(plan.exposure, noise=0, vignette=0)
    bare = replace(plan, view=view, light=lamp, materials=(Material((0.5, 0.5, 0.5)),),
                   solids=(ground,), exposure=exposure)  # fmt: skip
    with_block = replace(bare, solids=(ground, block))
    sides = []
    for x in (-2.0, 2.0):
        column, row, _ = view.project(np.array([[x], [0.0], [10.0]], np.float32))
        place = (int(row[0]), int(column[0]))
        before, after = (int(draw_plan(p)[0][place].sum()) for p in (bare, with_block))
        sides.append(after / before)
    assert sides[0] < 0.8
    assert sides[1] > 0.9


@given(st.floats(NEAREST_M, FARTHEST_M, width=32))
def test_millimetres_are_whole_and_holes_are_zero(depth):
    stored = depth_in_millimetres(np.array([[depth, np.nan]], np.float32))
    assert stored.dtype == np.uint16
    assert abs(int(stored[0, 0]) / 1000 - depth) <= 0.00051
    assert stored[0, 1] == 0
