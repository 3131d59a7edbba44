"""`atlas.json`: filters of a run, and all that the page `atlas.html` shows but pictures."""

from typing import Any, Literal, NotRequired, TypedDict

from repairkit.core.metric import MeasureFacts

SCHEMA = 1
KIND = "repairkit atlas"

PartOf = Literal["class", "group"]
"""What a set of images is: the images of one class, or those of one group."""
Sign = Literal["helps", "harms", "open"]
"""Whether an interval lies on the side of zero where a filter helps, on the other, or on both."""


class AtlasFigure(TypedDict):
    """A figure and its interval; null for what is not known."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


class WhyShown(TypedDict):
    """Why a filter was chosen, and its place: 1 is the most valuable or the most harmful one."""

    of: Literal["valuable", "harmful", "layer"]
    place: int


class SetOfImages(TypedDict):
    """The images of a class or of a group, and how many there are; null where that is not known."""

    kind: PartOf
    name: str
    n_images: int | None


class ForImages(SetOfImages):
    """What a filter is worth on some images: its value, or what freezing it alone changes."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    sign: Sign


class AtlasImage(TypedDict):
    """An image by its row in the data, and where in it the response peaks.

    `at` is the peak's place as shares of height and width. `box` holds the top, the left, the
    height and the width, in pixels, of the patch that this position sees.
    """

    row: int
    label: str | None
    group: str | None
    peak: float
    at: list[float]
    box: list[float]


class AtlasDream(TypedDict):
    """How the filter responds to its dream, beside real images and the dream of another filter."""

    response: float
    best_real: float | None
    excess: float | None
    control: float | None
    way: str


class AtlasConcept(TypedDict):
    """A concept that a filter detects best, as a dissection found it.

    `score` is the intersection over union with the concept's masks (`iou`), or the area under the
    curve of telling whole images of it from others (`auc`); `chance` is what such a score is where
    the filter tells nothing. `named` is true where it also stands out among random filters.
    """

    measure: Literal["iou", "auc"]
    concept: str
    score: float
    ci_low: float
    ci_high: float
    chance: float
    named: bool


class AtlasFilter(TypedDict):
    """A filter, why it is shown, and what is known of it.

    Attributes:
        filter: its name.
        site: its layer, by name.
        channel: its number there.
        kind: of the layer.
        layer: the layer's place, from 1.
        n_layers: of the model.
        n_channels: of the layer.
        place: in the order by value, from 1; the first has the highest value.
        why: it is shown; at least one reason.
        sign: of its value.
        values: by metric, with 95 % intervals.
        by: what it is worth on the images of each class and group, the surest first.
        effect: what freezing it alone changes in the first metric; null where not measured.
        map: height and width of its map of responses.
        sees: height and width in pixels of what a position sees; null where it sees the whole.
        most: the images that it responds to most.
        least: the images that it responds to least.
        response: the mean and the standard deviation over images of its mean response.
        classes: mean responses, of the classes with the highest and the lowest.
        groups: mean responses.
        responds_most_to: the class and the group of the highest mean response.
        dream: an image made to excite it; null without one.
        concepts: that it detects best; empty where none was looked for.
    """

    filter: str
    site: str
    channel: int
    kind: str
    layer: int
    n_layers: int
    n_channels: int
    place: int
    why: list[WhyShown]
    sign: Sign
    values: dict[str, AtlasFigure]
    by: list[ForImages]
    effect: AtlasFigure | None
    map: NotRequired[list[int]]
    sees: NotRequired[list[int] | None]
    most: NotRequired[list[AtlasImage]]
    least: NotRequired[list[AtlasImage]]
    response: NotRequired[dict[str, float]]
    classes: NotRequired[list[dict[str, Any]]]
    n_classes: NotRequired[int]
    groups: NotRequired[list[dict[str, Any]]]
    responds_most_to: list[SetOfImages]
    dream: AtlasDream | None
    concepts: list[AtlasConcept]


class SharedFilter(TypedDict):
    """The values of a filter for two sets of images, and of which of them it is.

    `sign_a` and `sign_b` are 1 where the value is surely above zero, -1 where it is surely below,
    else 0.
    """

    filter: str
    a: AtlasFigure
    b: AtlasFigure
    sign_a: int
    sign_b: int
    of: Literal["both", "a", "b", "neither"]


class SharedFilters(TypedDict):
    """Which filters serve two classes or groups: both, one of them, or neither.

    `below_a` and `below_b` count filters whose value is surely below zero; they are counted under
    `of` like all others.
    """

    a: SetOfImages
    b: SetOfImages
    confidence: float
    rule: str
    counts: dict[str, int]
    below_a: int
    below_b: int
    filters: list[SharedFilter]


class AtlasRun(TypedDict):
    """The run whose filters are shown."""

    path: str
    key: str
    method: str
    interval: str


class AtlasPlace(TypedDict):
    """A model or data, and its digest."""

    path: str
    digest: str


class AtlasImages(TypedDict):
    """The images of which the atlas tells: for responses, and for freezing filters one by one."""

    suite: str
    n_images: int
    n_effects: int


class AtlasDocument(TypedDict):
    """The whole of `atlas.json`.

    Attributes:
        schema: 1.
        kind: `repairkit atlas`.
        versions: of the packages.
        run: that was scored.
        model: that was scored.
        data: that it was scored on.
        metric: by which filters are ranked.
        valued: whether the ranking is by values for this metric; if not, by what the run's method
            gives instead, such as the size of weights.
        less_is_better: whether a filter of high value harms.
        measures: how the figures of each metric are to be understood.
        n_filters: that were scored.
        n_asked: for, of which `filters` holds as many as there are.
        images: that were looked at.
        sites: the names of all layers, in order.
        by_source: what the values by class and group are: `value`, or `effect` of freezing each
            filter alone.
        by_words: the same in words.
        shared: filters of two classes or groups; null where that is not known.
        shared_words: why it is not known; empty where it is.
        filters: from the most valuable to the most harmful.
        notes: what a reader must know.
        unit: what filters are called, where they are trees.
        layers: of the framework's model, where the run knew them.
    """

    schema: int
    kind: str
    versions: dict[str, str]
    run: AtlasRun
    model: AtlasPlace
    data: AtlasPlace
    metric: str
    valued: bool
    less_is_better: bool
    measures: dict[str, MeasureFacts]
    n_filters: int
    n_asked: int
    images: AtlasImages
    sites: list[str]
    by_source: Literal["value", "effect", "none"]
    by_words: str
    shared: SharedFilters | None
    shared_words: str
    filters: list[AtlasFilter]
    notes: list[str]
    unit: NotRequired[str]
    layers: NotRequired[dict[str, Any]]
