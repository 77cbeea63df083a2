"""Several reports as one: their models side by side, and the runs of one model as its history."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from visiondyno.errors import SpecError
from visiondyno.report.comparison import Comparison, LeftOut, ModelReport, Origin, Verdict
from visiondyno.report.format import listed, sentence
from visiondyno.report.green import with_green_scores
from visiondyno.report.history import histories
from visiondyno.report.origins import date_of, dates_of, newest, place_of, place_text
from visiondyno.report.ranking import rank
from visiondyno.specs.operations import BenchmarkInput

_SHOWN_APART = frozenset({"operation", "models", "reference", "data", "use_cache"})
"""Fields of a request that may differ without a note: the report shows them, or they move nothing.
The data are held equal by their digest."""

_MERGED = "Merged from"


def merge_reports(comparisons: Sequence[Comparison]) -> Comparison:
    """The models of several comparisons as one comparison, ranked anew.

    Every model keeps its run as its `origin`; a model of several runs gets the run's date into
    reference and name. The newest run of each model, machine, device and number of threads is
    ranked, and comes first; earlier ones are its history. Differences are unpaired (MOVER), since
    reports hold no resamples. What belongs to one machine isn't compared between machines. A
    single comparison is returned as it is.

    Raises:
        SpecError: none is given, one is given twice, or they were made on other images, labels or
            classes; names what differs.
    """
    if not comparisons:
        raise SpecError("No report to merge: give the folders of one or more reports.")
    if len(comparisons) == 1:
        return comparisons[0]
    ordered = sorted(comparisons, key=_moment)
    _require_same_data(ordered)
    runs = [_with_origin(model, each) for each in ordered for model in each.models]
    _require_once(runs)
    if not runs:
        raise SpecError("None of these reports holds a measured model: there is nothing to merge.")
    last = ordered[-1]
    models = _dated(_newest_first(runs))
    reference = _green_reference(models, ordered)
    models = with_green_scores(models, reference)
    spec = _joint_spec(ordered)
    ranking = rank(newest(models), {}, spec)
    return Comparison(
        visiondyno=last.visiondyno,
        created_at=last.created_at,
        duration_s=sum(each.duration_s for each in ordered),
        spec=spec,
        environment=last.environment,
        dataset=last.dataset,
        verdict=_verdict(ordered, models),
        models=models,
        left_out=_left_out(ordered),
        differences=ranking.differences,
        winners=ranking.winners,
        pareto=ranking.pareto,
        green_reference=reference,
        notes=_notes(ordered, models),
    )


def _moment(comparison: Comparison) -> datetime:
    try:
        return datetime.fromisoformat(comparison.created_at).astimezone()
    except ValueError as error:
        raise SpecError(
            f"A report's created_at is '{comparison.created_at}', which is no date: "
            "give reports as `dyno compare` wrote them."
        ) from error


def _require_same_data(ordered: Sequence[Comparison]) -> None:
    first = ordered[0]
    for other in ordered[1:]:
        a, b = first.dataset, other.dataset
        what = None
        if a.digest != b.digest:
            what = f"other data ({a.reference}, {a.digest[:19]}…; {b.reference}, {b.digest[:19]}…)"
        elif a.images != b.images:
            what = f"another number of images ({a.images:,}; {b.images:,})"
        elif a.level != b.level:
            what = "different questions (one at image level, the other not)"
        elif set(a.classes) != set(b.classes):
            odd = sorted(set(a.classes) ^ set(b.classes))
            more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
            what = f"other classes ({', '.join(odd[:5])}{more} in one of them only)"
        if what is not None:
            raise SpecError(
                f"The reports of {first.created_at} and {other.created_at} can't be merged: they "
                f"were scored on {what}. Compare the models again on the same data and classes."
            )


def _with_origin(model: ModelReport, comparison: Comparison) -> ModelReport:
    """The model as it is called in its own run, which a merged report may be of."""
    origin = model.origin or Origin(
        reference=model.reference,
        name=model.name,
        created_at=comparison.created_at,
        visiondyno=comparison.visiondyno,
        spec=comparison.spec,
        environment=comparison.environment,
        verdict=comparison.verdict,
    )
    seen = "" if origin.verdict.quiet else "; the machine was not quiet"
    note = (
        f"Measured {date_of(origin)} on {place_text(origin)}, VisionDyno {origin.visiondyno}{seen}."
    )
    return model.model_copy(
        update={
            "reference": origin.reference,
            "name": origin.name,
            "origin": origin,
            "notes": tuple(dict.fromkeys((*model.notes, note))),
        }
    )


def _require_once(runs: Sequence[ModelReport]) -> None:
    counts = Counter(
        (_origin(run).created_at, run.reference, *place_of(_origin(run))) for run in runs
    )
    for (created_at, reference, *_), count in counts.items():
        if count > 1:
            raise SpecError(
                f"The run of {reference} of {created_at} is given twice: name each report once, "
                "and no merged report beside one that it was made of."
            )


def _newest_first(runs: Sequence[ModelReport]) -> list[ModelReport]:
    """What is ranked first, in order of appearance; then earlier runs, each model's together."""
    first = newest(runs)
    order = list(dict.fromkeys(run.reference for run in runs))
    earlier = [run for run in runs if not any(run is ranked for ranked in first)]

    def place(run: ModelReport) -> tuple[int, str]:
        return order.index(run.reference), _origin(run).created_at

    return sorted(first, key=place) + sorted(earlier, key=place)


def _dated(runs: Sequence[ModelReport]) -> tuple[ModelReport, ...]:
    """References made unique: a model of several runs gets date, and what else tells them apart."""
    groups: dict[str, list[ModelReport]] = {}
    for run in runs:
        groups.setdefault(run.reference, []).append(run)
    dated = []
    for run in runs:
        label = _label(_origin(run), [_origin(other) for other in groups[run.reference]])
        update = {
            "reference": f"{run.reference} @ {label}" if label else run.reference,
            "name": f"{run.name} @ {label}" if label else run.name,
        }
        dated.append(run.model_copy(update=update))
    return tuple(dated)


def _label(own: Origin, every: Sequence[Origin]) -> str:
    if len(every) == 1:
        return ""
    parts = [dates_of(every)[own.created_at]]
    telling: tuple[tuple[Callable[[Origin], object], str], ...] = (
        (lambda origin: origin.spec.device, own.spec.device),
        (lambda origin: origin.spec.threads, f"{own.spec.threads or 'default'} threads"),
        (lambda origin: origin.environment.machine_id, own.environment.machine_id),
    )
    parts += [text for value, text in telling if len({value(origin) for origin in every}) > 1]
    return " ".join(parts)


def _green_reference(models: Sequence[ModelReport], ordered: Sequence[Comparison]) -> str:
    """The newest report's, in its newest run; the first model where that took no part."""
    wanted = ordered[-1].green_reference
    able = [m for m in models if _is_called(m, wanted)]
    latest = max(able, key=lambda model: _origin(model).created_at, default=models[0])
    return latest.reference


def _is_called(model: ModelReport, reference: str | None) -> bool:
    """Whether `reference` is the model's own, or that of one of its runs in a merged report."""
    own = _origin(model).reference
    return reference is not None and (reference == own or reference.startswith(f"{own} @ "))


def _joint_spec(ordered: Sequence[Comparison]) -> BenchmarkInput:
    """The newest request with every report's models, so that one run can repeat them all."""
    references = dict.fromkeys(ref for each in ordered for ref in each.spec.models)
    return ordered[-1].spec.model_copy(update={"models": tuple(references)})


def _verdict(ordered: Sequence[Comparison], models: Sequence[ModelReport]) -> Verdict:
    origins = _runs(models)
    dates = dates_of(origins)
    reasons = [
        f"{dates[run.created_at]}: {reason}" for run in origins for reason in run.verdict.reasons
    ]
    sentences = [history.sentence() for history in histories(models)]
    return Verdict(
        quiet=all(each.verdict.quiet for each in ordered),
        reasons=tuple(dict.fromkeys(reasons)),
        notes=(*_places(origins), *_settings(origins), *sentences),
    )


def _runs(models: Sequence[ModelReport]) -> list[Origin]:
    """One origin a run, oldest first."""
    runs = {(_origin(m).created_at, *place_of(_origin(m))): _origin(m) for m in models}
    return sorted(runs.values(), key=lambda run: run.created_at)


def _places(origins: Sequence[Origin]) -> list[str]:
    """What is not compared, since it belongs to one machine or device."""
    machines = {origin.environment.machine_id: origin.environment for origin in origins}
    devices = sorted({origin.spec.device for origin in origins})
    threads = {origin.spec.threads for origin in origins}
    found = []
    if len(machines) > 1:
        names = listed([f"{e.cpu_model} ({key})" for key, e in machines.items()])
        found.append(
            f"The models were measured on {len(machines)} machines: {names}. Times, memory, energy "
            "and what follows from them are not compared between machines: there is no difference, "
            "winner or trade-off in these, and each value counts for its own machine."
        )
    elif len(devices) > 1:
        found.append(
            f"The models were measured on {listed(devices)} of one machine: memory and energy of "
            "different devices are not compared."
        )
    if len(threads) > 1:
        counts = listed(
            [str(count or "default") for count in sorted(threads, key=lambda t: t or 0)]
        )
        found.append(f"The models were measured with other numbers of threads: {counts}.")
    return found


def _settings(origins: Sequence[Origin]) -> list[str]:
    """Requests that differ in more than their models."""
    found = []
    dates = dates_of(origins)
    for name in BenchmarkInput.model_fields:
        values: dict[str, list[str]] = {}
        for run in origins:
            values.setdefault(_shown(getattr(run.spec, name)), []).append(dates[run.created_at])
        if name in _SHOWN_APART or name in {"device", "threads"} or len(values) == 1:
            continue
        texts = [f"{v} ({', '.join(when)})" for v, when in values.items()]
        found.append(f"The runs differ in {name}: {'; '.join(texts)}.")
    return found


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "default" if value is None else str(value)


def _left_out(ordered: Sequence[Comparison]) -> tuple[LeftOut, ...]:
    found = []
    for each in ordered:
        run = f" (Run of {each.created_at[:16].replace('T', ' ')}.)"
        merged = any(model.origin is not None for model in each.models)
        for left in each.left_out:
            reason = left.reason if merged else sentence(left.reason) + run
            found.append(left.model_copy(update={"reason": reason}))
    return tuple(found)


def _notes(ordered: Sequence[Comparison], models: Sequence[ModelReport]) -> tuple[str, ...]:
    notes = dict.fromkeys(note for each in ordered for note in each.notes)
    kept = [note for note in notes if not note.startswith(_MERGED)]
    merged = (
        f"{_MERGED} {len(_runs(models))} runs. Differences of accuracy are not paired over images "
        "here, since reports hold no resamples: they are wider than in one comparison of the same "
        "models. The newest run of each model on each machine, device and number of threads is "
        "ranked and plotted; earlier ones stand in the history."
    )
    return (*kept, merged)


def _origin(model: ModelReport) -> Origin:
    assert model.origin is not None
    return model.origin
