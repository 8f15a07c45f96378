"""The one typed schema: configuration files, command-line overrides and help are all this file.

Units and letters as everywhere in the project: boxes are (x, y, w, h) in crop pixels, B pairs, N proposals.
Numbers are the public defaults of ATOM (arXiv:1811.07628) and of the CFKD thesis (UCL 2020).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from configs.architectures import ARCHITECTURES
from configs.section import ArchitectureName, Count, Device, Few, Layer, Name, Section, Seed, Stem, Text, Weight
from configs.tracking import TrackingConfig

NetworkPart = Literal["backbone", "head"]
Regression = Literal["mse", "smooth_l1"]
Augmentation = Literal["brightness", "grey", "flip", "blur", "proposals"]


class ImageConfig(Section):
    """Geometry of one image of a pair: how large its crop is, and how its place is drawn."""

    size: int = Field(288, ge=32, le=4096, multiple_of=16, description="side of the square crop, in pixels")
    area_factor: float = Field(5.0, gt=1, le=100, description="side of the crop over sqrt(w*h) of the box it is centred on")
    scale_jitter: float = Field(0.0, ge=0, le=10, description="sigma of the log size of the box that the crop is centred on")
    center_jitter: float = Field(0.0, ge=0, le=100, description="range of the shift of the crop's centre, in sqrt(w*h)")


class SearchImageConfig(ImageConfig):
    """The test image, in which the target is searched: by default its crop is shifted and scaled at random."""

    scale_jitter: float = Field(0.5, ge=0, le=10, description="sigma of the log size of the box that the crop is centred on")
    center_jitter: float = Field(4.5, ge=0, le=100, description="range of the shift of the crop's centre, in sqrt(w*h)")


class PairsConfig(Section):
    """How a pair set is drawn and cut. Every field but the counts changes stored numbers, so all of it is cache identity."""

    count: Count = Field(32_000, description="pairs of the training split in the cache")
    val_count: Count = Field(3_200, description="pairs of the validation split in the cache")
    seed: Seed = Field(0, description="pair i is a pure function of (seed, split, i)")
    mode: Literal["interval", "causal"] = Field("interval", description="interval: test within max_gap of ref; causal: strictly after it")
    max_gap: Count = Field(50, description="largest distance of the two frames, in frames")
    min_frames: Count = Field(20, description="a shorter sequence is not used")
    min_visible: Count = Field(5, description="a sequence with fewer visible frames is not used")
    ref: ImageConfig = Field(default_factory=ImageConfig, description="the ref image, which shows the target")
    test: SearchImageConfig = Field(default_factory=SearchImageConfig, description="the test image, in which the target is searched")
    jpeg_quality: int = Field(95, ge=1, le=100, description="quality of the stored crops")
    grey_probability: float = Field(0.05, ge=0, le=1, description="probability that both images of a pair turn grey (training)")
    brightness: float = Field(0.2, ge=0, lt=1, description="each image is multiplied by U(1 - b, 1 + b) (training)")
    proposals: Few = Field(16, description="N, proposals a pair around the test box")
    proposal_sigmas: tuple[Annotated[float, Field(ge=0, le=10)], ...] = Field(
        (0.01, 0.05, 0.1, 0.2, 0.3), min_length=1, max_length=1000, description="one is picked for each proposal"
    )
    proposal_min_iou: float = Field(0.1, ge=0, lt=1, description="a proposal is accepted above this IoU with the test box")

    @property
    def images(self) -> tuple[ImageConfig, ImageConfig]:
        """(ref, test), in the order of every image axis."""
        return self.ref, self.test


class StudentConfig(Section):
    """The network that is trained."""

    architecture: ArchitectureName = Field("atom_mobilenetsmall", description=f"one of {', '.join(ARCHITECTURES)}")
    weights: Text | None = Field(
        None, description="null: random; imagenet: torchvision's backbone; or a file (safetensors, PyTorch, PyTracking) to start from"
    )


class TeacherConfig(Section):
    """The frozen network whose outputs are distilled."""

    architecture: ArchitectureName = Field("atom_resnet18", description="as the student's; ATOM teaches ATOM, DRNet teaches DRNet")
    weights: Text | None = Field(
        None, description="checkpoint file (make cache TEACHER=...); null: make cache takes the demo's, train the cache's"
    )
    name: Name | None = Field(None, description="name of its group in the cache; null: the architecture (train: else the only group)")
    batch: Few = Field(32, description="pairs a forward pass in precompute; never across a part boundary")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="autocast type of the teacher's forward pass")
    feature_bits: int | None = Field(
        None,
        ge=2,
        le=10,
        description="mantissa bits kept of the targets features and features_shallow, stored compressed (10: lossless);"
        " null: plain float16, not compressed",
    )


class Term(Section):
    """Base of the loss terms."""

    weight: Weight = Field(1.0, description="factor of the term in the objective")

    @model_validator(mode="before")
    @classmethod
    def _weight_alone(cls, value: Any) -> Any:
        """`fidelity: 100` is short for `fidelity: {weight: 100}`."""
        return {"weight": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class GroundTruthTerm(Term):
    """reg(student prediction, label): no teacher."""

    form: Regression = Field("smooth_l1", description="the regression")


class TeacherSoftTerm(Term):
    """reg(student prediction, teacher prediction) (TS)."""

    form: Regression = Field("smooth_l1", description="the regression; TSKD: mse")


class AdaptiveHardTerm(Term):
    """The ground-truth loss while the student is not clearly worse than the teacher (AH)."""

    form: Regression = Field("smooth_l1", description="the regression; TSKD: mse")
    threshold: float = Field(0.005, description="active while l_teacher - l_student is below it")


class FidelityTerm(Term):
    """reg of channel-summed absolute features, student against teacher, both images."""

    layers: tuple[Layer, ...] = Field(("layer2", "layer3"), min_length=1, description="layers it is summed over")
    form: Regression = Field("mse", description="the regression")


class ProjectedFidelityTerm(Term):
    """reg(P student features, teacher features) with a fixed 1x1 projection P (Wang et al., arXiv:1907.09831)."""

    layers: tuple[Layer, ...] = Field(("layer2", "layer3"), min_length=1, description="layers it is summed over")
    projection: Literal["fixed", "trained"] = Field("fixed", description="fixed: drawn once (public code); trained: needs whole features")
    seed: Seed = Field(0, description="of the drawn projection")


class CorrelationFilterTerm(Term):
    """MSE of the student's own correlation response against a Gaussian at the target (CF): no teacher."""

    layers: tuple[Layer, ...] = Field(("conv1", "layer1", "layer2", "layer3"), min_length=1, description="layers it is summed over")
    normalise: Literal["batch", "pair"] = Field(
        "batch", description="divide by the maximum over the batch (code) or over each pair (thesis)"
    )
    sigma: float = Field(0.15, gt=0, description="of the Gaussian, in map sides")


class TargetResponseTerm(Term):
    """Features weighted by the correlation response, student against teacher (TSKD, arXiv:1907.10586)."""

    layers: tuple[Layer, ...] = Field(("conv1", "layer1", "layer2", "layer3"), min_length=1, description="layers it is summed over")
    weights: Literal["correlation", "gaussian"] = Field("correlation", description="what the test features are weighted by")
    form: Regression = Field("mse", description="the regression")


class TrackingTerm(Term):
    """MSE of the student's DCF response against a Gaussian, every channel (Wang et al.): no teacher."""

    layers: tuple[Layer, ...] = Field(("layer1", "layer2", "layer3"), min_length=1, description="layers it is summed over")
    sigma: float = Field(0.25, gt=0, description="of the Gaussian, in map sides")
    regularisation: float = Field(1e-5, gt=0, description="added to the denominator of the filter")


class ClassifierTerm(Term):
    """MSE of the answer of a ridge classifier, learnt on the ref features, on the test features: what a tracker's classifier needs."""

    layers: tuple[Literal["layer2", "layer3"], ...] = Field(("layer2", "layer3"), min_length=1, description="layers it is summed over")
    wanted: Literal["label", "teacher"] = Field("label", description="label: a Gaussian at the target (no teacher); teacher: its answer")


class MutualStudentsTerm(Term):
    """TSsKD: two students teach each other; needs `second_student` (arXiv:1907.10586)."""

    dull: Weight = Field(1.0, description="factor of the dull student's share")
    intelligent: Weight = Field(0.5, description="factor of the intelligent student's share")
    decay: float = Field(0.9, gt=0, le=1, description="sigma = decay ** epoch while the student is close to the teacher")
    threshold: float = Field(0.005, description="close: l_student - l_teacher below it")


class Losses(Section):
    """The objective: each term that is not null is computed, weighted, logged by its name and summed. A name is that of a field here."""

    ground_truth: GroundTruthTerm | None = None
    teacher_soft: TeacherSoftTerm | None = None
    adaptive_hard: AdaptiveHardTerm | None = None
    fidelity: FidelityTerm | None = None
    projected_fidelity: ProjectedFidelityTerm | None = None
    correlation_filter: CorrelationFilterTerm | None = None
    target_response: TargetResponseTerm | None = None
    tracking: TrackingTerm | None = None
    classifier: ClassifierTerm | None = None
    mutual_students: MutualStudentsTerm | None = None

    @classmethod
    def sections(cls) -> dict[str, type[Term]]:
        """The section of every term, by name."""
        return {name: get_args(field.annotation)[0] for name, field in cls.model_fields.items()}

    def active(self) -> dict[str, Term]:
        """The terms that are on, by name, in the order of this schema."""
        return {name: term for name in type(self).model_fields if (term := getattr(self, name)) is not None}


class PhaseConfig(Section):
    """One stretch of a run with an objective and frozen parts of its own (setting sep)."""

    epochs: Count = Field(..., description="length of the phase; the learning-rate schedule starts anew")
    losses: Losses = Field(..., description="its objective")
    freeze: tuple[NetworkPart, ...] = Field((), description="parts whose parameters and BatchNorm stand still")


class TrainConfig(Section):
    """The loop."""

    batch: Few = Field(32, description="pairs a step, over all devices")
    epochs: Count = Field(50, description="epochs in all; of a setting with phases shared out among them in their proportions")
    batches: Count = Field(1000, description="steps an epoch")
    lr: float = Field(1e-2, gt=0, le=1e30, description="Adam's rate of the head")
    backbone_lr: float | None = Field(None, gt=0, le=1e30, description="Adam's rate of the backbone; null: the head's")
    lr_step: Count = Field(15, description="StepLR: epochs between two decays")
    gamma: float = Field(0.1, gt=0, le=1, description="StepLR: factor of a decay")
    val_every: Count = Field(5, description="epochs between two validations; the last epoch always has one")
    val_batches: Count = Field(500, description="batches of a validation, at most what the cache holds")
    freeze: tuple[NetworkPart, ...] = Field((), description="parts whose parameters and BatchNorm stand still")
    teacher: Literal["auto", "cached", "online"] = Field(
        "auto", description="where targets come from; auto: the cache where it may, else online"
    )
    augment: Literal["replay", "fresh", "none"] = Field(
        "replay", description="replay: the recorded photometry; fresh: new each epoch; none: plain crops"
    )
    fresh: tuple[Augmentation, ...] = Field(
        ("brightness", "grey", "flip", "blur", "proposals"),
        min_length=1,
        description="what fresh batches draw anew; the rest is replayed",
    )
    mix: float = Field(0.0, ge=0, le=1, description="share of the batches with fresh augmentation and the online teacher")
    proposals: Few | None = Field(
        None, description="proposals a pair that a step draws from those of the cache (pairs.proposals), anew each time; null: all"
    )
    check_pairs: int = Field(
        8,
        ge=0,
        lt=2**16,
        description="pairs recomputed with the live teacher before the first epoch, if its weights are at hand; 0: none is loaded for it",
    )
    seed: Seed = Field(0, description="of initialisation, order and fresh augmentation")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:n")
    caches: tuple[Text, ...] = Field(
        (),
        max_length=1000,
        description="names of caches to take where several fit, or though the data set's annotation has changed",
    )
    verify: bool = Field(True, description="check every part of a cache against its checksums before its first use in a run")
    feed: Literal["auto", "dali", "torch"] = Field("auto", description="auto: DALI where it is installed")
    feed_threads: Few | None = Field(None, description="decoder threads; null: all processors this process may use")
    shuffle_window: Few = Field(16, description="chunks of the cache that are shuffled together")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast of the student (losses stay float32)")
    channels_last: bool = Field(True, description="memory format of images and convolutions; false: contiguous")
    tf32: bool = Field(True, description="float32 convolutions of a GPU in TF32 (10 bits of mantissa); losses never are")
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile the step, students and losses; auto: where the run is long and a compiler is there"
    )
    cuda_graph: bool = Field(
        True, description="on a GPU, with one process: record a step once and replay it, instead of launching its kernels one by one"
    )
    refine_pairs: int = Field(
        256, ge=0, lt=2**31, description="validation pairs whose proposals are refined, for the refinement gain (of each process)"
    )
    checkpoint_every: Count = Field(1, description="epochs between two checkpoints; the last epoch always has one")
    checkpoint_minutes: float | None = Field(
        15.0, gt=0, le=1e6, description="a checkpoint within an epoch too, where the last one is older; null: none"
    )
    log_every: Count = Field(20, description="steps between two lines of metrics.jsonl")
    pictures: int = Field(4, ge=0, lt=2**16, description="pairs drawn into TensorBoard at every validation")
    track_every: int = Field(0, ge=0, lt=2**31, description="epochs between two trackings of validation sequences; 0: none")
    track_sequences: Few = Field(4, description="sequences that are tracked then, for AUC, AO and film strips in TensorBoard")
    name: Name | None = Field(None, description="folder of the run below runs/<setting>/; null: seed<seed>, with like=NAME NAME-seed<seed>")


class Config(Section):
    """One run, resolved: what `base:` files, the setting and the overrides give together."""

    setting: Stem = Field("", description="name of the setting (its file)")
    doc: str = Field("", description="one line on what the setting is")
    like: Text | None = Field(
        None,
        description="a setting whose data set, pair set, networks, budget and tracker are taken; of this one stay losses, phases, what is"
        " frozen and the networks that it states itself (like=demo: any setting at the demo's size)",
    )
    dataset: Text | None = Field(
        None,
        description="names of configs/datasets.yaml, separated by spaces: a mixture of equal probability; null: that of the only cache",
    )
    val_dataset: Text | None = Field(None, description="dataset of the validation; null: the same")
    cache_dir: Text = Field("caches", description="where caches are written and looked for (CACHE_DIR)")
    run_dir: Text = Field("runs", description="where runs are written (RUN_DIR)")
    pairs: PairsConfig = Field(default_factory=PairsConfig, description="the pair set")
    recut_pairs: int = Field(
        64,
        ge=0,
        lt=2**31,
        description="pairs of a cache that are cut again and compared, before it grows or a run starts, where the data set lies here;"
        " 0: the data set is not looked at",
    )
    memory_gb: float | None = Field(
        None, gt=0, le=1e6, description="GB that the teacher's work of make cache may hold; null: a quarter of what is free"
    )
    student: StudentConfig = Field(default_factory=StudentConfig, description="the network that is trained")
    second_student: StudentConfig | None = Field(None, description="the intelligent student of TSsKD")
    teacher: TeacherConfig | None = Field(None, description="the distilled network; null: none")
    losses: Losses = Field(default_factory=Losses, description="the objective")
    phases: tuple[PhaseConfig, ...] = Field(
        (), max_length=1000, description="if any, each with epochs, losses, freeze of its own: phases.0.epochs=1"
    )
    train: TrainConfig = Field(default_factory=TrainConfig, description="the loop")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="the online tracker that runs a network on video")

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        phases = self.phases_or_one()
        if not all(phase.losses.active() for phase in phases):
            raise ValueError("losses: expected at least one term, found none; add e.g. losses.ground_truth=1")
        for phase in phases:
            projects = phase.losses.projected_fidelity is not None and phase.losses.projected_fidelity.projection == "trained"
            if {*phase.freeze} == {*get_args(NetworkPart)} and not projects:
                raise ValueError("freeze: expected parameters left to train, found backbone and head frozen; free one of them")
        if self.train.batch < 2 and not all("head" in phase.freeze for phase in phases):
            raise ValueError("train.batch: expected at least 2 pairs for the head's BatchNorm, found 1; raise train.batch")
        mutual = any(phase.losses.mutual_students for phase in phases)
        if mutual != (self.second_student is not None):
            raise ValueError("losses.mutual_students and second_student need each other; set both or neither")
        if self.train.augment == "fresh" and self.train.teacher == "cached":
            raise ValueError(
                "train.augment=fresh clashes with train.teacher=cached: a cached target belongs to the recorded images;"
                " set train.teacher=auto or train.augment=replay"
            )
        if self.train.mix > 0 and self.train.teacher == "cached":
            raise ValueError(
                "train.mix > 0 clashes with train.teacher=cached: mixed batches are fresh and need the teacher; set train.teacher=auto"
            )
        if self.train.mix > 0 and self.train.augment != "replay":
            raise ValueError("train.mix > 0 clashes with train.augment other than replay: it is the share of fresh batches; set one")
        if (self.train.proposals or 0) > self.pairs.proposals:
            raise ValueError(
                f"train.proposals: expected at most the {self.pairs.proposals} that a cached pair has (pairs.proposals), found"
                f" {self.train.proposals}; lower it, or make a cache of more with pairs.proposals={self.train.proposals}"
            )
        return self

    def phases_or_one(self) -> tuple[PhaseConfig, ...]:
        """The phases of the run; without `phases`, the one that the plain fields describe."""
        return self.phases or (PhaseConfig(epochs=self.train.epochs, losses=self.losses, freeze=self.train.freeze),)
