"""What eval.json holds: the scores of a run, and everything that is computed from them later.

Scores are percent. A number that does not exist, such as the IoU of a class that a domain does not
have, is null. `docs/scores.md` says how each is computed.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from causalseg.config.block import Block
from causalseg.config.inference import InferenceConfig
from causalseg.errors import RunError
from causalseg.runs.folder import RunFolder
from causalseg.writing import write_json

VERSION = 2  # in 1, `inference.size` was `resized_to`
CHOSEN_ON_TARGET = "checkpoint chosen on a target domain"

Percent = Annotated[float, Field(ge=0, le=100)]
Interval = tuple[Percent, Percent]
Size = tuple[int, int]
ByClass = dict[str, Percent | None]
Row = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]


class ModelScored(Block):
    """What was scored."""

    backbone: str
    weights: str
    adapter: str
    head: str
    trainable_parameters: int
    adapter_parameters: int | None = None
    """Those of them that the adapter has; the others are the head's."""


class Checkpoint(Block):
    """Which weights of the run were scored."""

    name: str
    """last, those at the end of training; best, those chosen by a metric; or a file or folder."""
    step: int | None = None
    """Steps that they were trained for; null of last."""
    metric: str | None = None
    """What best was chosen by."""
    value: Percent | None = None
    """That metric of them, as measured during training."""
    allow_target: bool = False
    """Whether a metric of a target domain chose them, or the end of training."""


class Classes(Block):
    """A class list, in the order of train ids."""

    names: list[str]
    palette: list[tuple[int, int, int]]


class Corruption(Block):
    """What a corrupted domain is made of."""

    name: str
    severity: Annotated[int, Field(ge=1, le=5)]
    clean: str | None
    """The domain of the same images without corruption; null if it was not scored."""


class Calibration(Block):
    """Confidence against truth, over all labelled pixels."""

    ece: Percent
    """Expected calibration error."""
    pixels: list[int]
    """Pixels in each of the bins of equal width between confidence 0 and 1."""
    confidence: list[Percent | None]
    """Mean confidence of each bin."""
    accuracy: list[Percent | None]
    """Share of each bin's pixels whose class is right."""


class PerImage(Block):
    """What each image adds; scores of any selection of images follow from it."""

    names: list[str]
    counts: list[Row]
    """Of each image TP_1 .. TP_k FP_1 .. FP_k FN_1 .. FN_k, in pixels."""


class DomainScores(Block):
    """The scores of one domain."""

    images: int
    size: Size | None
    """Most common height and width of the labels."""
    split: str | None = None
    resized_to: list[int] | None = None
    """Height and width that the domain's images are resized to, where it has its own."""
    fit_inside: list[int] | None = None
    """Height and width that they are fit inside, in proportion."""
    corruption: Corruption | None = None
    classes: Classes | None = None
    """The classes of the domain's labels, where they are not the model's."""
    miou: Percent | None
    """Mean IoU over the classes that occur in the domain's labels."""
    miou_interval: Interval | None
    """95 % bootstrap interval of it over images."""
    miou_all: Percent | None
    """Mean IoU over all classes that occur or are predicted; one that never occurs counts 0."""
    classes_scored: int
    """Number of classes that occur."""
    accuracy: Percent | None
    """Share of labelled pixels whose class is right."""
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
    """Pixels by true class (rows) and predicted class; where classes of the model count as none of
    the domain's, these are one column more, the last."""
    calibration: Calibration | None
    per_image: PerImage


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
    """What one corruption costs."""

    corruption: str
    clean: str | None
    severities: list[int]
    miou: Percent | None
    """Mean over severities."""
    relative: float | None
    """Loss in percent of the clean domain's mIoU."""


class Robustness(Block):
    """How scores hold from domain to domain."""

    source: Group | None
    """Domains that the mean is not over and that are not corrupted; null if there are none."""
    target: Group
    """Domains that the mean is over."""
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


StoredInference = Annotated[InferenceConfig, BeforeValidator(_read_earlier_names)]
"""How images were predicted."""


class Scores(Block):
    """The content of eval.json."""

    version: Literal[1, 2]
    model: ModelScored
    checkpoint: Checkpoint | None = None
    classes: Classes
    domains: dict[str, DomainScores]
    mean: Mean
    robustness: Robustness
    inference: StoredInference
    made_of: str
    overrides: list[str] | None = None
    """What was given on top of config.yaml when the run was scored."""


def read_scores(run: RunFolder) -> dict[str, Any]:
    """Read eval.json of a run.

    Raises:
        MissingFileError: if it is not there.
        RunError: if it is broken or of another version.
    """
    content = run.read_json(run.eval)
    try:
        return Scores.model_validate(content).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise RunError(
            f"{run.eval} is not what this version of causalseg writes ({place}: {first['msg']}): "
            f"make it anew with `causalseg eval {run.path}`"
        ) from error


def write_scores(run: RunFolder, content: dict[str, Any]) -> None:
    """Write eval.json, after checking that it is what its schema says."""
    write_json(run.eval, Scores.model_validate(content).model_dump(mode="json", exclude_unset=True))


def is_chosen_on_target(scores: Mapping[str, Any]) -> bool:
    """Whether the weights scored owe something to a target domain: then no table may hide it."""
    return bool((scores.get("checkpoint") or {}).get("allow_target"))


def size_text(size: Sequence[int]) -> str:
    """Return (H, W) as people write it, width first."""
    return f"{size[1]} × {size[0]}"


def describe_domain(domain: Mapping[str, Any]) -> str:
    """Say what a domain is made of: images, sizes, split and corruption."""
    about = ["1 image" if domain["images"] == 1 else f"{domain['images']} images"]
    about += [f"{size_text(domain['size'])} px"] if domain["size"] else []
    about += [domain["split"]] if "split" in domain else []
    if "corruption" in domain:
        about.append("{name}, severity {severity}".format(**domain["corruption"]))
    if "resized_to" in domain:
        about.append(f"resized to {size_text(domain['resized_to'])} px")
    if "fit_inside" in domain:
        about.append(f"resized to fit inside {size_text(domain['fit_inside'])} px")
    return ", ".join(about)


def describe_domains(domains: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what each domain is made of, once of those that are alike but for the corruption."""
    alike: dict[str, list[str]] = {}
    for name, domain in domains.items():
        made = domain.get("corruption")
        full = f"{name} ({made['name']}, severity {made['severity']})" if made else name
        plain = {key: value for key, value in domain.items() if key != "corruption"}
        alike.setdefault(describe_domain(plain), []).append(full)
    return [
        f"{', '.join(names)}: {'each ' if len(names) > 1 else ''}{text}"
        for text, names in alike.items()
    ]


def describe_inference(stored: Mapping[str, Any]) -> str:
    """Say how images were predicted, from `inference` of an eval.json of any version."""
    return TypeAdapter(StoredInference).validate_python(stored).describe()
