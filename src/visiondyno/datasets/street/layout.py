"""Which street, camera, light and things a scene has."""

import math
from dataclasses import dataclass, field
from random import Random

from visiondyno.datasets.street.camera import WIDTH, Camera
from visiondyno.datasets.street.conditions import Conditions, sample_conditions
from visiondyno.datasets.street.figures import SIGN_STYLES
from visiondyno.datasets.street.plan import Exposure, ScenePlan, Street, Thing
from visiondyno.datasets.street.vehicles import CAR_STYLES, TRUCK_STYLES

_REACH_M = 85.0
_HALF_LENGTH_M = {"car": 2.3, "van": 2.9, "articulated": 6.6}
_PAVEMENT_CLUTTER = (
    "bin", "bin", "cabinet", "postbox", "phone_box", "kiosk", "bench", "post", "post", "post",
    "bush", "advert", "advert", "tree",
)  # fmt: skip


def sample_plan(seed: int) -> ScenePlan:
    """Draw a scene: every choice follows from the seed."""
    dice = Random(seed)  # noqa: S311 - reproducible pictures, no secret
    conditions = sample_conditions(dice)
    street = _street(dice)
    camera, moving = _camera(dice, street)
    crowd = _Crowd(dice, street, camera)
    business = dice.choice((0.35, 0.7, 1.0, 1.0, 1.5))
    crowd.add_traffic(business)
    crowd.add_pedestrians(business)
    crowd.add_signs()
    crowd.add_clutter()
    return ScenePlan(
        camera=camera,
        conditions=conditions,
        street=street,
        things=tuple(crowd.things),
        exposure=_exposure(dice, conditions, moving=moving and camera.height < 1.7),
        look=dice.getrandbits(32),
        noise_seed=dice.getrandbits(32),
    )


def half_length(thing: Thing) -> float:
    """Half the length of a vehicle along its heading, metres; 0 of anything else."""
    if thing.kind not in ("car", "truck"):
        return 0.0
    return _HALF_LENGTH_M.get(thing.style, 2.3 if thing.kind == "car" else 4.0)


def _street(dice: Random) -> Street:
    lanes = dice.choice((1, 1, 1, 2, 2, 3))
    parking = 2.3 if lanes < 3 and dice.random() < 0.5 else 0.0
    roll = dice.random()
    return Street(
        driving_side=1 if dice.random() < 0.7 else -1,
        lanes=lanes,
        lane_width=dice.uniform(2.9, 3.6),
        parking_width=parking,
        pavement_width=dice.uniform(1.8, 4.5),
        crossing_z=dice.uniform(6, 28) if dice.random() < 0.4 else None,
        junction_z=dice.uniform(14, 45) if dice.random() < 0.45 else None,
        surroundings=(
            "terrace" if roll < 0.48 else "suburb" if roll < 0.72 else "park" if roll < 0.87
            else "open"
        ),
    )  # fmt: skip


def _camera(dice: Random, street: Street) -> tuple[Camera, bool]:
    field_of_view = math.radians(dice.uniform(48, 82))
    focal = WIDTH / 2 / math.tan(field_of_view / 2)
    lane = street.driving_side * street.lane_width * (dice.randrange(street.lanes) + 0.5)
    kind = dice.random()
    moving = kind < 0.6
    if moving:
        x, height = lane + dice.uniform(-0.4, 0.4), dice.uniform(1.15, 1.6)
        if kind < 0.12:
            height = dice.uniform(2.0, 3.0)
        yaw, pitch = dice.gauss(0, 0.05), dice.uniform(-0.04, 0.12)
    else:
        side = dice.choice((-1, 1))
        x = side * (street.half_road + dice.uniform(-1.5, street.pavement_width - 0.5))
        if kind < 0.75:
            height, pitch = dice.uniform(1.4, 1.9), dice.uniform(-0.05, 0.1)
        else:
            height, pitch = dice.uniform(3.2, 7.0), dice.uniform(0.1, 0.34)
        yaw = -side * dice.uniform(0.0, 0.45)
    return Camera(x, height, yaw, pitch, dice.gauss(0, 0.012), focal), moving


def _exposure(dice: Random, conditions: Conditions, *, moving: bool) -> Exposure:
    dark = {"day": 1.0, "dusk": 1.6, "night": 2.4}[conditions.light]
    warmth = dice.uniform(-0.06, 0.06)
    blurred = dice.random() < (0.3 if moving else 0.12)
    return Exposure(
        gain=dice.uniform(0.85, 1.15),
        tint=(1 - warmth, 1.0, 1 + warmth),
        blur_sigma=dice.uniform(0.0, 0.8),
        motion_px=dice.uniform(1.5, 4.5) if blurred else 0.0,
        motion_angle=dice.gauss(0, 0.4),
        noise=dice.uniform(1.2, 4.5) * dark,
        jpeg_quality=dice.randint(50, 95),
        bonnet=moving and dice.random() < 0.3,
    )


@dataclass(slots=True)
class _Crowd:
    """Collects the things of a scene and keeps them out of one another."""

    dice: Random
    street: Street
    camera: Camera
    things: list[Thing] = field(default_factory=list)
    _discs: list[tuple[float, float, float]] = field(default_factory=list)

    def _place(self, kind: str, style: str, x: float, z: float, heading: float) -> bool:
        """Add a thing, unless it would stand in another one or in the camera."""
        thing = Thing(kind, style, x, z, heading, self.dice.getrandbits(32))
        half = half_length(thing)
        radius = 1.1 if half else 0.3
        along = (math.sin(heading), math.cos(heading))
        steps = (-0.9, -0.3, 0.3, 0.9) if half else (0.0,)
        discs = [(x + along[0] * half * s, z + along[1] * half * s, radius) for s in steps]
        margin = 1.8 if half else 1.0
        for ax, az, ar in discs:
            if math.hypot(ax - self.camera.x, az) < ar + margin:
                return False
            for bx, bz, br in self._discs:
                reach = (ar + br) * 0.95
                if abs(ax - bx) < reach and math.hypot(ax - bx, az - bz) < reach:
                    return False
        self._discs.extend(discs)
        self.things.append(thing)
        return True

    def _vehicle(self, x: float, z: float, heading: float, *, trucks: float) -> None:
        dice = self.dice
        if dice.random() < trucks:
            self._place("truck", dice.choice(TRUCK_STYLES), x, z, heading)
        else:
            self._place("car", dice.choice(CAR_STYLES), x, z, heading)

    def add_traffic(self, business: float) -> None:
        """Vehicles in lanes, at the kerbs and on the side street."""
        dice, street = self.dice, self.street
        for side in (-1, 1):
            heading = 0.0 if side == street.driving_side else math.pi
            for lane in range(street.lanes):
                x = side * street.lane_width * (lane + 0.5)
                z = dice.uniform(1, 25)
                while z < _REACH_M:
                    turn = dice.gauss(0, 0.04)
                    self._vehicle(x + dice.gauss(0, 0.2), z, heading + turn, trucks=0.24)
                    z += 6.5 + dice.expovariate(business / 22)
            if street.parking_width:
                self._park(side, heading)
        if street.junction_z is not None:
            for _ in range(dice.randint(0, 4)):
                way = dice.choice((-1, 1))
                z = street.junction_z - way * street.driving_side * 2.0
                angle = way * math.pi / 2 + dice.gauss(0, 0.1)
                if dice.random() < 0.25:
                    angle += dice.uniform(-0.8, 0.8)
                self._vehicle(dice.uniform(-26, 26), z, angle, trucks=0.28)

    def _park(self, side: int, heading: float) -> None:
        dice, street = self.dice, self.street
        z = dice.uniform(2, 12)
        x = side * (street.half_road - 1.1)
        while z < 60:
            if dice.random() < 0.7 and not self._in_junction(z):
                turn = math.pi if dice.random() < 0.15 else 0.0
                self._vehicle(x + dice.gauss(0, 0.1), z, heading + turn, trucks=0.12)
            z += dice.uniform(5.3, 8)

    def _in_junction(self, z: float) -> bool:
        middle = self.street.junction_z
        return middle is not None and abs(z - middle) < 5 + self.street.pavement_width

    def add_pedestrians(self, business: float) -> None:
        """People on the pavements, on the crossing, and a few on the road."""
        dice, street = self.dice, self.street
        walk = street.pavement_width
        for _ in range(round(dice.expovariate(1 / (5 * business)))):
            x = dice.choice((-1, 1)) * (street.half_road + dice.uniform(0.4, walk - 0.3))
            z = 3 + 42 * dice.random() ** 1.3
            across = dice.random() < 0.25
            heading = dice.choice((-1, 1)) * math.pi / 2 if across else dice.choice((0, math.pi))
            heading += dice.gauss(0, 0.3)
            self._person(x, z, heading)
            if dice.random() < 0.3:
                self._person(x + dice.uniform(0.5, 0.8), z + dice.gauss(0, 0.3), heading)
        if street.crossing_z is not None:
            for _ in range(dice.randint(0, 5)):
                x = dice.uniform(-1, 1) * street.half_road
                z = street.crossing_z + dice.uniform(0.2, 2.8)
                self._person(x, z, dice.choice((-1, 1)) * math.pi / 2 + dice.gauss(0, 0.15))
        if dice.random() < 0.2:
            x = dice.uniform(-1, 1) * street.half_road
            self._person(x, dice.uniform(6, 35), dice.uniform(0, 2 * math.pi))

    def _person(self, x: float, z: float, heading: float) -> None:
        roll = self.dice.random()
        style = "child" if roll < 0.12 else "standing" if roll < 0.35 else "walking"
        self._place("pedestrian", style, x, z, heading)

    def add_signs(self) -> None:
        """Signs along both kerbs, some seen from behind."""
        dice, street = self.dice, self.street
        for _ in range(dice.choice((0, 1, 2, 2, 3, 4, 5))):
            side = dice.choice((-1, 1))
            x = side * (street.half_road + dice.uniform(0.35, 1.0))
            z = 5 + 40 * dice.random() ** 1.2
            heading = math.pi if dice.random() < 0.82 else 0.0
            heading += dice.gauss(0, 0.25)
            if dice.random() < 0.08:
                heading = dice.uniform(0, 2 * math.pi)
            self._place("sign", dice.choice(SIGN_STYLES), x, z, heading)

    def add_clutter(self) -> None:
        """Lamps and trees in rows, lights at the junction, and whatever else stands about."""
        dice, street = self.dice, self.street
        edge = street.half_road + 0.5
        for side in (-1, 1):
            self._row("lamp", "", side * edge, dice.uniform(18, 30))
            tree = "bare" if dice.random() < 0.2 else "leafy"
            odds = {"terrace": 0.3, "suburb": 0.5, "park": 0.9, "open": 0.4}[street.surroundings]
            if dice.random() < odds:
                far = edge + (0.2 if street.surroundings == "terrace" else street.pavement_width)
                self._row("tree", tree, side * far, dice.uniform(7, 16))
        stop = street.junction_z or street.crossing_z
        if stop is not None and dice.random() < 0.6:
            for side in (-1, 1):
                self._place("traffic_light", "", side * edge, stop - 5, math.pi)
        for _ in range(dice.randint(1, 9)):
            kind = dice.choice(_PAVEMENT_CLUTTER)
            x = dice.choice((-1, 1)) * (edge + dice.uniform(0, street.pavement_width - 0.4))
            turn = dice.choice((0.0, math.pi)) + dice.gauss(0, 0.2)
            self._place(kind, "leafy", x, dice.uniform(4, 50), turn)
        if dice.random() < 0.15:
            self._works()

    def _row(self, kind: str, style: str, x: float, gap: float) -> None:
        z = self.dice.uniform(2, 2 + gap)
        while z < 95:
            if not self._in_junction(z):
                self._place(kind, style, x, z, 0.0)
            z += gap * self.dice.uniform(0.85, 1.15)

    def _works(self) -> None:
        """Road works: cones, a barrier, perhaps a skip or a site container."""
        dice, street = self.dice, self.street
        side = dice.choice((-1, 1))
        x, z = side * (street.half_road - 1.2), dice.uniform(9, 30)
        for _ in range(dice.randint(2, 6)):
            self._place("cone", "", x + dice.gauss(0, 0.5), z + dice.gauss(0, 3), 0.0)
        self._place("barrier", "", x, z + 1, dice.gauss(math.pi / 2, 0.2))
        if dice.random() < 0.6:
            self._place(dice.choice(("skip", "container")), "", x, z + 4.5, dice.gauss(0, 0.05))
