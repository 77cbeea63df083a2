"""The openvino runtime: OpenVINO's IR and ONNX files, run by OpenVINO on the processor."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray

from visiondyno.errors import MissingExtra, ModelError, Unavailable
from visiondyno.runtimes.base import (
    LoadedModel,
    LoadOptions,
    ModelDescription,
    Precision,
    Runtime,
)
from visiondyno.runtimes.file_model import (
    CardedGraph,
    FileModel,
    carded_graph,
    feeds_in_order,
    graph_by_facts,
    require_cpu,
)
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.openvino_file import read_graph, reason
from visiondyno.runtimes.openvino_profile import OpenVinoProfile
from visiondyno.runtimes.references import resolve_reference
from visiondyno.vision.heads import Output

_NO_GPU = (
    "OpenVINO doesn't run on NVIDIA's GPUs; use cpu, or run the ONNX file without the prefix "
    "'openvino:'."
)
_COMPUTED: dict[str, Precision] = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8",
}  # fmt: skip
# Layers that take the time, by the names of OpenVINO's compiled graphs.
_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "GroupConvolution")
# As for weights: a first layer kept wide doesn't make a model mixed.
_MINOR_SHARE = 0.1


class OpenVinoRuntime(Runtime):
    """Runs `.xml` (IR) and `.onnx` files by OpenVINO, in the precision that was asked for.

    OpenVINO chooses bfloat16 by itself where the processor has it: faster, with less exact scores.
    So float32 is asked for, and bfloat16 by `OpenVinoBf16Runtime` alone. What the description says
    is read back from the compiled graph.
    """

    name = "openvino"
    wanted: ClassVar[Precision] = "fp32"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Read the file, resolve its card, and compile it for the processor.

        Raises:
            ModelError: the file can't be read, understood or run.
            SpecError: the device's name is wrong.
            Unavailable: another device than the processor is asked for, or bfloat16 where there is
                none; `MissingExtra` without openvino.
        """
        require_cpu(options.device, _NO_GPU)
        path = resolve_reference(reference).path
        if path is None:
            raise ModelError(f"{reference} names no file; give the path of an .xml or .onnx file.")
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra("openvino", reference) from error
        model, facts = read_graph(path)
        graph = carded_graph(facts, options.card)
        compiled = _compiled(model, facts, self.wanted, options)
        computed = _computed_precision(compiled)
        if self.wanted == "bf16" and computed in ("fp32", "fp16"):
            raise Unavailable(
                f"This processor computes nothing of {path.name} in bf16; use openvino:{path} for "
                "float32."
            )
        description = graph.describe(
            reference,
            options,
            runtime=f"openvino {openvino.__version__.split('-')[0]}",
            provider=str(compiled.get_property("EXECUTION_DEVICES")[0]),
            precision=computed,
            notes=_notes(facts, computed, compiled),
        )
        profile = OpenVinoProfile(compiled) if options.profile else None
        return _OpenVinoModel(description, graph, compiled, profile)


class OpenVinoBf16Runtime(OpenVinoRuntime):
    """The same in bfloat16: a runtime of its own, since it answers otherwise."""

    name = "openvino-bf16"
    wanted: ClassVar[Precision] = "bf16"


class _OpenVinoModel(FileModel):
    def __init__(
        self,
        description: ModelDescription,
        graph: CardedGraph,
        compiled: Any,
        profile: OpenVinoProfile | None,
    ) -> None:
        super().__init__(description, graph)
        self._facts = graph.facts
        self._profile = profile
        if profile is not None:
            self.operator_times = profile.operators
        self._request = compiled.create_infer_request()
        self._numbers = {one.name: number for number, one in enumerate(graph.facts.outputs)}
        self.graph = graph_by_facts(graph.facts, self._run_graph)

    def _run_graph(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Output]:
        self._require_open()
        try:
            inputs = feeds_in_order(self._facts, feeds)
            # Results are copies: the request's own memory is written anew by the next inference.
            found = self._request.infer(inputs, share_inputs=True, share_outputs=False)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{self.description.reference} stopped while running: {reason(error)}"
            ) from error
        if self._profile is not None:
            self._profile.add(self._request.profiling_info)
        return [found[self._numbers[name]] for name in wanted]

    def _free(self) -> None:
        self._request = None


def _compiled(model: Any, facts: GraphFacts, wanted: Precision, options: LoadOptions) -> Any:
    import openvino

    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": openvino.Type.bf16 if wanted == "bf16" else openvino.Type.f32,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if options.intra_op_threads is not None:
        config["INFERENCE_NUM_THREADS"] = options.intra_op_threads
    if options.profile:
        config["PERF_COUNT"] = True
    try:
        return openvino.Core().compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO can't compile {facts.path}: {reason(error)}") from error


def _computed_precision(compiled: Any) -> Precision:
    """What the layers that take the time compute in; the hint where there is none of them."""
    counts: Counter[Precision] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        said = node.get_rt_info()
        if said["layerType"].value in _HEAVY:
            # `brgconv_avx512_bf16`: the kernel's own; `runtimePrecision` is how weights are stored.
            kernel = str(said["primitiveType"].value).rsplit("_", 1)[-1].lower()
            counts[_COMPUTED.get(kernel, "mixed")] += 1
    if not counts:
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return _COMPUTED.get(hint, "mixed")
    major = [one for one, count in counts.items() if count > _MINOR_SHARE * counts.total()]
    return major[0] if len(major) == 1 else "mixed"


def _notes(facts: GraphFacts, computed: Precision, compiled: Any) -> tuple[str, ...]:
    notes = []
    if facts.precision != computed:
        notes.append(f"The file's weights are {facts.precision}; OpenVINO computes in {computed}.")
    if computed == "bf16":
        notes.append("bf16 was asked for: faster than fp32, with scores less exact.")
    count = compiled.get_property("INFERENCE_NUM_THREADS")
    notes.append(f"OpenVINO uses {count} thread{'' if count == 1 else 's'}.")
    return tuple(notes)
