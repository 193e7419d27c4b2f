"""What is sent to the service and what comes back, as types; they check nothing at run time.

Written by client/generate.py; changes here are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict


class AlignedLayerFacts(TypedDict):
    """CKA of one pair of layers."""

    cka: float | None
    """Debiased; null where a side does not vary, or there are too few images."""
    high: float | None
    layer: str
    low: float | None
    """Lower end of the 95 % interval; null where there are too few batches."""
    other_layer: str


class Alive(TypedDict):
    """The process answers."""

    status: NotRequired[str]


class ArrayView(TypedDict):
    """One array of a result."""

    data: NotRequired[Any]
    """Nested lists, NaN and infinities as null; only where the array is small."""
    dtype: str
    href: str
    shape: list[int]


class Baseline(TypedDict):
    """What features that have nothing to do with each other would score."""

    floor: float | None
    """Biased CKA expected of unrelated isotropic features; 0 when debiased."""
    permutation_mean: float | None
    """Mean over the pairs of CKA after re-pairing the samples at random, over all pairings, exactly."""
    permutation_p95: float | None
    """95th percentile over pairs and sampled pairings."""
    permutations: int


class BehaviourCard(TypedDict):
    """What the network can bear, tried on noise at its own input size."""

    alone: NotRequired[str | None]
    """Why each image is given to it by itself; null where an image's answer is its own."""
    channels_last: bool
    """Whether it runs, with the same answer, on maps whose channels lie next to each other in memory; one that does not is
    given contiguous ones.
    """
    fast: NotRequired[Literal["bfloat16", "float32"]]
    """The arithmetic of precision `fast`."""
    fast_reason: NotRequired[str | None]
    """Why that is float32 although the device has bfloat16."""
    random: NotRequired[bool]
    """Whether two runs on one image differ: each job has a seed of its own, and none is cached."""


class Calibration(TypedDict):
    """Whether probabilities mean what they say: Guo et al. 2017, over 15 bins."""

    bins: list[CalibrationBin]
    brier: float
    """Mean squared distance to the right answer, summed over classes."""
    expected_error: float
    """ECE: mean of |confidence − accuracy|, weighted by images."""
    largest_error: float
    """MCE."""
    log_loss: float
    """Mean of −log of the right class's probability."""


class CalibrationBin(TypedDict):
    """Images whose predicted class has a probability between two ends, the upper one included."""

    accuracy: float | None
    confidence: float | None
    """Mean probability of the predicted class; null where no image is."""
    high: float
    images: int
    low: float


class CamFacts(TypedDict):
    """Facts of cam."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    layer: str
    maps: list[MapFacts]
    notes: list[str]
    """How not to read the maps."""
    output: OutputFacts
    region: NotRequired[str | list[int] | None]
    """Of a network that answers in maps: where classes count."""
    shape: list[int]
    transforms: list[dict[str, Any]]
    """For each image, where the network's input lies in the upload."""


class CamJob(TypedDict):
    """A job of cam."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: CamResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class CamRequest(TypedDict):
    """Which methods, at which layer, for which classes."""

    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """Without it the last spatial map before global pooling."""
    mask: NotRequired[ImageRef | None]
    """An image of the upload's size, white where the class counts."""
    methods: NotRequired[
        Sequence[
            Literal[
                "cam",
                "gradcam",
                "gradcam++",
                "hirescam",
                "elementwise",
                "xgradcam",
                "layercam",
                "eigencam",
                "eigengradcam",
                "scorecam",
                "ablationcam",
                "fullgrad",
                "guided-gradcam",
            ]
        ]
    ]
    """All of them share one forward pass."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    nonstandard_gate: NotRequired[bool]
    """guided-gradcam: treat SiLU, GELU, Hardswish and their like as ReLUs; not in any paper."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    region: NotRequired[Literal["all", "predicted", "mask"] | Sequence[int] | None]
    """Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white of the `mask`,
    `y,x` or `top,left,bottom,right` in pixels of the network's input.
    """
    seed: NotRequired[int]
    """Of everything random in the computation."""
    targets: NotRequired[Sequence[int | str]]
    """Class indices, class names, `predicted`, `top:K` (the K most probable classes of each image), or `-N` (the other
    side of output N, where each stands by itself).
    """
    upsampled: NotRequired[bool]
    """Also give each map at the size of the network's input."""


class CamResult(TypedDict):
    """The result of a job of cam that succeeded."""

    arrays: dict[str, ArrayView]
    facts: CamFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class CancelledJobs(TypedDict):
    """What became of the jobs that were to be cancelled."""

    cancelled: list[str]
    """Ids of jobs that are cancelled."""
    stopping: list[str]
    """Ids of jobs that stop within two slices."""


class ChannelFacts(TypedDict):
    """How the images excite one channel: figures of its strongest unit in each image (of its mean, with by=mean)."""

    active: float
    """Share of the images on which it is above zero."""
    best: list[float]
    """The k strongest, strongest first."""
    channel: int
    dead: bool
    """Not above zero on any image."""
    groups: NotRequired[list[GroupMean] | None]
    """The three that excite it most, where there are groups."""
    mean: float
    quantiles: dict[str, float]
    """Of the images' values, by share; told to a part in sixteen, the largest exactly."""
    selectivity: NotRequired[float | None]
    """Of the first of these: (its mean − the others') / (both together), Morcos 2018; null where a mean is below zero.
    """


class ChannelObjective(TypedDict):
    """A channel of a layer: the mean of its map, its largest value, or the value at its centre."""

    channel: int
    layer: str
    reduce: NotRequired[Literal["mean", "max", "center"]]


class CkaFacts(TypedDict):
    """Facts of cka."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    estimator: str
    images: int
    kernel: str
    matrices: list[MatrixFacts]
    mode: str
    samples: str


class CkaJob(TypedDict):
    """A job of cka."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: CkaResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class CkaRequest(TypedDict):
    """What is compared (`mode`), on which samples, by which kernel and estimator."""

    bandwidth: NotRequired[float]
    """RBF: σ as a fraction of the median distance between different samples."""
    batch_images: NotRequired[int | None]
    """Images whose samples are compared at once; HSICs of batches are summed."""
    channels: NotRequired[Sequence[int] | str]
    """In `channels` mode, which of the layer's channels."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    estimator: NotRequired[Literal["biased", "debiased"]]
    """biased: Kornblith 2019; debiased: U-centred Grams, unrelated features score zero."""
    features: NotRequired[Literal["flatten", "pool"]]
    """In `layers` and `models` mode: every number of the map, or each channel's mean."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    intervals: NotRequired[int | None]
    """Resamples for the 95 % interval; 0 for none. Default: 100, `channels` none."""
    kernel: NotRequired[Literal["linear", "rbf"]]
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """One layer; without it a middle stage."""
    layers: NotRequired[Sequence[str] | None]
    """Layers to compare, or `convolutions`; without it every stage."""
    mode: NotRequired[Literal["channels", "layers", "models"]]
    """Compare a layer's channels, a network's layers, or the layers of two networks."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    other_layers: NotRequired[Sequence[str] | None]
    """Its layers, or `convolutions`; without it every stage."""
    other_model: NotRequired[str | None]
    """In `models` mode, the network of the columns."""
    permutations: NotRequired[int]
    """Random pairings for the spread of the baseline."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    samples: NotRequired[Literal["rows", "positions", "images"] | None]
    """In `channels` mode, what a sample is: a row of the map (features: its columns), one position (then CKA is r²), or an
    image. Layers are always compared over images.
    """
    seed: NotRequired[int]
    """Of everything random in the computation."""


class CkaResult(TypedDict):
    """The result of a job of cka that succeeded."""

    arrays: dict[str, ArrayView]
    facts: CkaFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


ClassObjective = TypedDict(
    "ClassObjective",
    {"class": "int | str", "region": 'NotRequired[Literal["all", "predicted", "mask"] | Sequence[int] | None]'},
)
"""The logit of a class, by index or name; of a network that answers in maps its mean over a region."""


class ClassifyFacts(TypedDict):
    """Facts of classify."""

    classes_shown: NotRequired[dict[str, str]]
    """Names of the numbers in `class_map`; −1 is no class."""
    judgement: NotRequired[Judgement | None]
    """How often the network is right, where `truth` says what is."""
    notes: NotRequired[list[str]]
    """How not to read the numbers."""
    output: OutputFacts
    predictions: list[list[Prediction]]
    """For each image, strongest first, or of the largest share; ties by lower index."""
    region: NotRequired[str | list[int] | None]
    """Of a network that answers in maps: where it was looked."""
    transforms: list[dict[str, Any]]
    """For each image, where the network's input lies in the upload."""


class ClassifyJob(TypedDict):
    """A job of classify."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: ClassifyResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class ClassifyRequest(TypedDict):
    """How many classes to name, and which are right."""

    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    mask: NotRequired[ImageRef | None]
    """An image of the upload's size, white where the class counts."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    region: NotRequired[Literal["all", "predicted", "mask"] | Sequence[int] | None]
    """Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white of the `mask`,
    `y,x` or `top,left,bottom,right` in pixels of the network's input.
    """
    seed: NotRequired[int]
    """Of everything random in the computation."""
    top: NotRequired[int]
    """How many of the strongest classes to name for each image."""
    truth: NotRequired[Literal["folders"] | Sequence[int | str] | None]


class ClassifyResult(TypedDict):
    """The result of a job of classify that succeeded."""

    arrays: dict[str, ArrayView]
    facts: ClassifyFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class CompareFacts(TypedDict):
    """Facts of compare."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    channels: list[SilentChannelFacts]
    cka_batches: int
    """Batches of images whose HSICs were summed."""
    figures: dict[str, float | None]
    """All figures by name; null where there is none to give, which no requirement should pass."""
    flips: list[FlipFacts]
    """The surest first, 100 at most; `figures.flips` counts all."""
    images: int
    layers: list[AlignedLayerFacts]
    measured: list[Literal["probability", "value"]]
    """What a confidence is, of either network."""
    notes: list[str]
    """How not to read the figures."""
    other_output: OutputFacts
    output: OutputFacts
    shown: list[MovedImageFacts]


class CompareJob(TypedDict):
    """A job of compare."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: CompareResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class CompareRequest(TypedDict):
    """Which other network, at which layers, by which maps."""

    batch_images: NotRequired[int]
    """CKA: images compared at once, at most."""
    cam_layer: NotRequired[str | None]
    """Without it the last spatial map before global pooling."""
    channel_layers: NotRequired[Sequence[str] | None]
    """Layers of both whose channels are watched; without it all rectifications they share."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    features: NotRequired[Literal["flatten", "pool"]]
    """CKA: every number of the map, or each channel's mean."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    intervals: NotRequired[int]
    """CKA: resamples for the 95 % interval; 0 for none."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layers: NotRequired[Sequence[str] | None]
    """Layers whose representations are compared, or `convolutions`; without it every stage."""
    method: NotRequired[
        Literal[
            "cam",
            "gradcam",
            "gradcam++",
            "hirescam",
            "elementwise",
            "xgradcam",
            "layercam",
            "eigencam",
            "eigengradcam",
            "scorecam",
            "ablationcam",
            "fullgrad",
        ]
        | None
    ]
    """Whose maps are compared, a method of `cam`; without it gradcam."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    other_cam_layer: NotRequired[str | None]
    """The other network's; likewise."""
    other_layers: NotRequired[Sequence[str] | None]
    """The other network's, in the same order; without it those of the same names, or its stages."""
    other_model: str
    """Catalogue id of the network that `model` is compared with."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    seed: NotRequired[int]
    """Of everything random in the computation."""
    shown: NotRequired[int]
    """How many images whose evidence moved most are shown, and how many flips."""
    target: NotRequired[int | str]
    """Whose evidence: a class index, a class name, or what `model` predicts of each image."""
    truth: NotRequired[Literal["folders"] | Sequence[int | str] | None]


class CompareResult(TypedDict):
    """The result of a job of compare that succeeded."""

    arrays: dict[str, ArrayView]
    facts: CompareFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class CompletenessFacts(TypedDict):
    """How well the attribution adds up to the target's change from baseline to image."""

    baseline: str
    baseline_logit: float
    difference: float
    gap: float | None
    """Relative; null where target and baseline do not differ."""
    gap_absolute: float
    steps: int
    """Points of the last try."""
    within_tolerance: bool


class DeconvFacts(TypedDict):
    """Facts of deconv."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    caution: str | None
    """How not to read the picture."""
    layers: list[DeconvLayerFacts]
    transform: dict[str, Any]
    """Where the network's input lies in the upload."""


class DeconvJob(TypedDict):
    """A job of deconv."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: DeconvResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class DeconvLayerFacts(TypedDict):
    """Facts of one layer's projections, in the order of the arrays."""

    layer: str
    projections: list[ProjectionFacts]
    rule: str
    shape: list[int]


class DeconvRequest(TypedDict):
    """Which units to project, and by which rule."""

    by: NotRequired[Literal["max", "mean"]]
    """What `top:K` and `strongest` rank by."""
    channels: NotRequired[Sequence[int] | str]
    """Which channels to project."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """One layer; without it the deepest stage whose units see half of the input or less."""
    layers: NotRequired[Sequence[str] | None]
    """Several layers, in one forward pass, or `convolutions`."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    nonstandard_gate: NotRequired[bool]
    """Treat SiLU, GELU, Hardswish and their like as ReLUs on the way back; not in any paper."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    rule: NotRequired[Literal["deconvnet", "guided", "gradient"] | None]
    """At rectifications. Default: deconvnet, and guided for networks without max-pools."""
    seed: NotRequired[int]
    """Of everything random in the computation."""
    seed_unit: NotRequired[str]
    """max: a channel's strongest unit; channel: its whole map; layer: all maps of the layer together; top:n: a channel's n
    strongest units, one by one.
    """
    switches: NotRequired[Literal["sum", "last"]]
    """A pixel that is the switch of several pooling windows gets their sum, or the last's signal."""


class DeconvResult(TypedDict):
    """The result of a job of deconv that succeeded."""

    arrays: dict[str, ArrayView]
    facts: DeconvFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class DepthFacts(TypedDict):
    """How alike maps are before and after weights became random, means over the images."""

    layer: str
    """Cascading: this layer and all behind it became random; independent: it alone."""
    random: float | None
    """Rank correlation of two random maps."""
    rank_correlation: float | None
    """Spearman's, of the signed maps."""
    rank_correlation_absolute: float | None
    """Spearman's, of their magnitudes."""
    ssim: float | None
    """Structural similarity of the maps scaled to [0, 1]."""


class DirectionObjective(TypedDict):
    """A direction among a layer's channels: mean over positions of dot · max(0.1, cosine)^cosine_power."""

    cosine_power: NotRequired[float]
    direction: Sequence[float]
    layer: str


class EvaluateFacts(TypedDict):
    """Facts of evaluate."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    images: int
    layer: str | None
    """Of the CAMs; null where there is none among the methods."""
    measured: Literal["probability", "value"]
    """What the curves hold."""
    methods: list[JudgedFacts]
    notes: list[str]
    """How not to read the figures."""
    output: OutputFacts


class EvaluateJob(TypedDict):
    """A job of evaluate."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: EvaluateResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class EvaluateRequest(TypedDict):
    """Which explanations are judged, by what, and how far."""

    boxes: NotRequired[Sequence[Sequence[float]] | None]
    """Where the target is, a box an image: [top, left, bottom, right] in pixels of the upload."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    deletion_fill: NotRequired[Literal["black", "mean", "blur"]]
    """What deleted pixels become."""
    depths: NotRequired[int]
    """randomisation: how many layers, evenly from the last to the first."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    insertion_fill: NotRequired[Literal["black", "mean", "blur"]]
    """What pixels are inserted into."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """Of the CAMs; without it the last map before global pooling."""
    mask: NotRequired[ImageRef | None]
    """Where the target is in the one image: an image of its size, white on the target."""
    methods: NotRequired[
        Sequence[
            Literal[
                "gradient",
                "gradient-x-input",
                "guided",
                "smoothgrad",
                "vargrad",
                "integrated-gradients",
                "cam",
                "gradcam",
                "gradcam++",
                "hirescam",
                "elementwise",
                "xgradcam",
                "layercam",
                "eigencam",
                "eigengradcam",
                "scorecam",
                "ablationcam",
                "fullgrad",
                "guided-gradcam",
            ]
        ]
    ]
    """Of `saliency` and of `cam`, by their names there."""
    metrics: NotRequired[
        Sequence[
            Literal[
                "deletion",
                "insertion",
                "confidence",
                "road",
                "infidelity",
                "sensitivity",
                "localisation",
                "randomisation",
            ]
        ]
        | None
    ]
    """Default: deletion, insertion, confidence and road, and localisation where boxes or a mask come."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    nonstandard_gate: NotRequired[bool]
    """guided, guided-gradcam: as in their operations."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    radius: NotRequired[float]
    """sensitivity: largest change of a normalised input value."""
    samples: NotRequired[int]
    """infidelity: hidden squares; sensitivity: images with a little noise."""
    seed: NotRequired[int]
    """Of everything random in the computation."""
    steps: NotRequired[int]
    """deletion, insertion: equal parts that the pixels go in."""
    target: NotRequired[int | str]
    """A class index, a class name, `predicted` (of each image), or `-N`."""


class EvaluateResult(TypedDict):
    """The result of a job of evaluate that succeeded."""

    arrays: dict[str, ArrayView]
    facts: EvaluateFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class ExplainAnswer(TypedDict):
    """An explanation for each instance, in their order."""

    explanations: list[Explanation]


class ExplainRequest(TypedDict):
    """A request of KServe's version 1 to an explainer."""

    instances: Sequence[Any]
    """Images: {"b64": FILE}, {"image_bytes": {"b64": FILE}}, or rows of pixels, H×W×C, 0 to 255."""
    parameters: NotRequired[Mapping[str, Any]]
    """`operation` (`cam` unless given, `saliency`, `occlusion`, `deconv`) and its own properties."""


class Explanation(TypedDict):
    """What one instance's explanation is: a result, and the job that computed it."""

    arrays: dict[str, ArrayView]
    facts: dict[str, Any]
    """Numbers that matter without opening an array; by operation."""
    job: str
    pictures: list[PictureView]
    provenance: ProvenanceView


class FeatureMapsFacts(TypedDict):
    """Facts of feature-maps."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    layers: list[LayerFacts]
    transforms: list[dict[str, Any]]
    """For each image, where the network's input lies in the upload."""


class FeatureMapsJob(TypedDict):
    """A job of feature-maps."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: FeatureMapsResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class FeatureMapsRequest(TypedDict):
    """Which maps to show: layers by name, or `layers=convolutions` for every convolution."""

    by: NotRequired[str]
    """What `top:K` ranks by."""
    channels: NotRequired[Sequence[int] | str | None]
    """Which maps; without it the first 64."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """One layer; without it the first convolution."""
    layers: NotRequired[Sequence[str] | None]
    """Several layers, or the one word `convolutions`."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    seed: NotRequired[int]
    """Of everything random in the computation."""


class FeatureMapsResult(TypedDict):
    """The result of a job of feature-maps that succeeded."""

    arrays: dict[str, ArrayView]
    facts: FeatureMapsFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class FieldProblem(TypedDict):
    """One wrong place in a request."""

    detail: str
    pointer: str
    """JSON pointer into the body; /query/… and /path/… for the address."""


class FigureFacts(TypedDict):
    """One figure of a method, over the images, beside that of a random map."""

    beats_random: bool | None
    better: Literal["higher", "lower"]
    deviation: float | None
    """Standard deviation over the images; null for one image."""
    figure: str
    images: int
    """Images that have the figure."""
    mean: float | None
    """Null where no image has it."""
    random: float | None
    """The mean of a random map of the same grain; null where it has none."""


class FileReference(TypedDict):
    """A file of weights or a program that the artifact store has already."""

    sha256: str
    """Of its bytes, hex."""


FlipFacts = TypedDict(
    "FlipFacts",
    {
        "class": "int",
        "confidence": "float",
        "image": "int",
        "name": "str | None",
        "other_class": "int",
        "other_confidence": "float",
        "other_name": "str | None",
    },
)
"""An image of which the networks predict different classes."""


class Group(TypedDict):
    """A group of images."""

    images: int
    name: str


class GroupMean(TypedDict):
    """How one group of images excites a channel."""

    group: str
    mean: float
    """Over its images, of the strongest unit in each (of the mean, with by=mean)."""


class ImageList(TypedDict):
    """A page of images."""

    images: list[ImageView]


class ImageRef(TypedDict):
    """An image by reference: an uploaded one by `id`, or its file's bytes in `base64`."""

    base64: NotRequired[str | None]
    """The bytes of an image file in base64."""
    id: NotRequired[str | None]
    """Id from POST /v1/images or from a result's `image_id`."""


class ImageSetDetail(TypedDict):
    """A set with a page of its members."""

    created_at: str | None
    expires_at: str | None
    href: str
    id: str
    """For `image_set` in requests."""
    images: int
    """How many images it has."""
    members: list[MemberView]
    """In the order of the upload; further ones by the Link header."""
    rejected: int
    """How many files of the upload are not in it."""
    rejected_entries: list[RejectedEntry]
    """On the first page, 1000 at most."""


class ImageSetList(TypedDict):
    """A page of sets."""

    image_sets: list[ImageSetView]


class ImageSetView(TypedDict):
    """A set as its caller sees it."""

    created_at: str | None
    expires_at: str | None
    href: str
    id: str
    """For `image_set` in requests."""
    images: int
    """How many images it has."""
    rejected: int
    """How many files of the upload are not in it."""


class ImageView(TypedDict):
    """An image as its caller sees it."""

    created_at: str | None
    expires_at: str | None
    format: str
    """PNG, JPEG, WEBP, GIF, BMP, TIFF, NPY or SAFETENSORS; `pixels` for one that a job made."""
    height: int
    href: str
    id: str
    """For `image.id` in requests."""
    notes: list[str]
    """What was done to make it 8-bit sRGB, as laying transparency on white."""
    planes: int
    """Planes that a network gets: 3 of a picture, those of an array."""
    sha256: str
    """Of the uploaded bytes, hex."""
    width: int
    """Pixels, after turning by EXIF."""


class InferAnswer(TypedDict):
    """What the protocol answers to an inference request."""

    id: NotRequired[str | None]
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    parameters: dict[str, str]
    """`jobs`: ids of the jobs that computed it, separated by commas."""


class InferParameters(TypedDict):
    """What may be said of a request as a whole."""

    binary_data_output: NotRequired[bool]
    """Answer all outputs as bytes behind the JSON."""
    precision: NotRequired[Literal["exact", "fast"]]


class InferRequest(TypedDict):
    """An inference request of the Open Inference Protocol."""

    id: NotRequired[str | None]
    inputs: Sequence[InputTensor]
    model_name: NotRequired[str | None]
    """Not read; the address names the network."""
    outputs: NotRequired[Sequence[OutputWish]]
    """Without any, the network's answer."""
    parameters: NotRequired[InferParameters]


class InputParameters(TypedDict):
    """What may be said of an input."""

    binary_data_size: NotRequired[int | None]
    """Bytes of the tensor behind the JSON."""


class InputTensor(TypedDict):
    """Images as one tensor: files (BYTES) or pixels (UINT8, FP32)."""

    data: NotRequired[Sequence[Any] | None]
    """The values, flat or nested; not with `binary_data_size`."""
    datatype: Literal["BYTES", "UINT8", "FP32"]
    """BYTES: image files, in JSON as base64; UINT8: pixels, three of them sRGB; FP32: planes in [0, 1]."""
    name: Literal["image"]
    parameters: NotRequired[InputParameters]
    shape: Sequence[int]
    """[N] of BYTES, [N, H, W, C] of numbers."""


class JobList(TypedDict):
    """Some jobs, newest first, without their results; Link: rel=next leads on."""

    jobs: list[JobView]


JobState: TypeAlias = 'Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]'
"""Where a job is in its life. Terminal states never change."""


class JobView(TypedDict):
    """A job."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: ResultView | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class JudgedClass(TypedDict):
    """How one class is answered."""

    images: int
    """That are of it."""
    index: int
    name: str
    precision: float | None
    """right / predicted; null where none is said to be of it."""
    predicted: int
    """That are said to be of it."""
    recall: float | None
    """right / images; null where there is none of it."""
    right: int


class JudgedFacts(TypedDict):
    """One method's figures."""

    cascading: list[DepthFacts]
    """From the last layer to the first."""
    figures: list[FigureFacts]
    independent: list[DepthFacts]
    method: str
    random: str
    """Which of the random maps stands beside it, as the arrays name it."""


class Judgement(TypedDict):
    """How often the network is right."""

    accuracy: float
    accuracy_balanced: float
    """Mean recall of the classes that there are images of."""
    accuracy_top5: float | None
    """The right class is among the strongest five; null for few."""
    calibration: Calibration | None
    """Null where the outputs are no softmax."""
    classes: list[JudgedClass]
    confusion_classes: list[int]
    """Rows (right) and columns (predicted) of the array `confusion`."""
    images: int
    right: int
    wrong: list[WrongAnswer]
    """The surest first, 100 at most."""


class KernelsFacts(TypedDict):
    """Facts of kernels."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    filters: list[int]
    """The output channel of each row of `weights`."""
    groups: int
    inputs: list[int]
    """The input channel, within its group, of each column of `weights`."""
    layer: str
    maximum: float
    minimum: float
    """Of the whole layer, as the maximum."""
    norms: list[float]
    """L2 norm of each chosen filter over all its inputs."""
    shape: list[int]
    """Of the layer's whole weight: O, I, kh, kw; I is of one group."""


class KernelsJob(TypedDict):
    """A job of kernels."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: KernelsResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class KernelsRequest(TypedDict):
    """Which convolution, which of its filters, and which of their inputs."""

    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    filters: NotRequired[Sequence[int] | str]
    """Which filters (output channels); `top:K` are those with the largest norm."""
    inputs: NotRequired[Sequence[int] | str]
    """Which input channels of each filter; `top:K` are those with the largest norm in the layer."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """A convolution; without it the first one."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    seed: NotRequired[int]
    """Of everything random in the computation."""


class KernelsResult(TypedDict):
    """The result of a job of kernels that succeeded."""

    arrays: dict[str, ArrayView]
    facts: KernelsFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class LayerCard(TypedDict):
    """One call of a module or functional operation, in execution order."""

    activation: NotRequired[str | None]
    """relu, relu6, prelu, leaky_relu, silu, gelu, hardswish, … if it is one."""
    aliases: NotRequired[list[str]]
    call: NotRequired[int]
    """1 for the first call of the module, 2 for the second, …"""
    container: NotRequired[bool]
    inputs: NotRequired[list[str]]
    """Calls whose outputs this one was computed from with no other call between; `@input` is the network's input. A
    container that only hands on its last child's output has that child.
    """
    kernel_shape: NotRequired[list[int] | None]
    """(O, I, kh, kw) for convolutions."""
    kind: str
    """Class of the module (`Conv2d`) or name of the function (`relu`)."""
    methods: NotRequired[dict[str, str | None]]
    """Operation → null where it applies, else the reason why not."""
    name: str
    order: int
    """Position in execution order, from 0; a container comes after its children."""
    receptive_field: NotRequired[ReceptiveField | None]
    shape: list[int]
    """Shape of the output without the batch: (C, H, W) or (C,)."""


class LayerFacts(TypedDict):
    """Numbers of one layer's chosen maps, in the order of `channels`; per image where there are several (N×K lists)."""

    channels: list[list[int]]
    """For each image, the channel of each map."""
    dead_channels: list[list[int]]
    """For each image, channels of the layer that are nowhere larger than a millionth of its largest."""
    layer: str
    maximum: list[list[float]]
    mean: list[list[float]]
    minimum: list[list[float]]
    shape: list[int]
    """Of the whole layer: C, H, W."""
    std: list[list[float]]
    zeros: list[list[float]]
    """Share of exact zeros in each map."""


class LayerObjective(TypedDict):
    """A whole layer: the mean of its squared activations, as in DeepDream."""

    layer: str


class LayerTable(TypedDict):
    """Layers in execution order."""

    layers: list[LayerCard]
    method: str | None
    model: str


class Limits(TypedDict):
    """What a request may be."""

    body_mib: int
    images: int
    """Most images; 0: the operation takes none."""
    megapixels: float
    result_mib: int


class LowestFacts(TypedDict):
    """Where a map is lowest; boxes are (top, left, bottom, right), half open."""

    box: list[int]
    """The square there, in pixels of the network's input."""
    box_in_upload: list[float]
    column: int
    row: int
    value: float


class MapFacts(TypedDict):
    """One map: whose, of what, and its raw range."""

    all_negative: bool
    """The map holds no positive evidence at all."""
    array: str
    completeness_gap: NotRequired[float | None]
    """fullgrad: logit minus the sum of all terms, as a share of the logit."""
    forwards: int
    """Forward passes of one image this map needed beyond the shared one."""
    image: int
    """Which image of the request."""
    item: int
    """Index along the array's first axis."""
    logit: float
    """Over a region the mean."""
    maximum: float
    method: str
    minimum: float
    """Of the raw signed map."""
    name: str | None
    """Class name."""
    other_side: NotRequired[bool]
    """The target is the other side of that output."""
    probability: float | None
    """Null where the network gives values. Over a region the mean."""
    region_pixels: NotRequired[int | None]
    """Pixels of the network's answer that count."""
    target: int
    """Class index."""


class MatrixFacts(TypedDict):
    """One matrix: its labels, samples, baselines and what to be careful about."""

    array: str
    bandwidths: NotRequired[list[float] | None]
    """RBF: σ of each row."""
    baseline: Baseline
    batches: int
    """HSICs of this many batches of samples were summed before dividing."""
    columns: list[str]
    features: list[int]
    """p of each row."""
    interval_mean_width: NotRequired[float | None]
    interval_method: NotRequired[str | None]
    mean_off_diagonal: float | None
    rows: list[str]
    samples: int
    """n of each HSIC."""
    undefined: dict[str, str]
    """Rows and columns without an answer, and why."""
    warnings: list[str]


class MaximizeFacts(TypedDict):
    """Facts of maximize."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    class_names: NotRequired[dict[str, str]]
    """Index → name of every class maximized."""
    output: NotRequired[OutputFacts | None]
    """The network's answer, where a class is maximized."""
    parameterization: str
    pictures: list[PictureFacts]
    references: int
    """Photographs that the pictures were compared with."""
    size: list[int]


class MaximizeJob(TypedDict):
    """A job of maximize."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: MaximizeResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class MaximizeRequest(TypedDict):
    """What is maximized, by which preset, and every number of the preset that shall be another."""

    average: NotRequired[float | None]
    """Share of the steps, the last ones, whose mean is the picture; 0: the last step."""
    beta1: NotRequired[float | None]
    """adam, keras-adam, nadam: of the first moment."""
    beta2: NotRequired[float | None]
    """adam, keras-adam, nadam: of the second moment."""
    blur: NotRequired[float | None]
    """pixel: sigma of a blur every `blur_every` steps."""
    blur_every: NotRequired[int | None]
    channels: NotRequired[Sequence[int] | str | None]
    """Channels of `layer`; without it the first four. `top:K` ranks on the start image."""
    clip_each_step: NotRequired[bool | None]
    """pixel: clip after every step, not only at the end."""
    crop_center_sd: NotRequired[float | None]
    """Spread of the centres of views."""
    crop_from: NotRequired[float | None]
    """Side of a view at the first step, in pictures."""
    crop_size_sd: NotRequired[float | None]
    """Spread of the sides of views."""
    crop_to: NotRequired[float | None]
    """Side of a view at the last step, in pictures."""
    crops: NotRequired[int | None]
    """Views of the picture in every step."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    decay: NotRequired[float | None]
    """Share of the parameters lost in every step."""
    decay_power: NotRequired[float | None]
    """fourier: coefficients are scaled by 1/f^this."""
    decorrelate: NotRequired[bool | None]
    """fourier: decorrelate colours."""
    display: NotRequired[Literal["clip", "flashtorch"] | None]
    """How a picture becomes 8 bits. clip: what leaves the range is cut off; flashtorch: standardised over all planes, with
    FlashTorch's saturation (0.15) and brightness (0.7).
    """
    diversity: NotRequired[float | None]
    """Weight by which the job's pictures of one layer are pushed apart."""
    epsilon: NotRequired[float | None]
    """adam, keras-adam, nadam, rms: beside the root."""
    float_pictures: NotRequired[bool | None]
    """Whether the arrays hold the pictures also as they were made: float, nothing cut off."""
    image: NotRequired[str | ImageRef | None]
    """A picture to start from, instead of noise."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Photographs to compare the finished pictures with; with start=image the first is the start."""
    jitter: NotRequired[int | None]
    """Pixels of the first random crop."""
    jitter_after: NotRequired[int | None]
    """Pixels of the last random crop."""
    l2: NotRequired[float | None]
    """Weight of the squared distance from grey."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """Short for one channel objective for each of `channels`."""
    learning_rate: NotRequired[float | None]
    mask: NotRequired[ImageRef | None]
    """Of networks that answer in maps: white where a class counts, stretched to the pictures."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    noise: NotRequired[float | None]
    """Normal noise on every view, pixels in [0, 1]."""
    noise_uniform: NotRequired[float | None]
    """Uniform noise ± this on every view."""
    objective: NotRequired[
        SumObjective
        | ClassObjective
        | UnitObjective
        | DirectionObjective
        | ChannelObjective
        | LayerObjective
        | Sequence[
            SumObjective | ClassObjective | UnitObjective | DirectionObjective | ChannelObjective | LayerObjective
        ]
        | None
    ]
    """An objective, or a list of them that makes one picture each."""
    optimizer: NotRequired[Literal["adam", "keras-adam", "nadam", "ascent", "rms"] | None]
    """keras-adam: Adam as Keras computes it, whose epsilon stands beside the uncorrected root."""
    parameterization: NotRequired[Literal["pixel", "fourier", "maco"] | None]
    pixel_space: NotRequired[Literal["byte", "unit", "normalized"] | None]
    """pixel: what a parameter of 1 is: a 255th, white, or a standard deviation of the input."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    preset: NotRequired[Literal["pixel", "flashtorch", "yosinski", "lucid", "smooth", "maco"]]
    redirect_steps: NotRequired[int | None]
    """First steps in which a row without any gradient gets a redirected one."""
    rotate: NotRequired[int | None]
    """Random rotation ± this many degrees."""
    scale: NotRequired[float | None]
    """Random scale 1 ± this, in eleven steps."""
    seed: NotRequired[int]
    """Of everything random in the computation."""
    size: NotRequired[int | Sequence[int] | None]
    """Side, or height and width, of the picture; without it the network's own input size."""
    start: NotRequired[Literal["noise", "image"] | None]
    """Default: the image, if `image` is given."""
    start_distribution: NotRequired[Literal["uniform", "normal"] | None]
    """pixel: of the noise."""
    start_level: NotRequired[float | None]
    """pixel: of the noise; null: the mean colour."""
    start_spread: NotRequired[float | None]
    """Width of the noise, in the preset's own unit."""
    steps: NotRequired[int | None]
    stop_after_update: NotRequired[bool]
    """stop_at: the picture is the one after the step that found the value, not before it."""
    stop_at: NotRequired[float | None]
    """A picture is finished when its objective reaches this value."""
    tv: NotRequired[float | None]
    """Weight of the total variation."""


class MaximizeResult(TypedDict):
    """The result of a job of maximize that succeeded."""

    arrays: dict[str, ArrayView]
    facts: MaximizeFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class MemberView(TypedDict):
    """One image of a set."""

    channels: int
    """Planes: 3 of a picture, those of an array."""
    height: int
    href: str
    id: str
    name: str
    """The file's name in the upload."""
    width: int


class ModelCard(TypedDict):
    """A network of the catalogue: weights, preprocessing, classes, layers, and the defaults of each operation."""

    behaviour: NotRequired[BehaviourCard | None]
    """What the network can bear; null where its weights are not at hand, and it was not tried."""
    classes: NotRequired[list[str]]
    default_layers: NotRequired[dict[str, list[str]]]
    """Operation → the layers used when the request names none."""
    entry_digest: str
    """SHA-256 of what identifies source, weights and preprocessing; part of cache keys."""
    id: str
    layers: NotRequired[list[LayerCard]]
    max_pools: NotRequired[int]
    """Max-pool calls, the places where a deconvnet has switches."""
    outputs: NotRequired[OutputsCard | None]
    """The network's answer; null where nobody has looked."""
    parameters: int
    preprocess: PreprocessCard
    rectifications: NotRequired[dict[str, int]]
    """Activation kind → calls of it."""
    source: str
    """Where the architecture comes from: torchvision:NAME, timm:NAME, zfnet, …"""
    stages: NotRequired[list[str]]
    """One layer for each resolution stage, shallow to deep."""
    title: str
    upload: NotRequired[UploadFacts | None]
    """Of a network that a caller brought; null for the operator's."""
    weights: str
    """Which weights: a published name, file:…, package:…, or random with its seed."""


class ModelList(TypedDict):
    """The catalogue."""

    default: str
    """The network used where a request names none."""
    models: list[ModelSummary]


class ModelMetadata(TypedDict):
    """A network as the protocol describes it."""

    inputs: list[TensorView]
    """Image files; pixels N×H×W×C as UINT8 or FP32 are taken as well."""
    name: str
    outputs: list[TensorView]
    """The network's answer, then every layer that has maps."""
    platform: NotRequired[Literal["pytorch_convscope"]]
    versions: list[str]
    """Of its weights and preprocessing; there is always one."""


class ModelNames(TypedDict):
    """The networks that there are."""

    models: list[str]


class ModelReady(TypedDict):
    """Whether a network can be asked."""

    name: str
    ready: NotRequired[bool]


class ModelSummary(TypedDict):
    """A line of GET /v1/models: a network of the catalogue, described or not yet, usable or why not."""

    available: NotRequired[bool | None]
    """Whether the weights are at hand; null when nobody has looked."""
    default: NotRequired[bool]
    entry_digest: NotRequired[str | None]
    """Of an operator's entry: changes when anything in it does."""
    id: str
    problem: NotRequired[str | None]
    """Why the entry cannot be used."""
    problem_type: NotRequired[str]
    """Name of the problem that requests for it get."""
    source: str
    title: str
    upload: NotRequired[UploadFacts | None]
    """Of a network that a caller brought; null for the operator's."""
    weights: str


MovedImageFacts = TypedDict(
    "MovedImageFacts",
    {
        "class": "int",
        "confidence": "float",
        "flipped": "bool",
        "image": "int",
        "item": "int",
        "mass_moved": "float | None",
        "moved": "bool",
        "name": "str | None",
        "other_class": "int",
        "other_confidence": "float",
        "other_name": "str | None",
        "rank_correlation": "float | None",
        "target": "str",
        "target_name": "str | None",
        "transforms": "list[dict[str, Any]]",
    },
)
"""An image whose maps are among the arrays."""


class NetworkHead(TypedDict):
    """What stands in the place of an architecture's classifier."""

    at: NotRequired[str | None]
    """The layer that it replaces, if not the last linear one."""
    layers: Sequence[str]
    """As ["dropout", "linear"]."""


class NetworkPreprocess(TypedDict):
    """How an upload becomes the network's input, where that differs from the architecture's own."""

    channels: NotRequired[int | None]
    """Planes of the input."""
    crop: NotRequired[Literal["center", "none"] | None]
    mean: NotRequired[float | Sequence[float] | None]
    """Of each plane, in [0, 1] units."""
    resize: NotRequired[int | Sequence[int] | None]
    """Shorter side before the crop; height and width squeeze."""
    resize_mode: NotRequired[Literal["bilinear", "bicubic", "nearest", "lanczos"] | None]
    size: NotRequired[int | Sequence[int] | None]
    """Of the input: one side, or height and width."""
    std: NotRequired[float | Sequence[float] | None]
    """Of each plane, in [0, 1] units."""


class NetworkRequest(TypedDict):
    """What a network is, beside its file; as an entry of the operator's catalogue."""

    classes: NotRequired[Sequence[str] | None]
    """Names, in the order of outputs."""
    family: NotRequired[Literal["vgg", "alexnet"] | None]
    """Naming scheme of the layers."""
    file: NotRequired[FileReference | None]
    """Instead of the part `file`: one that the store has."""
    head: NotRequired[Sequence[str] | NetworkHead | None]
    """What stands in the place of the classifier; docs/networks.md."""
    num_classes: NotRequired[int | None]
    """Outputs, where they have no names."""
    output: NotRequired[str | int | None]
    """Which of several outputs is the answer: a key, a place, or `main.0`."""
    outputs: NotRequired[Literal["softmax", "sigmoid", "value"] | None]
    """What its numbers are."""
    preprocess: NotRequired[NetworkPreprocess | None]
    source: NotRequired[str | None]
    """The architecture that safetensors belong to: `torchvision:NAME`, `timm:NAME`, or one of ours; a .pt2 has none."""
    title: NotRequired[str | None]
    visible_to: NotRequired[Literal["owner", "all"]]
    """Who may use it: its owner alone, or every caller."""


class OcclusionBaseline(TypedDict):
    """The network's answers to the whole image."""

    activation: float
    probability: float | None
    """Null where the network gives values."""
    top_class: int
    value: NotRequired[float | None]
    """Of the target, where the network gives values."""


class OcclusionFacts(TypedDict):
    """Facts of occlusion."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    baseline: OcclusionBaseline
    fill: str | list[float]
    grid: list[int]
    """Places, vertical and horizontal."""
    incremental: bool
    """Whether the shortcut was used."""
    lowest_activation: LowestFacts
    lowest_probability: LowestFacts | None
    """Null where the network gives values."""
    lowest_value: NotRequired[LowestFacts | None]
    """Where the network gives values."""
    other_side: NotRequired[bool]
    """The target is the other side of that output."""
    output: OutputFacts
    region: NotRequired[str | list[int] | None]
    """Of a network that answers in maps: where the class counts."""
    region_pixels: NotRequired[int | None]
    """Pixels of the network's answer that count."""
    stride: list[int]
    target: int
    """Class whose probability is mapped, or its value where the network gives none."""
    target_name: str | None
    """Its name, where it has one."""
    top_classes: dict[str, str | None]
    """Every class that is the most probable at some place, with its name."""
    transform: dict[str, Any]
    unit: dict[str, Any]
    """Layer and channel (and position) whose activation is mapped."""
    window: list[int]


class OcclusionJob(TypedDict):
    """A job of occlusion."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: OcclusionResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class OcclusionRequest(TypedDict):
    """The square, its steps and colour, and what is watched."""

    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    fill: NotRequired[Literal["mean", "black", "grey", "white"] | Sequence[float]]
    """Colour of the square: the data set's mean, a name, or r, g, b of 0 to 255."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    incremental: NotRequired[bool]
    """Recompute only what the square touches, where the network allows it."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    mask: NotRequired[ImageRef | None]
    """An image of the upload's size, white where the class counts."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    region: NotRequired[Literal["all", "predicted", "mask"] | Sequence[int] | None]
    """Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white of the `mask`,
    `y,x` or `top,left,bottom,right` in pixels of the network's input.
    """
    seed: NotRequired[int]
    """Of everything random in the computation."""
    stride: NotRequired[Sequence[int] | None]
    """Step between places, pixels; default a sixteenth of the input."""
    target: NotRequired[int | UnitTarget | str]
    """Class whose probability (or value) is mapped; a unit here is watched instead."""
    unit: NotRequired[WatchedUnit]
    window: NotRequired[Sequence[int] | None]
    """Side of the square, pixels; default a quarter of the input."""


class OcclusionResult(TypedDict):
    """The result of a job of occlusion that succeeded."""

    arrays: dict[str, ArrayView]
    facts: OcclusionFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class OperationList(TypedDict):
    """All operations."""

    operations: list[OperationView]


class OperationView(TypedDict):
    """An operation as GET /v1/operations lists it."""

    defaults: dict[str, Any]
    facts_schema: dict[str, Any]
    href: str
    lane: str
    limits: Limits
    media_types: list[str]
    name: str
    quick: bool
    """Whether a request without a preference waits for the answer."""
    request_schema: dict[str, Any]
    summary: str


class OutputFacts(TypedDict):
    """What the network answers to an image, and what the numbers mean."""

    count: int
    """Classes."""
    ends_in: NotRequired[Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"] | None]
    """In what the network itself ends; what that is given is then the logit."""
    form: NotRequired[Literal["scores", "planes", "none"]]
    """scores: a number a class; planes: a map a class (segmentation); none: nothing readable."""
    known: NotRequired[Literal["declared", "recognised", "assumed"]]
    """Declared in the catalogue, recognised by how the network ends, or assumed."""
    outputs: NotRequired[Literal["softmax", "sigmoid", "value"]]
    """What makes a probability of a logit; value: the numbers are no logits."""
    read: NotRequired[str]
    """Which tensor of what the network returns is read."""


class OutputParameters(TypedDict):
    """What may be said of an output."""

    binary_data: NotRequired[bool | None]
    """Answer it as bytes behind the JSON."""


class OutputParametersView(TypedDict):
    """What is said of an output."""

    binary_data_size: int
    """Bytes of the tensor behind the JSON."""


class OutputTensor(TypedDict):
    """A tensor that was computed."""

    data: NotRequired[list[Any] | None]
    """Flat, in row-major order, null for what is not finite."""
    datatype: str
    name: str
    parameters: NotRequired[OutputParametersView | None]
    shape: list[int]


class OutputWish(TypedDict):
    """An output that is asked for."""

    name: str
    """`logits`, or a layer."""
    parameters: NotRequired[OutputParameters]


class OutputsCard(TypedDict):
    """The same, or why nothing can be read."""

    count: int
    """Classes."""
    ends_in: NotRequired[Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"] | None]
    """In what the network itself ends; what that is given is then the logit."""
    form: NotRequired[Literal["scores", "planes", "none"]]
    """scores: a number a class; planes: a map a class (segmentation); none: nothing readable."""
    known: NotRequired[Literal["declared", "recognised", "assumed"]]
    """Declared in the catalogue, recognised by how the network ends, or assumed."""
    outputs: NotRequired[Literal["softmax", "sigmoid", "value"]]
    """What makes a probability of a logit; value: the numbers are no logits."""
    problem: NotRequired[str | None]
    """Why no operation can read an answer, with what was found."""
    read: NotRequired[str]
    """Which tensor of what the network returns is read."""


class PictureFacts(TypedDict):
    """Facts of one picture."""

    channel: int | None
    """The target channel or class."""
    channels: int
    class_name: NotRequired[str | None]
    """Of a class that has a name."""
    dead: bool
    """Nothing was found that excites it."""
    image_id: str | None
    """The picture as an image, for other operations."""
    kind: str
    """class, channel, unit, layer, direction or sum."""
    layer: str | None
    """Of the target; null for a class."""
    loss_first: float | None
    """The objective's value at the first step; larger is better. Null where that was no finite number."""
    loss_last: float | None
    """The same at the last step."""
    percentile: float | None
    """Share of the photographs, percent, whose value is lower."""
    probability: NotRequired[float | None]
    """Of that class on the final picture; null for values."""
    rank: int | None
    """Of the target channel's mean on that picture; 1 is the strongest."""
    reference_max: float | None
    """Largest value among the photographs."""
    steps: int
    """Steps run."""
    steps_without_gradient: int
    stopped_by: Literal["steps", "stop_at", "dead", "saturated", "diverged"]
    value: float | None
    """The objective on the final 8-bit picture."""
    withheld: NotRequired[bool]
    """It is dead or has diverged: its picture is black and no image."""


class PictureView(TypedDict):
    """One picture that can be drawn of a result."""

    href: str
    image_id: str | None
    """Of the image that the picture equals, to send it on."""
    name: str
    """What `pick` chooses."""


class Prediction(TypedDict):
    """One class of one image."""

    index: int
    logit: float | None
    """What that is taken of, and what methods differentiate; null where the catalogue declares values."""
    name: str
    """The class's name; its index as text where the network has no names."""
    probability: float | None
    """Softmax over all classes, or sigmoid of this one, as the network's outputs are; null where they are values. Over a
    region the mean.
    """
    share: NotRequired[float | None]
    """Of a network that answers in maps: share of the region's pixels predicted as the class."""
    value: NotRequired[float | None]
    """The number itself, where nothing says that it is a logit."""


class Preprocess(TypedDict):
    """Overrides of the network's own preprocessing, where its architecture allows."""

    antialias: NotRequired[bool | None]
    """false: pixels between half-pixel centres, without a filter where the image shrinks, as torch's `F.interpolate` does
    on tensors; true, the default, as Pillow does.
    """
    crop: NotRequired[Literal["center", "none"] | None]
    """center: keep the aspect ratio and crop; none: squeeze the whole upload into the input."""
    mean: NotRequired[float | Sequence[float] | None]
    """Subtracted from each plane; one number for all planes."""
    range: NotRequired[Literal["unit", "byte"] | None]
    """What white is to the network: 1 or 255. With it, `mean` and `std` are in that unit, and 0 and 1 unless given:
    range=byte alone feeds raw 0 to 255, range=unit alone plain 0 to 1.
    """
    resize_mode: NotRequired[Literal["bilinear", "bicubic", "nearest", "lanczos"] | None]
    size: NotRequired[int | Sequence[int] | None]
    """Height and width of the network's input, pixels; one number for a square."""
    std: NotRequired[float | Sequence[float] | None]
    """Each plane is divided by it, above 0; one number for all."""


class PreprocessCard(TypedDict):
    """How an upload becomes the network's input: resize, centre crop, scale to [0, 1], normalise."""

    channels: NotRequired[int]
    """Planes of the input. 1: uploads are converted to grey; other than 1 and 3: uploads are arrays."""
    crop: NotRequired[Literal["center", "none"]]
    mean: list[float]
    """Of each plane, in [0, 1] units."""
    minimum_size: NotRequired[int]
    """Smallest side the architecture accepts, pixels."""
    resizable: bool
    """Whether the architecture accepts other input sizes."""
    resize: list[int] | int
    """Resize target before cropping: shorter side, or height and width."""
    resize_mode: NotRequired[Literal["bilinear", "bicubic", "nearest", "lanczos"]]
    size: list[int]
    """Height and width of the network's input, pixels."""
    std: list[float]
    """Of each plane, in [0, 1] units."""


class ProblemDocument(TypedDict):
    """RFC 9457 problem details. Further members depend on the type (`possible`, `near`, `limit`, …)."""

    detail: str
    errors: NotRequired[list[FieldProblem] | None]
    instance: NotRequired[str | None]
    """Path of the request, or of the job."""
    job_id: NotRequired[str | None]
    request_id: NotRequired[str | None]
    retry_after_s: NotRequired[float | None]
    status: int
    title: str
    type: str
    """Stable address of a page that says what to do, /problems/{name}."""


class ProgressView(TypedDict):
    """How far a job is."""

    done: float
    losses: NotRequired[list[float | None] | None]
    """Of the pictures that a preview shows, the first 16; null before a picture's first step."""
    message: str
    total: float


class ProjectionFacts(TypedDict):
    """Facts of one projection; boxes are (top, left, bottom, right), half open."""

    activation: float
    """Of the unit; of the strongest one when whole maps are projected."""
    box: list[int]
    """Receptive field in pixels of the network's input, clipped to it."""
    box_in_upload: list[float]
    channel: int | None
    """Null when the whole layer is projected."""
    dead: bool
    """The unit is not active, so its projection is zero."""
    image_independent: bool
    """Nothing on the way back depends on the image: another image would give the same up to a factor."""
    largest: float
    """Largest magnitude of the projection."""
    rectification_kinds: dict[str, int]
    rectifications: int
    """Rectifications on the way that the rule was applied to."""
    switches: int
    """Max-pools on the way, whose switches were used."""
    window: list[int]
    """What `patch` shows: the receptive field, not clipped."""
    x: int | None
    y: int | None
    """Row of the unit in its map; null when a whole map is projected."""


class ProvenanceView(TypedDict):
    """What made a result, enough to make it again."""

    code: str
    device: str
    model: str
    precision: str
    seed: int
    tile: int
    torch: str
    weights_sha256: str | None


class Ready(TypedDict):
    """The service can take work."""

    redis: NotRequired[str]
    status: NotRequired[str]
    store: NotRequired[str]
    workers: int
    """Live workers. Without one, work waits; the service is ready all the same once one was there."""


class ReceptiveField(TypedDict):
    """The input box one unit sees, in pixels of the network's input, each as (vertical, horizontal). The box of unit (y,
    x) covers rows start[0] + y * jump[0] … + size[0] - 1, likewise for columns, before clipping.
    """

    jump: list[float]
    size: list[int]
    start: list[float]


class RejectedEntry(TypedDict):
    """A file of the upload that is not in the set, and why."""

    detail: str
    name: str
    """The file's name in the upload."""
    problem: str
    """Name of the problem, as under /problems."""


class ResultView(TypedDict):
    """The result of a job that succeeded."""

    arrays: dict[str, ArrayView]
    facts: dict[str, Any]
    """Numbers that matter without opening an array; by operation."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class SaliencyFacts(TypedDict):
    """Facts of saliency."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    images: list[SaliencyImageFacts]
    method: str
    output: NotRequired[OutputFacts | None]
    """The network's answer; null for a unit."""
    region: NotRequired[str | list[int] | None]
    """Of a network that answers in maps: where classes count."""


class SaliencyImageFacts(TypedDict):
    """Facts of one image's attribution."""

    completeness: CompletenessFacts | None
    """integrated-gradients only."""
    logit: float
    """Value of the target on the image: a logit, over a region the mean, or the unit's activation."""
    maximum: float
    minimum: float
    other_side: NotRequired[bool]
    """The target is the other side of that output."""
    probability: NotRequired[float | None]
    """Of a class; null where the network gives values."""
    rectifications: int | None
    """guided: rectifications that the rule was applied to."""
    region_pixels: NotRequired[int | None]
    """Pixels of the network's answer that count."""
    target: int | UnitTarget
    """The class index, or the unit."""
    target_name: str | None
    """Name of the class, where it has one."""
    transform: dict[str, Any]


class SaliencyJob(TypedDict):
    """A job of saliency."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: SaliencyResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class SaliencyRequest(TypedDict):
    """Which target, by which method, with that method's parameters."""

    baseline: NotRequired[Literal["black", "mean", "blur"]]
    """integrated-gradients: black, the data set's mean colour, or the image blurred."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    mask: NotRequired[ImageRef | None]
    """An image of the upload's size, white where the class counts."""
    max_steps: NotRequired[int]
    """integrated-gradients: points of the last try."""
    method: NotRequired[
        Literal["gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients"]
    ]
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    noise: NotRequired[float]
    """smoothgrad, vargrad: standard deviation over (max − min)."""
    nonstandard_gate: NotRequired[bool]
    """guided: treat SiLU, GELU and their like as ReLUs."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    region: NotRequired[Literal["all", "predicted", "mask"] | Sequence[int] | None]
    """Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the white of the `mask`,
    `y,x` or `top,left,bottom,right` in pixels of the network's input.
    """
    samples: NotRequired[int]
    """smoothgrad, vargrad: noisy copies of the image."""
    seed: NotRequired[int]
    """Of everything random in the computation."""
    steps: NotRequired[int]
    """integrated-gradients: Gauss–Legendre points of the first try."""
    target: NotRequired[int | UnitTarget | str]
    """A class index, a class name, `predicted`, `-N` (the other side of output N, where each stands by itself), or a unit
    {layer, channel, y, x}.
    """
    tolerance: NotRequired[float]
    """integrated-gradients: completeness gap above which more steps are taken."""


class SaliencyResult(TypedDict):
    """The result of a job of saliency that succeeded."""

    arrays: dict[str, ArrayView]
    facts: SaliencyFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class ServerLive(TypedDict):
    """Whether the process answers."""

    live: NotRequired[bool]


class ServerMetadata(TypedDict):
    """The server as the protocol describes it."""

    extensions: NotRequired[list[str]]
    name: NotRequired[str]
    version: NotRequired[str]


class ServerReady(TypedDict):
    """Whether an inference request would be computed."""

    ready: NotRequired[bool]


class SilentChannelFacts(TypedDict):
    """Channels of one layer that never change over all images and positions."""

    channels: int
    died: list[int]
    """Silent in `other_model` only."""
    layer: str
    silent_in_both: int
    woke: list[int]
    """Silent in `model` only."""


class SumObjective(TypedDict):
    """A weighted sum of simple objectives."""

    sum: Sequence[WeightedObjective]


class SweptLayerFacts(TypedDict):
    """Facts of one layer, its channels in the order of the arrays."""

    channels: list[ChannelFacts]
    dead_channels: list[int]
    dead_share: float
    images: int
    layer: str
    projection: str
    shape: list[int]


class TensorView(TypedDict):
    """A tensor that a network takes or gives; −1 in its shape is any number."""

    datatype: str
    name: str
    shape: list[int]


class TopActivationsFacts(TypedDict):
    """Facts of top-activations."""

    aliases: NotRequired[dict[str, list[str]]]
    """Further names of the layers asked for, where the network's literature has some (`block1_conv1`)."""
    by: str
    caution: str | None
    """How not to read the projections."""
    groups: NotRequired[list[Group] | None]
    """Columns of `group_means`, where there are groups."""
    images: int
    """How many were looked at."""
    layers: list[SweptLayerFacts]


class TopActivationsJob(TypedDict):
    """A job of top-activations."""

    attempt: int
    """1 for the first; more after a worker died."""
    cached: bool
    """Answered from the store, where an identical request was computed before; its times are not told."""
    created_at: str
    error: ProblemDocument | None
    """Why it failed."""
    expires_at: str | None
    """When a finished job and its result are forgotten."""
    finished_at: str | None
    id: str
    labels: dict[str, str]
    links: dict[str, str]
    operation: str
    progress: ProgressView
    request: dict[str, Any]
    """The request with every default filled in."""
    result: TopActivationsResult | None
    started_at: str | None
    state: JobState
    timings_ms: dict[str, float | None]
    """queued, computed; rendered, where this process drew a picture of it."""
    workers_online: int
    """Live workers; without one, queued jobs wait."""


class TopActivationsRequest(TypedDict):
    """Which channels, how many of their strongest units, and what is shown of these."""

    by: NotRequired[Literal["max", "mean"]]
    """max: single units; mean: whole maps, which then count once an image."""
    channels: NotRequired[Sequence[int] | str]
    """Indices, `all` or `first:K`."""
    deadline_s: NotRequired[float | None]
    """Seconds from submission until the job expires."""
    groups: NotRequired[Sequence[str] | None]
    """A name for each image, in the images' order; the one word `folders`: that of the folder in which each image of the
    set lies. Then each channel tells which groups excite it most.
    """
    image: NotRequired[str | ImageRef | None]
    """One image, by its id or as an object."""
    image_range: NotRequired[Sequence[int] | str | None]
    """Which images of the set: `start:stop` or [start, stop], places from 0, half open."""
    image_set: NotRequired[str | None]
    """Id from POST /v1/image-sets, instead of images."""
    images: NotRequired[Sequence[str | ImageRef]]
    """Several images."""
    k: NotRequired[int]
    """How many of a channel's strongest units are kept."""
    labels: NotRequired[Mapping[str, str]]
    """Up to 16 short strings for the caller's own use; no part of the computation."""
    layer: NotRequired[str | None]
    """One layer; without it the last map before global pooling."""
    layers: NotRequired[Sequence[str] | None]
    """Several layers, in one sweep, or the one word `convolutions`."""
    model: NotRequired[str | None]
    """Catalogue id; without it the default network."""
    patches: NotRequired[bool]
    """Cut out of the images what the units see."""
    per_image: NotRequired[int]
    """Units of one image at most, for each channel."""
    precision: NotRequired[Literal["exact", "fast"]]
    """exact: float32; on a CPU the same bits alone, beside other requests and under any load, of workers with the same
    settings; on other devices ascents have the same bits, other operations the same numbers to the last digits. fast:
    the device's quicker arithmetic, as good, not the same bits.
    """
    preprocess: NotRequired[Preprocess | None]
    projection: NotRequired[Literal["deconvnet", "guided", "none"] | None]
    """What stands beside each patch. Default: deconvnet, guided for networks without max-pools, none where neither rule is
    defined or no patches are wanted.
    """
    seed: NotRequired[int]
    """Of everything random in the computation."""


class TopActivationsResult(TypedDict):
    """The result of a job of top-activations that succeeded."""

    arrays: dict[str, ArrayView]
    facts: TopActivationsFacts
    """Numbers that matter without opening an array."""
    pictures: list[PictureView]
    provenance: ProvenanceView


class UnitObjective(TypedDict):
    """One position of a channel's map."""

    unit: UnitTarget


class UnitTarget(TypedDict):
    """One unit of a layer: the value at (y, x) of a channel's map; without y and x, the map's mean."""

    channel: int
    layer: str
    x: NotRequired[int | None]
    y: NotRequired[int | None]


class UploadFacts(TypedDict):
    """A network that a caller brought, as callers see it."""

    bytes: int
    """Of its file."""
    created_at: str
    format: Literal["safetensors", "pt2"]
    own: bool
    """Whether the caller who asks brought it."""
    sha256: str
    """Of its file, hex."""
    updated_at: str
    visible_to: Literal["owner", "all"]


class WatchedUnit(TypedDict):
    """A map to watch: its total activation, or the value at (y, x)."""

    channel: NotRequired[int | None]
    """Without it the map strongest in total on the whole image."""
    layer: NotRequired[str | None]
    """Without it the last map before global pooling."""
    x: NotRequired[int | None]
    y: NotRequired[int | None]


class WeightedObjective(TypedDict):
    """One term of a sum; a negative weight minimizes."""

    of: ClassObjective | UnitObjective | DirectionObjective | ChannelObjective | LayerObjective
    weight: NotRequired[float]


class WrongAnswer(TypedDict):
    """An image that is answered wrongly."""

    image: int
    """Which image of the request, or of the range of the set."""
    predicted: int
    predicted_name: str
    probability: float | None
    """Of the predicted class."""
    truth: int
    truth_name: str


class Drawing(TypedDict, total=False):
    """How a picture is drawn; what is left out is as the operation draws it."""

    view: Literal["tiles", "picture", "overlay", "matrix", "pca", "lines"] | None
    """A default for each operation."""
    colormap: str | None
    """A name of the cmap catalogue; `_r` reverses."""
    normalize: Literal["map", "layer", "standard", "symmetric"] | None
    """map: each map by its own min and max; layer: all by the layer's; standard: mean 128, one standard deviation 64;
    symmetric: about zero.
    """
    columns: int | str | None
    """Tiles in a row: a number, or `LAYER:8,LAYER:16` where pictures of several layers differ."""
    scale: float | None
    """Pixels for each cell of a map; of an overlay, for each pixel of it."""
    title: Literal["none", "index", "mean", "max", "loss", "loss_last"] | None
    """The text above each tile."""
    alpha: float | None
    """Opacity of an overlay, 0 to 1."""
    blend: Literal["mix", "brightest"] | None
    """Of an overlay. mix: alpha of the colours; brightest: the same, scaled up to white."""
    pick: str | None
    """One picture, layer or item; without it all are stacked, up to 16."""
