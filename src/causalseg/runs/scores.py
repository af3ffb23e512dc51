"""The scores of a run: the content of eval.json, and what later scores are computed from.

Scores are in percent. A score that does not exist, such as the IoU of a class that a domain does
not have, is null. `docs/scores.md` says how each is computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from causalseg.config.backbone import Repair
from causalseg.config.block import Block
from causalseg.config.inference import InferenceConfig
from causalseg.errors import RunError
from causalseg.runs.folder import RunFolder
from causalseg.runs.seal import check_seal, sealing
from causalseg.writing import write_json

VERSION = 2  # in 1, `inference.size` was `resized_to`
CHOSEN_ON_TARGET = "checkpoint chosen on a target domain"
ADAPTED = "test-time adaptation with target images (without labels), not domain generalization"
MEAN = "mean"  # stands for the mean over domains where a domain is named

Value = float | None
Percent = Annotated[float, Field(ge=0, le=100)]
Interval = tuple[Percent, Percent]
ByClass = dict[str, Percent | None]
Row = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]


class ModelScored(Block):
    """What was scored."""

    backbone: str
    weights: str
    repair: Repair = "none"
    """Repair of the backbone's features."""
    adapter: str
    head: str
    trainable_parameters: int
    adapter_parameters: int | None = None
    """Those of the adapter; the others belong to the head."""


class Checkpoint(Block):
    """Which weights of the run were scored."""

    name: str
    """last: at the end of training; best: chosen by a metric; or a file or folder."""
    step: int | None = None
    """Training steps; null for last."""
    metric: str | None = None
    """Metric that best was chosen by."""
    value: Percent | None = None
    """Its value, as measured during training."""
    weights: str | None = None
    """SHA-256 of the head's weights at the end of training, in later evaluations of them."""
    allow_target: bool = False
    """Whether a metric of a target domain chose the weights or the end of training."""
    adapted: bool = False
    """Whether band gains were trained on target images without labels, by `causalseg adapt`."""


class Classes(Block):
    """A class list, in the order of train ids."""

    names: list[str]
    palette: list[tuple[int, int, int]]


class AppliedCorruption(Block):
    """The corruption of a domain."""

    name: str
    severity: Annotated[int, Field(ge=1, le=5)]
    clean: str | None
    """The domain of the same images without corruption; null if it was not scored."""


class Calibration(Block):
    """Confidence compared with accuracy, over all labelled pixels."""

    ece: Percent
    """Expected calibration error."""
    pixels: list[int]
    """Pixels in each bin; bins of equal width from confidence 0 to 1."""
    confidence: list[Percent | None]
    """Mean confidence of each bin."""
    accuracy: list[Percent | None]
    """Pixel accuracy of each bin."""
    aurc: Percent | None = None
    """Area under the risk-coverage curve; null in files of earlier versions."""


class PerImage(Block):
    """The counts of each image; the scores of any selection of images follow from them."""

    names: list[str]
    counts: list[Row]
    """For each image TP_1 .. TP_k FP_1 .. FP_k FN_1 .. FN_k, in pixels."""


class DomainScores(Block):
    """The scores of one domain."""

    images: int
    size: tuple[int, int] | None
    """Most common height and width of the labels."""
    split: str | None = None
    resized_to: list[int] | None = None
    """Height and width that the images are resized to, where the domain has its own."""
    fit_inside: list[int] | None = None
    """Height and width that the images are resized to fit inside, in proportion."""
    corruption: AppliedCorruption | None = None
    classes: Classes | None = None
    """Classes of the domain's labels, where they differ from the model's."""
    miou: Percent | None
    """Mean IoU over the classes that occur in the domain's labels."""
    miou_interval: Interval | None
    """95 % bootstrap interval of it over images."""
    miou_all: Percent | None
    """Mean IoU over all classes that occur or are predicted; one that never occurs counts 0."""
    classes_scored: int
    """Number of classes that occur."""
    accuracy: Percent | None
    """Fraction of labelled pixels whose class is right."""
    fwiou: Percent | None
    """Mean IoU weighted by how often a class occurs."""
    boundary_miou: Percent | None
    """Mean boundary IoU over the classes that occur."""
    iou: ByClass
    precision: ByClass
    recall: ByClass
    boundary_iou: ByClass | None
    pixels: dict[str, int]
    """Labelled pixels of each class."""
    confusion: list[Row] | None
    """Pixels by true class (rows) and predicted class; a last extra column holds predictions that
    map to no class of the domain."""
    calibration: Calibration | None
    fpr95: Percent | None = None
    """Known pixels in percent that are as unsure as 95 % of the unknown ones; null without such."""
    per_image: PerImage

    @property
    def ece(self) -> Percent | None:
        """Expected calibration error."""
        return self.calibration.ece if self.calibration else None

    @property
    def aurc(self) -> Percent | None:
        """Area under the risk-coverage curve."""
        return self.calibration.aurc if self.calibration else None

    def are_counts_complete(self, num_classes: int) -> bool:
        """Whether all counts belong to ``num_classes`` classes and to every image."""
        lengths = {row.count(" ") + 1 for row in self.per_image.counts}
        widths = {row.count(" ") + 1 for row in self.confusion or ()}
        return (
            len(self.per_image.names) == len(self.per_image.counts)
            and lengths <= {3 * num_classes}
            and widths <= {num_classes, num_classes + 1}
            and len(self.confusion or ()) in (0, num_classes)
        )


class Mean(Block):
    """The mean over domains."""

    miou: Percent | None
    interval: Interval | None
    over: list[str]


class Group(Block):
    """Domains and their mean mIoU."""

    miou: Percent | None
    domains: list[str]


class Degradation(Block):
    """The loss by one corruption."""

    corruption: str
    clean: str | None
    severities: list[int]
    miou: Percent | None
    """Mean over severities."""
    relative: float | None
    """Loss in percent of the clean domain's mIoU."""


class Robustness(Block):
    """Source, target and corrupted domains compared."""

    source: Group | None
    """In-distribution domains: not corrupted and not in the mean; null if there are none."""
    target: Group
    """Domains of the mean."""
    worst: str | None
    """The target domain with the lowest mIoU."""
    retention: float | None
    """Target mIoU in percent of source mIoU."""
    corruptions: list[Degradation]


def _read_earlier_names(how: Any) -> Any:
    """Rename `resized_to`, the earlier name of `size`."""
    if isinstance(how, Mapping) and "resized_to" in how:
        return {"size" if key == "resized_to" else key: value for key, value in how.items()}
    return how


class Scores(Block):
    """The content of eval.json."""

    version: Literal[1, 2]
    model: ModelScored
    checkpoint: Checkpoint | None = None
    classes: Classes
    domains: dict[str, DomainScores]
    mean: Mean
    robustness: Robustness
    inference: Annotated[InferenceConfig, BeforeValidator(_read_earlier_names)]
    """How images were predicted."""
    made_of: str
    overrides: list[str] | None = None
    """Overrides of config.yaml that the run was scored with."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name, domain in self.domains.items():
            k = len(self.classes_of(name).names)
            if not domain.are_counts_complete(k):
                raise ValueError(
                    f"the counts of domain {name!r} do not fit its {k} classes and "
                    f"{len(domain.per_image.names)} images"
                )
        if missing := [name for name in self.mean.over if name not in self.domains]:
            raise ValueError(f"the mean is over {missing[0]!r}, which was not scored")
        return self

    @property
    def is_adapted(self) -> bool:
        """Whether the model was adapted to target images."""
        return self.checkpoint is not None and self.checkpoint.adapted

    @property
    def mark(self) -> str:
        """How a target domain influenced the model, which every table must say; else empty."""
        is_chosen = self.checkpoint is not None and self.checkpoint.allow_target
        return "; ".join([ADAPTED] * self.is_adapted + [CHOSEN_ON_TARGET] * is_chosen)

    def describe_prediction(self) -> str:
        """Return how images were predicted, as a phrase for tables and reports."""
        repair = self.model.repair
        repaired = "" if repair == "none" else f", features repaired by {repair}"
        return self.inference.describe() + repaired

    def classes_of(self, domain: str) -> Classes:
        """Return the classes of a domain's labels."""
        scores = self.domains.get(domain)
        return (scores and scores.classes) or self.classes

    def miou_of(self, domain: str) -> Percent | None:
        """Return the mIoU in percent of a domain, or of `MEAN`; None if it was not scored."""
        if domain == MEAN:
            return self.mean.miou
        return self.domains[domain].miou if domain in self.domains else None

    def names_of(self, domains: Iterable[str]) -> list[list[str]]:
        """Return the image names of each domain."""
        return [self.domains[name].per_image.names for name in domains]


def read_scores(run: RunFolder) -> Scores:
    """Read eval.json. Raises MissingFileError, or RunError if it was changed or is older."""
    try:
        scores = Scores.model_validate(run.read_json(run.eval))
    except ValidationError as error:
        raise RunError(
            f"{run.eval} is not what this version of causalseg writes ({describe_mistake(error)}): "
            f"make it again with `causalseg eval {run.path}`"
        ) from error
    check_seal(run, run.eval)
    return scores


def write_scores(run: RunFolder, scores: Scores) -> None:
    """Write eval.json."""
    with sealing(run, run.eval):
        write_json(run.eval, scores.model_dump(mode="json", exclude_unset=True))


def describe_mistake(error: ValidationError) -> str:
    """Return where the first mistake is and what it is."""
    first = error.errors()[0]
    location = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{location}: {message}" if location else message


def size_text(size: Sequence[int]) -> str:
    """Return (H, W) as text, width first."""
    return f"{size[1]} × {size[0]}"
